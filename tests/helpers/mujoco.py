"""Blocks of MuJoCo families: what to do in them, and putting one into a state of another."""

from __future__ import annotations

import numpy as np

from mmaml.envs.mujoco.base import MujocoFamily


def actions(family: MujocoFamily, steps: int) -> np.ndarray:
    """Actions [steps, M·N, A], some of them beyond the bounds."""
    family.action_space.seed(3)
    return np.stack([1.5 * np.asarray(family.action_space.sample()) for _ in range(steps)])


def put(family: MujocoFamily, other: MujocoFamily, lane: int) -> None:
    """Put the only lane of a block into the state of a lane of another."""
    family.qpos[0], family.qvel[0] = other.qpos[lane], other.qvel[lane]
