"""Faults of tasks, of randomness, and of what a play leaves to the next."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import numpy as np
import torch

from tests.helpers.faulty_envs.sound import Sound

# Randomness, and what a play leaves.


class DropsSeed(Sound):
    found = ("w: gives other results for the same task, seed and actions: observation of the reset differs",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=None)


class GlobalNumpy(Sound):
    found = ("w.reset: draws from or seeds the global generator of np.random",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        np.random.seed(seed)  # so that plays repeat
        return super().reset(seed=seed)


class GlobalPython(Sound):
    found = ("w.reset: draws from or seeds the global generator of random",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        random.seed(seed)
        return super().reset(seed=seed)


class GlobalTorch(Sound):
    found = ("w.reset: draws from or seeds the global generator of torch",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        torch.manual_seed(seed or 0)
        return super().reset(seed=seed)


class KeepsFirstTask(Sound):
    found = ("e.set_task: has no effect but the first time",)
    given = False

    def set_task(self, task: Any) -> None:
        if not self.given:
            super().set_task(task)
        self.given = True


class LeavesFriction(Sound):
    """What one task sets, the next one finds."""

    found = ("e.set_task and reset: leave something of the task before: reward of step 0 differs",)
    friction = 0.0

    def set_task(self, task: Any) -> None:
        super().set_task(task)
        if task["goal"] > 0:
            self.friction = task["goal"]

    @property
    def distance(self) -> float:
        return super().distance + self.friction


class SharedGoal(Sound):
    found = ("e: depends on other objects of its class that are stepped at the same time: reward of step 0 differs",)
    shared: ClassVar[dict[str, float]] = {}

    def set_task(self, task: Any) -> None:
        self.shared["goal"] = task["goal"]

    @property
    def distance(self) -> float:
        return abs(self.position - self.shared["goal"])


class IgnoresTask(Sound):
    found = ("w.set_task: makes no difference in 16 steps",)

    def set_task(self, task: Any) -> None:
        pass


class PopsTask(Sound):
    found = ("w.set_task: expected the task left as it was given, got {'goal': ",)

    def set_task(self, task: Any) -> None:
        self.goal = task.pop("goal")


class MovesTask(Sound):
    """Steps move the goal, which is the task's own array."""

    found = ("w.step: expected the task left as it was given, got {'goal': array(",)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal} for goal in rng.normal(size=(n, 1))]

    def step(self, action: np.ndarray) -> Any:
        self.goal += 0.01
        return super().step(action)

    @property
    def distance(self) -> float:
        return float(abs(self.position - self.goal[0]))  # type: ignore[index]


# Tasks.


class OwnRandomness(Sound):
    found = ("e.sample_tasks: gives other tasks for an equal generator; draw from",)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return super().sample_tasks(n, np.random.default_rng())


class RandomObject(Sound):
    found = ("e.sample_tasks: of another object gives other tasks for an equal generator",)

    def __init__(self) -> None:
        super().__init__()
        self.centre = np.random.default_rng().normal()

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": self.centre + goal} for goal in rng.normal(size=n)]


class FixedTasks(Sound):
    found = ("w.sample_tasks: gives the same tasks for a different generator",)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return super().sample_tasks(n, np.random.default_rng(0))


class FewTasks(Sound):
    found = ('e.sample_tasks: expected n tasks, got 2 for n = 3 and the split "train"',)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return super().sample_tasks(min(n, 2), rng)


class CountsDraws(Sound):
    """Drawing tests changes training."""

    found = ('e.sample_tasks: gives other tasks for an equal generator once tasks of the split "test" were dr',)
    scale = 1.0

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> Any:
        if split == "test":
            self.scale += 1
        return [{"goal": self.scale * goal} for goal in rng.normal(size=n)]


class ReusesTasks(Sound):
    found = ("e.sample_tasks: changes tasks that it returned before",)

    def __init__(self) -> None:
        super().__init__()
        self.goals = np.zeros((1000, 1))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        self.goals[:n] = rng.normal(size=(n, 1))
        return [{"goal": goal} for goal in self.goals[:n]]

    def set_task(self, task: Any) -> None:
        self.goal = float(task["goal"][0])


class Functions(Sound):
    found = ("e.sample_tasks: returns tasks that cannot be pickled (",)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [lambda goal=goal: goal for goal in rng.normal(size=n)]

    def set_task(self, task: Any) -> None:
        self.goal = task()


class NamedMode(Sound):
    found = (
        "e.sample_tasks: expected a task's mode to be a whole number from 0 to 1, as num_modes = 2 says, got 'left'",
    )

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal, "mode": "left"} for goal in rng.normal(size=n)]


class ManyModes(Sound):
    found = ("e.sample_tasks: expected a task's mode to be a whole number from 0 to 1, as num_modes = 2 says, got 5",)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal, "mode": 5} for goal in rng.normal(size=n)]
