"""Checks of the arguments of task families."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def number(name: str, value: float, positive: bool = False) -> float:
    """A finite number of at least 0 (above 0 where `positive`), else ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
        if math.isfinite(value) and value >= 0 and (value > 0 or not positive):
            return value
    raise ValueError(f"{name}: expected a number {'above' if positive else 'of at least'} 0, got {value!r}")


def count(name: str, value: int, maximum: float = math.inf) -> int:
    """A whole number of at least 1 and at most `maximum`, else ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        bound = f" and at most {maximum}" if maximum < math.inf else ""
        raise ValueError(f"{name}: expected a whole number of at least 1{bound}, got {value!r}")
    return value


def interval(name: str, value: Sequence[float]) -> tuple[float, float]:
    """[low, high], two finite numbers with low <= high, else ValueError."""
    try:
        low, high = (float(bound) for bound in value)
    except (TypeError, ValueError):
        low, high = math.inf, -math.inf
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name}: expected [low, high] with low <= high, got {value!r}")
    return low, high


def whole_numbers(name: str, value: Sequence[int], low: int, high: int) -> np.ndarray:
    """One or more whole numbers from low to high, as an array, else ValueError."""
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    entries = list(value) if listed else []
    whole = all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries)
    if not entries or not whole or min(entries) < low or max(entries) > high:
        raise ValueError(f"{name}: expected a list of whole numbers from {low} to {high}, got {value!r}")
    return np.array(entries)


def flag(name: str, value: bool) -> bool:
    """True or false, else ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return value


def choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """One of `choices`, else ValueError."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")
    return value


def points(name: str, value: Sequence[Sequence[float]]) -> np.ndarray:
    """A list of [x, y], one per mode, as float64 [modes, 2], else ValueError."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected a list of [x, y], one per mode, got {value!r}")
    return array


def intervals(name: str, value: Sequence[Sequence[float]]) -> np.ndarray:
    """A list of [low, high] with low <= high, one per mode, as float64 [modes, 2], else ValueError."""
    try:
        array = points(name, value)
    except ValueError:
        array = np.array([[1.0, 0.0]])
    if (array[:, 0] > array[:, 1]).any():
        raise ValueError(f"{name}: expected a list of [low, high] with low <= high, one per mode, got {value!r}")
    return array


def unit_vectors(name: str, value: Sequence[Sequence[float]]) -> np.ndarray:
    """A list of [x, y] of length 1, one per mode, as float64 [modes, 2], else ValueError."""
    array = points(name, value)
    if not np.allclose(np.hypot(*array.T), 1):
        raise ValueError(f"{name}: expected vectors [x, y] of length 1, got {value!r}")
    return array
