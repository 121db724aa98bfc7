"""Blocks of the families that need no physics engine, and actions for them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.registry import FAMILIES, make_family

POINT_MASS = [name for name, family in FAMILIES.items() if family.location.startswith("mmaml.envs.point_mass:")]
WITHOUT_PHYSICS = [name for name, family in FAMILIES.items() if not family.location.startswith("mmaml.envs.mujoco.")]


def block(name: str, num_tasks: int = 3, rollouts: int = 4, seed: int = 0, **env_kwargs: Any) -> TaskVectorEnv:
    """A family with tasks, not yet reset."""
    family = make_family(name, num_tasks, rollouts, **env_kwargs)
    family.set_tasks(family.sample_tasks(num_tasks, np.random.default_rng(seed)))
    return family


def random_actions(family: TaskVectorEnv, steps: int, seed: int = 1, spread: float = 0.12) -> np.ndarray:
    """[T, M·N, A]: a push of each lane's own plus jitter, so that lanes get far; some beyond the bounds.

    Of discrete actions, [T, M·N], any.
    """
    rng, space = np.random.default_rng(seed), family.single_action_space
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n, size=(steps, family.num_envs))
    push = rng.uniform(-0.1, 0.1, (family.num_envs, 2))
    return (push + rng.uniform(-spread, spread, (steps, family.num_envs, 2))).astype(np.float32)
