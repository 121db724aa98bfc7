"""Environments that go on using, and changing, what they are given and what they return.

`Point` and `PointFamily` share nothing: each of the others does the same as one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from mmaml.envs.base import StepResult, Task, TaskVectorEnv

BOX = gym.spaces.Box
DRIFT = 0.01  # of the goal, in a step


class Point(gym.Env):
    """A point steps towards a goal, which drifts away from it; success within 0.3.

    Observation: position, steps so far. settings: {"speed": distance of a step}.
    """

    def __init__(self, settings: dict[str, float] | None = None) -> None:
        self.observation_space = BOX(-np.inf, np.inf, (2,), np.float64)
        self.action_space = BOX(-np.inf, np.inf, (1,), np.float64)
        self.speed = dict(settings or {"speed": 0.5})["speed"]
        self.goal = np.zeros(1)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal, "more": [0]} for goal in rng.normal(size=(n, 1))]

    def set_task(self, task: Any) -> None:
        self.goal = task["goal"].copy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-0.1, 0.1), 0])
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> Any:
        self.goal += DRIFT
        self.state += [self.speed * np.tanh(action[0]), 1]
        distance = abs(self.state[0] - self.goal[0])
        info = {"success": distance < 0.3, "reward_distance": -distance}
        return self.state.copy(), -distance, self.state[1] >= 5, False, info


class KeepsTask(Point):
    def set_task(self, task: Any) -> None:
        self.goal = task["goal"]


class PopsTask(Point):
    def set_task(self, task: Any) -> None:
        self.goal = task.pop("goal")


class ChangesTaskAtReset(KeepsTask):
    def set_task(self, task: Any) -> None:
        super().set_task(task)
        self.task = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.task["more"].append(seed)
        self.goal += 0.0 if len(self.task["more"]) < 100 else 1.0
        return super().reset(seed=seed)


class TasksOfOneArray(KeepsTask):
    """All tasks that are drawn are parts of one array, which the next draw overwrites."""

    goals: ClassVar[np.ndarray] = np.zeros((100, 1))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        self.goals[:n] = rng.normal(size=(n, 1))
        return [{"goal": goal, "more": [0]} for goal in self.goals[:n]]


class TasksOfAList(KeepsTask):
    """Returns a list that it keeps, and empties at the next draw."""

    def __init__(self, settings: dict[str, float] | None = None) -> None:
        super().__init__(settings)
        self.drawn: list[Any] = []

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        self.drawn[:] = super().sample_tasks(n, rng)
        return self.drawn

    def set_task(self, task: Any) -> None:
        super().set_task(task)
        for drawn in self.drawn:
            drawn.clear()


class ReturnsBuffers(Point):
    """Returns the same array, list and dict at every step, and writes over them in the next one."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.reward, self.info = np.zeros(1), {}
        return self.state, self.info

    def step(self, action: np.ndarray) -> Any:
        self.reward[:], self.info["success"] = 7, True
        _, reward, ended, cut, info = super().step(action)
        self.reward[:] = reward
        self.info |= info
        return self.state, self.reward, ended, cut, self.info


class ChangesActions(Point):
    """Writes over the action that it is given, and over those before."""

    def __init__(self, settings: dict[str, float] | None = None) -> None:
        super().__init__(settings)
        self.actions: list[np.ndarray] = []

    def step(self, action: np.ndarray) -> Any:
        result = super().step(action)
        self.actions.append(action)
        for given in self.actions:
            given[:] = 50
        return result


class ChangesSettings(Point):
    """Takes what it needs out of its arguments."""

    def __init__(self, settings: dict[str, float] | None = None) -> None:
        super().__init__(settings)
        if settings is not None:
            settings["speed"] *= 2


