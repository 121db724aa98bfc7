"""Gymnasium environments as a user writes them: one lane, `sample_tasks` and `set_task`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np


class Walk(gym.Env):
    """A random walk pushed by the action; ends at the task's limit, is truncated after `patience` steps.

    Observation: position, steps. Reward: the position, as drift plus the rest.
    """

    built: ClassVar[list[Walk]] = []
    num_modes = 2

    def __init__(self, patience: int = 6, fail: str = "") -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 3.0]), dtype=np.float64)
        self.patience, self.fail = patience, fail
        self.closed, self.steps, self.position, self.limit = False, 0, 0.0, 0.0
        self.actions: list[np.ndarray] = []
        self.seeds: list[int | None] = []
        self.built.append(self)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        return [{"mode": k % 2, "limit": limit} for k, limit in enumerate(rng.uniform(1, 3, n))]

    def set_task(self, task: dict[str, Any]) -> None:
        self._maybe_fail("set_task", task["limit"])
        self.limit = task["limit"]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self._maybe_fail("reset", self.limit)
        self.steps, self.position = 0, self.np_random.uniform(-0.1, 0.1)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._maybe_fail("step", self.limit)
        self.actions.append(action)
        self.steps += 1
        self.position += float(action[0]) + self.np_random.normal(scale=0.3)
        info = {"reward_drift": 0.5, "reward_rest": self.position - 0.5, "note": "not for arrays"}
        return self._observe(), self.position, abs(self.position) > self.limit, self.steps >= self.patience, info

    def close(self) -> None:
        self.closed = True
        self._maybe_fail("close", 9)

    def _observe(self) -> np.ndarray:
        return np.array([self.position, self.steps])

    def _maybe_fail(self, method: str, limit: float) -> None:
        if self.fail == method and limit > 2:
            raise ZeroDivisionError("as asked")


class Unbounded(Walk):
    """Unbounded actions, tasks that are numbers, splits of its own."""

    splits = ("train", "ood")

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return list(rng.normal(size=n))


class WholeNumbers(Walk):
    """Actions that are whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(np.array([-2, 0]), np.array([2, 9]), dtype=np.int64)


class Returns(gym.Env):
    """At every step of task 3 it returns `returns`."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    returns: ClassVar[tuple[Any, ...]] = ()

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[int]:
        return list(range(n))

    def set_task(self, task: int) -> None:
        self.task = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        good = (np.zeros(2), 1.0, False, False, {})
        return self.returns if self.task == 3 else good
