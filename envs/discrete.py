"""What families with a few discrete actions share: checked actions, random numbers of a step, what a grid is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from mmaml.envs.base import StepResult, Task, TaskVectorEnv

# Tiles of grids.
NORMAL, GOAL, TRANSPORTER, DEATH, ICE, ENERGY = TILES = range(6)


class Outcome(NamedTuple):
    """What a step of all lanes gave.

    rewards: the terms of the reward by name, "reward_…" [M·N]. terminated: bool [M·N]; None: no lane. success:
    bool [M·N]; None: the family defines none.
    """

    rewards: Mapping[str, np.ndarray]
    terminated: np.ndarray | None = None
    success: np.ndarray | None = None


class DiscreteFamily(TaskVectorEnv):
    """Actions 0 … num_actions − 1. A family implements `_advance` and what `TaskVectorEnv` leaves to it.

    task_of_lane: the index of the task of each lane, [M·N].
    """

    normalization_scale = None
    finite_horizon = True

    def __init__(
        self, num_tasks: int, rollouts_per_task: int, observation_space: gym.spaces.Box, num_actions: int
    ) -> None:
        super().__init__(num_tasks, rollouts_per_task, observation_space, gym.spaces.Discrete(num_actions))
        self.num_actions = num_actions
        self.task_of_lane = np.repeat(np.arange(num_tasks), rollouts_per_task)

    def step(self, actions: np.ndarray) -> StepResult:
        """As `TaskVectorEnv.step`; actions are integers [M·N]. Raises ValueError for one that there is not."""
        self._check_started()
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iu" or ((actions < 0) | (actions >= self.num_actions)).any():
            raise ValueError(f"actions: expected integers from 0 to {self.num_actions - 1}, got {actions}")
        outcome = self._advance(actions)
        infos = {name: term.astype(np.float32) for name, term in outcome.rewards.items()}
        reward = np.stack(list(infos.values())).sum(0)
        nowhere = np.zeros(self.num_envs, bool)
        terminated = nowhere.copy() if outcome.terminated is None else outcome.terminated
        if outcome.success is not None:
            infos["success"] = outcome.success
        return self._observe(), reward, terminated, nowhere, infos

    def _drawn(self, draw: Callable[[np.random.Generator, int], np.ndarray]) -> np.ndarray:
        """Random numbers of each lane [M·N, …]: of the N lanes of a task from the task's own generator.

        draw: takes a generator and N, and returns N of them.
        """
        return np.concatenate([draw(rng, self.rollouts_per_task) for rng in self.task_generators])

    @abstractmethod
    def _advance(self, actions: np.ndarray) -> Outcome:
        """Move all lanes by actions [M·N]. What is returned is in new arrays."""


class GridFamily(DiscreteFamily):
    """An agent on a board of size · size cells [x, y]."""

    size: int

    @abstractmethod
    def tiles(self, task: Task) -> np.ndarray:
        """The tile of each cell at the start of an episode, [size, size] by x and y."""

    @abstractmethod
    def cells(self, observations: np.ndarray) -> np.ndarray:
        """The cells of the agent [..., 2] that observations [..., O] show."""

    def cell_observations(self) -> np.ndarray | None:
        """What is observed in each cell, [size, size, O] by x and y; None where that is not all that is observed."""
        return None


def one_hot(indices: np.ndarray, size: int) -> np.ndarray:
    """Indices [L] below `size` as unit vectors, [L, size] float32."""
    vectors = np.zeros((len(indices), size), np.float32)
    vectors[np.arange(len(indices)), indices] = 1
    return vectors