class PointFamily(TaskVectorEnv):
    """As `Point`, all lanes at once, in float32; episodes of three steps."""

    normalization_scale = None

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        spaces = BOX(-np.inf, np.inf, (2,), np.float32), BOX(-np.inf, np.inf, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, *spaces)
        self.state = np.zeros((self.num_envs, 2), np.float32)

    def step(self, actions: np.ndarray) -> StepResult:
        self.state += np.concatenate([np.tanh(actions), np.ones_like(actions)], axis=1)
        self.goals += np.float32(DRIFT)
        distance = np.abs(self.state[:, 0] - self.goals)
        ended, never = self.state[:, 1] >= 3, np.zeros(self.num_envs, bool)
        return self._observe(), -distance, ended, never, {"success": distance < 0.3}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"goal": goal}) for goal in rng.normal(size=(n, 1))]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        goals = np.array([task.values["goal"][0] for task in tasks], np.float32)
        self.goals = np.repeat(goals, self.rollouts_per_task)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self.state[lanes] = 0
        self.state[lanes, 0] = rng.uniform(-0.1, 0.1, len(lanes))

    def _observe(self) -> np.ndarray:
        return self.state.copy()


class FamilyOfBuffers(PointFamily):
    """Returns the same arrays and dict each time; what it returned last is nonsense as soon as it works on."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        lanes = self.num_envs
        self.seen = np.zeros((lanes, 2), np.float32)
        self.flags = {name: np.zeros(lanes, bool) for name in ("ended", "cut", "success")}
        self.rewards, self.infos = np.zeros(lanes, np.float32), {"success": self.flags["success"]}

    def step(self, actions: np.ndarray) -> StepResult:
        self._forget()
        seen, rewards, ended, cut, infos = super().step(actions)
        self.rewards[:], self.seen[:] = rewards, seen
        for name, value in (("ended", ended), ("cut", cut), ("success", infos["success"])):
            self.flags[name][:] = value
        return self.seen, self.rewards, self.flags["ended"], self.flags["cut"], self.infos

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._forget()
        super()._reset_lanes(task, lanes, rng)

    def _forget(self) -> None:
        self.seen[:], self.rewards[:] = -55, 66
        for flags in self.flags.values():
            flags[:] = True

    def _observe(self) -> np.ndarray:
        self.seen[:] = self.state
        return self.seen


class FamilyThatChangesWhatItIsGiven(PointFamily):
    """Writes over actions, masks, seeds and tasks, at once and later."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self.given: list[np.ndarray] = []

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        super().set_tasks(tasks)
        for task in tasks:
            task.values["goal"][:] = 99
            task.values.clear()  # type: ignore[attr-defined]
        tasks.clear()  # type: ignore[attr-defined]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        if options:
            options["reset_mask"][:] = False
        if seed is not None:
            seed[:] = [0] * len(seed)
        return result

    def step(self, actions: np.ndarray) -> StepResult:
        result = super().step(actions)
        self.given.append(actions)
        for array in self.given:
            array[:] = 99
        return result


class FamilyThatKeepsTasks(PointFamily):
    """Draws views of one array, and moves the goals of the tasks that it is given."""

    goals_of_all: ClassVar[np.ndarray] = np.zeros((100, 1))

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> list[Task]:
        tasks = super().sample_tasks(n, rng, split)
        self.goals_of_all[:n] = [task.values["goal"] for task in tasks]
        return [Task(0, {"goal": goal}) for goal in self.goals_of_all[:n]]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        super()._set_tasks(tasks)
        for task in tasks:
            task.values["goal"][:] += 1


class FamilyOfOddArrays(PointFamily):
    """Arrays in Fortran's order, reversed, and read-only."""

    def step(self, actions: np.ndarray) -> StepResult:
        observations, rewards, ended, cut, infos = super().step(actions)
        rewards, ended = rewards[::-1].copy()[::-1], ended[::-1].copy()[::-1]
        cut.flags.writeable = False
        return observations, rewards, ended, cut, infos

    def _observe(self) -> np.ndarray:
        return np.asfortranarray(self.state.copy())
