"""A choice between a small reward now and a larger one later: which is better is decided by γ, and known."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.base import StepResult, Task, TaskVectorEnv

NOW, LATER = 0, 1
LATE_REWARD, DELAY = 2.0, 5
# The discount at which both are worth the same, R discounted over the delay being 1.
INDIFFERENT = LATE_REWARD ** (-1 / DELAY)


class NowOrLater(TaskVectorEnv):
    """Action 0 gives 1 and ends the episode; action 1 gives 2, five steps later. What is done meanwhile has no effect.

    Observation: the share of the way to the late reward, 0 at the start.
    """

    normalization_scale = None

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        observations = gym.spaces.Box(0, 1, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observations, gym.spaces.Discrete(2))
        self._time = np.zeros(self.num_envs, int)

    def step(self, actions: np.ndarray) -> StepResult:
        now = (self._time == 0) & (actions == NOW)
        late = self._time == DELAY
        self._time = self._time + 1
        rewards = (now + LATE_REWARD * late).astype(np.float32)
        return self._observe(), rewards, now | late, np.zeros(self.num_envs, bool), {}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {}) for _ in range(n)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        pass

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._time[lanes] = 0

    def _observe(self) -> np.ndarray:
        return (self._time[:, None] / DELAY).astype(np.float32)
