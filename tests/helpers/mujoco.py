"""Blocks of MuJoCo families: what to do in them, and putting one into a state of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np

from mmaml.envs.base import Task
from mmaml.envs.mujoco.base import MujocoFamily

F = TypeVar("F", bound=MujocoFamily)


def given(family: F, *goals: Any) -> F:
    """The family with these goals, one a task, and its episodes begun."""
    family.set_tasks([Task(0, {"goal": goal}) for goal in goals])
    family.reset(seed=0)
    return family


def actions(family: MujocoFamily, steps: int) -> np.ndarray:
    """Actions [steps, M·N, A], some of them beyond the bounds."""
    family.action_space.seed(3)
    return np.stack([1.5 * np.asarray(family.action_space.sample()) for _ in range(steps)])


def put(family: MujocoFamily, other: MujocoFamily, lane: int) -> None:
    """Put the only lane of a block into the state of a lane of another."""
    family.qpos[0], family.qvel[0] = other.qpos[lane], other.qvel[lane]


def beside_gymnasium(
    family: MujocoFamily, env_id: str, steps: int, **env_arguments: Any
) -> Iterator[tuple[Any, tuple[Any, ...], tuple[Any, ...]]]:
    """Gymnasium's environment, what a step of it returns, and what the same step of a family's only lane returns.

    Both start from gymnasium's state and get the same random actions.
    """
    env: Any = gym.make(env_id, **env_arguments).unwrapped
    env.reset(seed=0)
    family.qpos[0], family.qvel[0] = env.data.qpos, env.data.qvel
    env.action_space.seed(1)
    for _ in range(steps):
        action = env.action_space.sample().astype(np.float32)
        yield env, env.step(action), family.step(action[None])
