"""The form of what a block of a `TaskVectorEnv` returns: arrays of all its lanes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmaml.envs.answers import NEW_API, STEP, TERM
from mmaml.envs.check.findings import Finding, error
from mmaml.envs.check.lane_values import of_sum
from mmaml.envs.shown import shown


def of_reset(name: str, shape: tuple[int, int], output: Any) -> list[Finding]:
    """name: the family's class. shape: [M·N, O] of observations. output: what its `reset` returned."""
    where = f"{name}.reset"
    if not isinstance(output, tuple | list) or len(output) != 2:
        return [error(where, expected="(observations, infos)", got=shown(output), remedy=NEW_API)]
    return [*_of_array(f"{where}: observations", output[0], shape, np.float32), *_of_infos(where, output[1])]


def of_step(name: str, shape: tuple[int, int], output: Any) -> list[Finding]:
    """As `of_reset`, for `step`."""
    where, lanes = f"{name}.step", shape[0]
    if not isinstance(output, tuple | list) or len(output) != 5:
        got = f"{len(output)} values" if isinstance(output, tuple | list) else shown(output)
        return [error(where, expected=f"five values {STEP}, each of all lanes", got=got, remedy=NEW_API)]
    observations, rewards, terminated, truncated, infos = output
    findings = [
        *_of_array(f"{where}: observations", observations, shape, np.float32),
        *_of_array(f"{where}: rewards", rewards, (lanes,), np.float32),
        *_of_array(f"{where}: terminated", terminated, (lanes,), np.bool_),
        *_of_array(f"{where}: truncated", truncated, (lanes,), np.bool_),
        *_of_infos(where, infos),
    ]
    if isinstance(infos, Mapping):
        for entry in ("success", "blow_up"):
            if entry in infos:
                findings += _of_array(f"{where}: infos['{entry}']", infos[entry], (lanes,), np.bool_)
        findings += _of_terms(where, lanes, rewards, infos)
    return findings


def _of_array(where: str, value: Any, shape: tuple[int, ...], dtype: type) -> list[Finding]:
    expected, remedy = f"a {np.dtype(dtype)} array of shape {shape}", "convert it within the class"
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
        return [error(where, expected=expected, got=shown(value), remedy=remedy)]
    return []


def _of_infos(where: str, infos: Any) -> list[Finding]:
    if isinstance(infos, Mapping):
        return []
    return [error(f"{where}: infos", expected="a dict", got=shown(infos), remedy="return {} for none")]


def _of_terms(where: str, lanes: int, rewards: Any, infos: Mapping[Any, Any]) -> list[Finding]:
    """The terms "reward_…" are numbers of all lanes and sum to the rewards."""
    terms = {key: value for key, value in infos.items() if str(key).startswith(TERM)}
    findings = []
    for key, value in terms.items():
        if not isinstance(value, np.ndarray) or value.shape != (lanes,) or value.dtype.kind not in "biuf":
            entry, expected = f"{where}: infos['{key}']", f"an array of numbers of shape ({lanes},)"
            remedy = 'report the term of each lane, or use a name that does not begin with "reward_"'
            findings.append(error(entry, expected=expected, got=shown(value), remedy=remedy))
    if findings or not terms or not isinstance(rewards, np.ndarray) or rewards.shape != (lanes,):
        return findings
    return of_sum(where, rewards, list(terms.values()))
