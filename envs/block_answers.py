"""Reads the values that `reset` and `step` of a `TaskVectorEnv` return, for sampling and for the checks of families.

As in `mmaml.envs.answers`, what training cannot use raises Refused. Arrays are copied: a family may go on using its
own. shape: of the observations of all lanes, [M·N, O].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmaml.envs.answers import NEW_API, RETURNED, STEP, SUCCESS, Refused
from mmaml.envs.base import StepResult
from mmaml.envs.shown import shown

BLOW_UP = "blow_up"
OBSERVED = (np.float32, np.float64)  # the latter for what changes less than float32 can hold


def of_reset(output: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The observations that `reset` returned, float32 or float64 [M·N, O]."""
    observations, _ = parts_of_reset(output)
    return array("observations", observations, shape, *OBSERVED)


def of_step(output: Any, shape: tuple[int, ...]) -> StepResult:
    """What `step` returned; of the infos, "success" and "blow_up", where there are such."""
    observations, rewards, terminated, truncated, infos = parts_of_step(output)
    lanes = shape[:1]
    return (
        array("observations", observations, shape, *OBSERVED),
        array("rewards", rewards, lanes, np.float32),
        array("terminated", terminated, lanes, np.bool_),
        array("truncated", truncated, lanes, np.bool_),
        read_infos(mapping(infos), lanes),
    )


def parts_of_reset(output: Any) -> tuple[Any, Any]:
    """(observations, infos) of what `reset` returned."""
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise Refused(RETURNED, "", NEW_API, expected="(observations, infos)", got=shown(output))
    return output[0], output[1]


def parts_of_step(output: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The five values of what `step` returned."""
    if not isinstance(output, tuple | list) or len(output) != 5:
        got = f"{len(output)} values" if isinstance(output, tuple | list) else shown(output)
        raise Refused(RETURNED, "", NEW_API, expected=f"five values {STEP}, each of all lanes", got=got)
    return tuple(output)  # type: ignore[return-value]


def array(name: str, value: Any, shape: tuple[int, ...], *dtypes: type) -> np.ndarray:
    """A copy of an array of this shape and one of these dtypes, in the order of C."""
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype not in dtypes:
        names = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
        expected, remedy = f"a {names} array of shape {shape}", "convert it within the class"
        raise Refused(name, "", remedy, expected=expected, got=shown(value))
    return np.array(value, order="C")


def mapping(infos: Any) -> Mapping[Any, Any]:
    """A dict."""
    if not isinstance(infos, Mapping):
        raise Refused("infos", "", "return {} for none", expected="a dict", got=shown(infos))
    return infos


def read_infos(infos: Mapping[Any, Any], lanes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The infos of a step that training reads, bool [M·N] each: "success", or else "is_success", and "blow_up"."""
    read: dict[str, np.ndarray] = {}
    for name in (*SUCCESS, BLOW_UP):
        ours = "success" if name in SUCCESS else name
        if name in infos and ours not in read:
            read[ours] = array(f"infos['{name}']", infos[name], lanes, np.bool_)
    return read
