"""Observations of no use to a network: what float32 cannot hold, and what saturates its units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs.answers import as_numbers
from mmaml.envs.check.findings import Finding, warning

WHOLE = 2.0**24  # from here on, float32 numbers are 2 or more apart
LARGE = 1e4  # a number from which on float32 loses what changes
FINEST = 1e-13  # a relative change in float64 that is more than rounding
USABLE = 1e3  # numbers beyond this saturate the units of a network whose weights begin about 1 or below
NORMALISE = 'set "normalize_observations": true'


def beyond_float32(where: str, space: Any, observations: Sequence[Any]) -> list[Finding]:
    """float32 observations so large that what changes may be lost before they are returned, normalised or not.

    where: in the finding. space: of the observations of one lane. observations: of one lane or a block, at some steps.
    """
    values = _arrays(observations)
    if values is None or values.dtype != np.float32:
        return []
    largest = _largest_of_entries(values, space)
    if not (largest >= WHOLE).any():
        return []
    entry = int(largest.argmax())
    apart = np.spacing(np.float32(largest[entry]))
    problem = f"entry {entry} is {largest[entry]:.4g} in float32, whose numbers are {apart:g} apart there"
    return [warning(where, problem, f"return float64 and {NORMALISE}, or subtract a constant")]


def unless_normalised(where: str, space: Any, observations: Sequence[Any]) -> list[Finding]:
    """The first thing that a run loses unless it normalises observations. Arguments as above."""
    values = _arrays(observations)
    return [] if values is None else [*_lost(where, space, values), *_unusable(where, space, values)][:1]


def _lost(where: str, space: Any, values: np.ndarray) -> list[Finding]:
    """A large number that changes a little, which float32 holds as one that does not change."""
    if len(values) < 2 or values.dtype == np.float32:
        return []
    largest, change = np.abs(values).max(0), np.ptp(values, axis=0)
    steps = np.spacing(largest.astype(np.float32)).astype(np.float64)
    lost = np.flatnonzero((largest > LARGE) & (change > FINEST * largest) & (change < 8 * steps))
    if not len(lost):
        return []
    index = lost[0]
    entry = index % _size(space, values)
    problem = f"entry {entry} changes by {change[index]:g} about {largest[index]:g}, which float32 cannot hold"
    return [warning(where, problem, f"{NORMALISE}, or subtract a constant")]


def _unusable(where: str, space: Any, values: np.ndarray) -> list[Finding]:
    """Numbers far from those that weights are made for, and images of 8 bits."""
    largest = _largest_of_entries(values, space)
    entry = int(largest.argmax())
    remedy = f"{NORMALISE}, or rescale them within the class"
    if largest[entry] > USABLE:
        return [warning(where, f"entry {entry} is as large as {largest[entry]:.4g}, which saturates a network", remedy)]
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.high.max() == 255:
        return [warning(where, "is of whole numbers from 0 to 255, which saturate a network", remedy)]
    return []


def _arrays(observations: Sequence[Any]) -> np.ndarray | None:
    """[n, …] of finite numbers in their dtype, whole ones as float64; None where they are no such arrays."""
    arrays = [as_numbers(observation) for observation in observations]
    found = [array for array in arrays if array is not None and array.size]
    if not found or len(found) < len(arrays) or len({array.shape for array in found}) > 1:
        return None
    values = np.stack(found)
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    return values.reshape(len(values), -1) if np.isfinite(values).all() else None


def _size(space: Any, values: np.ndarray) -> int:
    """O, where a block has O entries of each lane."""
    size = int(np.prod(space.shape)) if isinstance(space, gym.spaces.Box) else 0
    return size if size and values.shape[1] % size == 0 else values.shape[1]


def _largest_of_entries(values: np.ndarray, space: Any) -> np.ndarray:
    """[O], over steps and lanes."""
    return np.abs(values).reshape(-1, _size(space, values)).max(0).astype(np.float64)
