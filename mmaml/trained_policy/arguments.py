"""What a user's loop hands to a trained policy: checked, and as tensors and arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mmaml.errors import UsageError


def checked_observations(observation: ArrayLike, size: int, n: int | None = None) -> tuple[Tensor, bool]:
    """[n, O], float64, and whether one was given as [O]. size: O. n: how many; any number when None.

    Raises UsageError, also for what float32 cannot hold.
    """
    try:
        array = np.array(observation, np.float64)  # a copy: environments write on in theirs
    except (TypeError, ValueError) as error:
        raise UsageError("observation", expected=f"numbers [{size}] or [n, {size}]", got=str(error)) from error
    single = array.ndim == 1
    array = array[None] if single else array
    if array.ndim != 2 or array.shape[1] != size or len(array) != (n or len(array)) or not len(array):
        got = list(array.shape[1:] if single else array.shape)
        raise UsageError("observation", expected=f"shape [{size}], or [{n or 'n'}, {size}]", got=f"{got}")
    _check_finite("observation", array)
    return torch.from_numpy(array), single


def checked_lanes(lanes: Sequence[int] | None, n: int) -> list[int]:
    """The numbers of the lanes of n observations, 0 … n-1 when None. Raises UsageError."""
    lanes = list(range(n)) if lanes is None else [int(lane) for lane in lanes]
    if len(lanes) != n or len({*lanes}) != n:
        raise UsageError("lanes", expected=f"{n} different numbers, one an observation", got=str(lanes))
    return lanes


def checked_numbers(name: str, value: ArrayLike, n: int, single: bool, or_one: bool = False) -> np.ndarray:
    """[n], finite. single: a number may be given. or_one: one number stands for all.

    Raises UsageError, also for what float32 cannot hold.
    """
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(name, expected="a number" if single else f"numbers [{n}]", got=str(error)) from error
    if array.size == 1 and (single or or_one):
        array = np.full(n, array.item())
    if array.shape != (n,):
        expected = "a number" if single else f"shape [{n}], one for each lane of the last act"
        raise UsageError(name, expected=expected, got=f"shape {list(array.shape)}")
    _check_finite(name, array)
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    """Raise UsageError unless numbers are finite in float32, in which they are computed with."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32))
    if not finite.all():
        raise UsageError(name, expected="finite numbers, as float32", got=str(array[~finite][0]))
