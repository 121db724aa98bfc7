"""Reads the values that `reset` and `step` of a `gymnasium.Env` return.

Sampling and the checks of environments both read them here, so that both accept the same. Every function returns the
value in the form that training uses, and raises Refused for one that training cannot use.
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
TRUTHS = (bool, np.bool_)
NUMBERS = (float, int, np.floating, np.integer, np.bool_)
SUCCESS = ("success", "is_success")  # the first that an info has is read


class Refused(UsageError):
    """What `reset` or `step` returned, or a part of it, cannot be used."""

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


def success(info: Mapping[Any, Any]) -> bool | None:
    """Whether the task is solved, by the info's "success" or "is_success"; None where it says nothing."""
    for key in SUCCESS:
        if key in info:
            return truth(f"info['{key}']", info[key])
    return None


class SuccessReports:
    """Whether an environment reports success: at every step or at none, so that the first step says it of all.

    always: whether it does; None before the first step.
    """

    def __init__(self) -> None:
        self.always: bool | None = None

    def note(self, entry: str, reported: bool) -> None:
        """Note whether a step reports success. entry: its name in a message. Raises Refused if others did otherwise."""
        if self.always is None:
            self.always = reported
        if self.always != reported:
            raise success_at_some_steps(entry, "at some")


def success_at_some_steps(entry: str, got: str) -> Refused:
    """What is wrong with success that is reported at some steps only. entry: of the info. got: at how many."""
    remedy = "report false until the task is solved"
    return Refused(entry, "", remedy, expected="at every step or at none", got=got)


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
