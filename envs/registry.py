"""The task families by name: a class and its arguments. Modes, goals and sizes are data here."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from typing import Any

import gymnasium as gym

from envs.base import SingleTaskEnv, TaskVectorEnv


class UnknownEnvironment(ValueError):
    """A name that is neither registered nor the place of a class."""


def _hexagon(radius: float) -> list[list[float]]:
    return [[radius * math.cos(k * math.pi / 3), radius * math.sin(k * math.pi / 3)] for k in range(6)]


def _corners(side: float) -> list[list[float]]:
    return [[-side, -side], [side, -side], [-side, side], [side, side]]


_MOMENTUM = "envs.point_mass:MomentumPointMass"
_NOISY = {"noise": 1.0, "reward_type": "dense"}
_CORNER = {"centers": _corners(2.0), "action_limit": 0.2, "radius": 0.5}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "MetaPointEnvMomentum": (_MOMENTUM, {"centers": _corners(2.0), "reward_type": "sparse"}),
    "MetaPointEnvMomentumSingleMode": (_MOMENTUM, {"centers": [[5, 5]]} | _NOISY),
    "MetaPointEnvMomentum2Modes": (_MOMENTUM, {"centers": [[-5, -5], [5, 5]]} | _NOISY),
    "MetaPointEnvMomentumModes": (_MOMENTUM, {"centers": _corners(5.0)} | _NOISY),
    "MetaPointEnvMomentum6Modes": (_MOMENTUM, {"centers": _hexagon(5.0), "deal": "round_robin"} | _NOISY),
    "MetaPointEnvCorner": ("envs.point_mass:CornerPointMass", _CORNER | {"reward_type": "sparse"}),
    "MetaPointEnvWalls": ("envs.point_mass:WallsPointMass", _CORNER | {"reward_type": "dense"}),
    "2DNavigation-v0": ("envs.point_mass:Navigation2D", {}),
}


def make_family(name: str, num_tasks: int = 1, rollouts_per_task: int = 1, **env_kwargs: Any) -> TaskVectorEnv:
    """The family `name`, or "package.module:ClassName", for M tasks with N lanes each.

    Raises UnknownEnvironment, or ValueError for arguments it does not take.
    """
    place, defaults = FAMILIES.get(name, (name, {}))
    cls = _load(place)
    if not issubclass(cls, TaskVectorEnv):
        from envs.adapter import GymTaskAdapter

        return GymTaskAdapter(cls, num_tasks, rollouts_per_task, **env_kwargs)
    accepted = [k for k, p in inspect.signature(cls).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for key in env_kwargs:
        if key not in accepted:
            raise ValueError(f"env_kwargs: '{name}' takes {accepted or 'no arguments'}, got '{key}'")
    return cls(num_tasks, rollouts_per_task, **(defaults | env_kwargs))


def check_family(name: str, env_kwargs: dict[str, Any]) -> None:
    """Raise UnknownEnvironment or ValueError, in one line, if `make_family` would fail."""
    make_family(name, 1, 1, **env_kwargs).close()


def _load(place: str) -> type:
    module_name, _, class_name = place.partition(":")
    if not class_name:
        near = difflib.get_close_matches(place, FAMILIES, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(FAMILIES)}"
        raise UnknownEnvironment(
            f"env: expected a task family or 'package.module:ClassName', got '{place}'{hint}"
        )
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UnknownEnvironment(
            f"env: '{place}' cannot be loaded ({error}); check the name, and that the package is installed or "
            "its folder on PYTHONPATH"
        ) from error


def _make_single(family: str, **env_kwargs: Any) -> gym.Env:
    return SingleTaskEnv(make_family(family, **env_kwargs))


def register_all() -> None:
    """Register every family with `gymnasium.make`, with "-v0" behind its name where it has no version."""
    for name in FAMILIES:
        env_id = name if name.endswith("-v0") else f"{name}-v0"
        if env_id not in gym.registry:
            gym.register(env_id, _make_single, kwargs={"family": name})
