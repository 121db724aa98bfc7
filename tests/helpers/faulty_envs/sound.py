"""Environments and families without a fault, and what those with one are made of.

found: how the lines of the examination's findings begin, "e" for an error and "w" for a warning, the name of the class
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from mmaml.envs.base import StepResult, Task, TaskVectorEnv

BOX = gym.spaces.Box


class Sound(gym.Env):
    """A point steps towards a goal for twelve steps. Observation: position, steps so far."""

    found: ClassVar[tuple[str, ...]] = ()  # by the examination
    num_modes = 2
    length = 12

    def __init__(self) -> None:
        self.observation_space: Any = BOX(-100, 100, (2,), np.float32)
        self.action_space: Any = BOX(-1, 1, (1,), np.float32)
        self.goal = 0.0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal, "mode": int(goal > 0)} for goal in rng.normal(size=n)]

    def set_task(self, task: Any) -> None:
        self.goal = task["goal"]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position, self.age = self.np_random.uniform(-0.1, 0.1), 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.position += float(action[0]) + self.np_random.normal(scale=0.1)
        self.age += 1
        info = {"reward_distance": -self.distance, "reward_alive": 1.0, "success": self.distance < 0.1}
        return self.observe(), 1 - self.distance, self.age >= self.length, False, info

    @property
    def distance(self) -> float:
        return abs(self.position - self.goal)

    def observe(self) -> Any:
        return np.array([self.position, self.age], np.float32)


class Steps(Sound):
    """Changes what `step` returns."""

    def changed(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        raise NotImplementedError

    def step(self, action: np.ndarray) -> Any:
        return self.changed(*super().step(action))


class SoundBlock(TaskVectorEnv):
    """Points step towards goals; an episode ends near its goal. Observation: position, steps so far."""

    found: ClassVar[tuple[str, ...]] = ()  # by the examination
    normalization_scale = 1.0

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        spaces = BOX(-np.inf, np.inf, (2,), np.float32), BOX(-1, 1, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, *spaces)
        self.state = np.zeros((self.num_envs, 2), np.float32)

    def step(self, actions: np.ndarray) -> StepResult:
        self.state += np.concatenate([0.1 * np.clip(actions, -1, 1), np.ones_like(actions)], axis=1)
        distance = np.abs(self.state[:, 0] - self.goals).astype(np.float32)
        ended, never = distance < 0.3, np.zeros(self.num_envs, bool)
        return self._observe(), -distance, ended, never, {"reward_distance": -distance, "success": ended.copy()}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"goal": goal}) for goal in rng.uniform(-1, 1, n)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self.goals = self._per_lane(tasks, "goal", ())

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self.state[lanes] = 0
        self.state[lanes, 0] = rng.uniform(-0.5, 0.5, len(lanes))

    def _observe(self) -> np.ndarray:
        return self.state.copy()


class BlockSteps(SoundBlock):
    """Changes what `step` returns."""

    def changed(self, *values: Any) -> Any:
        raise NotImplementedError

    def step(self, actions: np.ndarray) -> Any:
        return self.changed(*super().step(actions))
