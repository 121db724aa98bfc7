"""Spaces of observations and actions: which ones are taken, and how a policy's actions become an environment's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import gymnasium as gym
import numpy as np

from mmaml.envs.shown import shown
from mmaml.errors import ConfigError, UsageError

INFINITE = 1e30  # a bound beyond this is meant as none
BOX = "a Box of numbers in one dimension"


def is_flat_box(space: Any) -> bool:
    """Whether it is a Box of numbers in one dimension, with at least one entry."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0 and space.dtype != bool


def is_whole(space: gym.Space) -> bool:
    """Whether it is one of whole numbers."""
    return np.issubdtype(space.dtype, np.integer)


def refused_spaces(owner: str, observations: Any, actions: Any) -> list[UsageError]:
    """What is wrong with the spaces of `owner`, a class: observations have to be a Box, actions a Box or Discrete."""
    refused = []
    for kind, space in (("observation", observations), ("action", actions)):
        if is_flat_box(space) or (kind == "action" and isinstance(space, gym.spaces.Discrete)):
            continue
        expected = BOX if kind == "observation" else f"{BOX}, or Discrete"
        refused.append(
            UsageError(f"{owner}.{kind}_space", "", _remedy(kind, space), expected=expected, got=shown(space))
        )
    return refused


def _remedy(kind: str, space: Any) -> str:
    if space is None:
        return "set it in __init__"
    if isinstance(space, gym.spaces.Box) and space.dtype == bool:
        return "use a Box of np.float32" if kind == "observation" else "use Discrete, or a Box of np.float32"
    if kind == "observation":
        return "flatten observations, within the class or by gymnasium.wrappers.FlattenObservation"
    return "convert to one of them within the class"


def check_spaces(owner: str, observations: Any, actions: Any) -> None:
    """Raise ConfigError of "env" for the first thing that `refused_spaces` finds."""
    for refused in refused_spaces(owner, observations, actions):
        raise ConfigError("env", str(refused))


def without_huge_bounds(space: gym.Space) -> gym.Space:
    """The same space; a Box of real numbers with infinite bounds in place of those beyond ±1e30, such as float's."""
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    low, high = (
        np.where(np.abs(bounds) > INFINITE, np.copysign(np.inf, bounds), bounds) for bounds in (space.low, space.high)
    )
    if np.array_equal(low, space.low) and np.array_equal(high, space.high):
        return space
    return gym.spaces.Box(low, high, dtype=space.dtype.type)  # type: ignore[union-attr]


def rescale_actions(actions: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float | None) -> np.ndarray:
    """Policy actions in [-s, s] to environment units: low + (a + s)(high - low) / (2 s).

    actions: [..., A] float32, and so is the result, a new array. low, high: the bounds [A]. scale: s, or None for the
    actions as they are. Not clipped here: stepping clips. Raises ConfigError if a bound is infinite.
    """
    return _rescaling(low, high, scale)(actions)


def _rescaling(low: np.ndarray, high: np.ndarray, scale: float | None) -> Callable[[np.ndarray], np.ndarray]:
    if scale is None:
        return np.copy
    if np.issubdtype(low.dtype, np.integer):  # whose difference may be too large for its dtype
        low, high = low.astype(np.float64), high.astype(np.float64)
    factor = ((high - low) / (2 * scale)).astype(np.float32)
    if not np.isfinite(factor).all():
        raise ConfigError(
            "normalization_scale", expected="null for an environment with unbounded actions", got=str(scale)
        )
    offset = (low + scale * factor).astype(np.float32)
    return lambda actions: actions * factor + offset


def to_environment(actions: np.ndarray, space: gym.Space, scale: float | None) -> np.ndarray:
    """Convert policy actions [lanes, A] to those of the environment, in a new array.

    Box: `rescale_actions` by the scale, [lanes, A], rounded where the space is one of whole numbers. Discrete: the
    action of each one-hot vector, integers [lanes]. Raises ConfigError for a scale where actions are discrete.
    """
    return conversion(space, scale)(actions)


def conversion(space: gym.Space, scale: float | None) -> Callable[[np.ndarray], np.ndarray]:
    """`to_environment` for the many actions of one space, as a function of them."""
    if isinstance(space, gym.spaces.Box):
        rescaled = _rescaling(space.low, space.high, scale)
        return (lambda actions: np.rint(rescaled(actions))) if is_whole(space) else rescaled
    if scale is not None:
        raise ConfigError(
            "normalization_scale", expected="null for an environment with discrete actions", got=str(scale)
        )
    start = cast(gym.spaces.Discrete, space).start
    return lambda actions: start + actions.argmax(1)


def within(actions: np.ndarray, space: gym.Space) -> np.ndarray:
    """Actions in environment units as elements of the space: of its dtype, clipped to the bounds of a Box.

    A Box of whole numbers gets the nearest ones.
    """
    if not isinstance(space, gym.spaces.Box):
        return actions.astype(space.dtype, copy=False)
    clipped = np.clip(actions, space.low, space.high)
    if not is_whole(space):
        return clipped.astype(space.dtype, copy=False)
    with np.errstate(invalid="ignore"):
        whole = np.rint(clipped).astype(space.dtype)
    # As a real number, a bound of 64 bits is rounded, perhaps to one that its dtype does not hold.
    return np.where(clipped >= space.high, space.high, np.where(clipped <= space.low, space.low, whole))
