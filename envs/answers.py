"""What `reset` and `step` of a `gymnasium.Env` answer, as training takes it: each rule once, for sampling and checks.

What is not taken raises Refused. What is taken is copied, so that nobody's later changes reach the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mmaml.envs.shown import shown
from mmaml.errors import UsageError

RETURNED = "return value"
STEP = "(observation, reward, terminated, truncated, info)"
NEW_API = "return what Gymnasium's API says, which differs from old Gym's"
TERM = "reward_"
TRUTHS = (bool, np.bool_)
NUMBERS = (float, int, np.floating, np.integer, np.bool_)
SUCCESS = ("success", "is_success")  # the first that an info has is read


class Refused(UsageError):
    """An answer, or a part of it, that training cannot take."""

    def in_method(self, method: str) -> Self:
        """The same, of what `method` returned."""
        return self.renamed(method if self.argument == RETURNED else f"{method}: {self.argument}")


def of_reset(output: Any) -> tuple[Any, Any]:
    """(observation, info) of what `reset` returned."""
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise Refused(RETURNED, "", NEW_API, expected="(observation, info)", got=form(output))
    return output[0], output[1]


def of_step(output: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The five values of what `step` returned."""
    if not isinstance(output, tuple | list) or len(output) != 5:
        raise Refused(RETURNED, "", NEW_API, expected=f"five values {STEP}", got=form(output))
    return tuple(output)  # type: ignore[return-value]


def form(output: Any) -> str:
    """How many values there are, where that is what is wrong with them."""
    if not isinstance(output, tuple | list):
        return shown(output)
    if len(output) == 4:
        return "4 values, as in old Gym (observation, reward, done, info)"
    return f"{len(output)} value{'s' if len(output) != 1 else ''}"


def observation(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Real numbers of the shape of the observation space; any dtype, lists too."""
    array = as_numbers(value)
    if array is None:
        raise Refused("observation", expected="an array of numbers", got=shown(value))
    if array.shape != shape:
        expected, remedy = f"shape {shape}, as its space says", "return what the space describes"
        raise Refused("observation", "", remedy, expected=expected, got=f"shape {array.shape}")
    return array


def reward(value: Any) -> float:
    """A real number, or an array or list that holds one."""
    number = one_number(value)
    if number is None:
        raise Refused("reward", "", "return float(reward)", expected="a number", got=shown(value))
    return number


def truth(name: str, value: Any) -> bool:
    """True or false, as a bool, as 1 or 0, or as an array of one of these; no list, no dict, nothing else."""
    if isinstance(value, TRUTHS):
        return bool(value)
    number = None if isinstance(value, list | tuple) else one_number(value)
    if number not in (0.0, 1.0):
        raise Refused(name, "", "return a bool", expected="true or false", got=shown(value))
    return number == 1.0


def mapping(value: Any) -> Mapping[Any, Any]:
    """A dict."""
    if not isinstance(value, Mapping):
        raise Refused("info", "", "return {} for none", expected="a dict", got=shown(value))
    return value


def terms(info: Mapping[Any, Any]) -> dict[str, float]:
    """The terms of a reward: numbers under names that begin with "reward_". What else has such a name is left out."""
    found = {}
    for key, value in info.items():
        if isinstance(key, str) and key.startswith(TERM):
            number = one_number(value)
            if number is not None:
                found[key] = number
    return found


def success(info: Mapping[Any, Any]) -> bool | None:
    """Whether the task is solved, by the info's "success" or "is_success"; None where it says nothing."""
    for key in SUCCESS:
        if key in info:
            return truth(f"info['{key}']", info[key])
    return None


def one_number(value: Any) -> float | None:
    """It as a real number, where it is one or an array or list that holds one; else None."""
    if isinstance(value, NUMBERS):
        try:
            return float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return None
    array = as_numbers(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def as_numbers(value: Any) -> np.ndarray | None:
    """It as an array of real numbers; None where it is none."""
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists, or a user's __array__
        return None
    return array if array.dtype.kind in "biuf" else None
