"""Probe environments: task families whose right answers are known."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from mmaml.envs.base import Task, TaskError, TaskVectorEnv
from mmaml.errors import Interrupted


class TargetAction(TaskVectorEnv):
    """The reward of a step is -(a - m·g)² + c·m for the task's mode m ∈ {-1, 1}: the best action is m·g.

    The observation is 1 throughout. modes: how many modes; with one, m = 1.
    """

    normalization_scale = None

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        target: float = 0.7,
        modes: int = 1,
        signal: float = 0.0,
    ) -> None:
        observations = gym.spaces.Box(-1, 1, (1,), np.float32)
        actions = gym.spaces.Box(-10, 10, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observations, actions)
        self.target, self.num_modes, self.signal = target, modes, signal
        self._mode = np.ones(self.num_envs)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward = -((actions[:, 0] - self._mode * self.target) ** 2) + self.signal * self._mode
        never = np.zeros(self.num_envs, bool)
        return self._observe(), reward.astype(np.float32), never, never.copy(), {}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(k % self.num_modes, {"sign": 1.0 - 2 * (k % self.num_modes)}) for k in range(n)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._mode = np.repeat([task.values["sign"] for task in tasks], self.rollouts_per_task)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        pass

    def _observe(self) -> np.ndarray:
        return np.ones((self.num_envs, 1), np.float32)


class Wide(TargetAction):
    """Observations of `size` ones."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, size: int = 1) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        box = gym.spaces.Box(-1, 1, (size,), np.float32)
        TaskVectorEnv.__init__(self, num_tasks, rollouts_per_task, box, self.single_action_space)

    def _observe(self) -> np.ndarray:
        return np.ones((self.num_envs, *self.single_observation_space.shape), np.float32)  # type: ignore[misc]


class DelayedTarget(TargetAction):
    """Episodes of two steps: the second is rewarded for the first's action, -(a - g)²; observations 1, then 0."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self._first = np.zeros(self.num_envs)
        self._second_step = np.zeros(self.num_envs, bool)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        ends = self._second_step.copy()
        reward = np.where(ends, -((self._first - self.target) ** 2), 0.0)
        self._first, self._second_step = actions[:, 0].copy(), ~ends
        return self._observe(), reward.astype(np.float32), ends, np.zeros(self.num_envs, bool), {}

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._second_step[lanes] = False

    def _observe(self) -> np.ndarray:
        return (~self._second_step)[:, None].astype(np.float32)


class Endless(TaskVectorEnv):
    """Two actions without an effect, and a reward of 1 a step: its value is 1 / (1 - γ), wherever it is cut.

    Observation: one that is drawn, and the steps taken, in tens. limit: steps after which an episode is truncated, end:
    after which it terminates; 0: never. stops: probability of a termination at any step. finite: the horizon.
    """

    normalization_scale = None

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        limit: int = 0,
        end: int = 0,
        stops: float = 0.0,
        finite: bool = False,
    ) -> None:
        observations = gym.spaces.Box(-100, 100, (2,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observations, gym.spaces.Discrete(2))
        self.limit, self.end, self.stops, self.finite_horizon = limit, end, stops, finite
        self._age = np.zeros(self.num_envs, int)
        self._drawn = np.zeros(self.num_envs)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._age += 1
        chances = [rng.random((2, self.rollouts_per_task)) for rng in self.task_generators]
        self._drawn, chance = np.concatenate(chances, axis=1)
        terminated = (chance < self.stops) | (self._age == self.end)
        return self._observe(), np.ones(self.num_envs, np.float32), terminated, self._age == self.limit, {}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {}) for _ in range(n)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        pass

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._age[lanes], self._drawn[lanes] = 0, rng.random(len(lanes))

    def _observe(self) -> np.ndarray:
        return np.stack([self._drawn, self._age / 10], axis=1).astype(np.float32)


class RandomLengths(TaskVectorEnv):
    """Episodes of random length 1 … longest, a reward of 1 a step: an episode's return is its length.

    Observation: steps left, steps taken. fail_at: raise in this step of every episode (0: never).
    fail_task: raise when the task of this index is stepped. fail_on_rank: raise when made on this rank of mpirun.
    ragged: the tasks hold arrays of unlike shapes.
    """

    normalization_scale = None
    num_modes = 2

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        longest: int = 12,
        fail_at: int = 0,
        fail_task: int | None = None,
        fail_on_rank: int | None = None,
        ragged: bool = False,
    ) -> None:
        if os.environ.get("OMPI_COMM_WORLD_RANK") == str(fail_on_rank):
            raise RuntimeError("the probe fails as asked")
        observations = gym.spaces.Box(0, 1000, (2,), np.float32)
        actions = gym.spaces.Box(-10, 10, (2,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observations, actions)
        self.longest, self.fail_at, self.fail_task, self.ragged = longest, fail_at, fail_task, ragged
        self._clock = np.zeros((self.num_envs, 2))
        self._indices: list[int] = []

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._clock += [-1, 1]
        if self.fail_at and (self._clock[:, 1] == self.fail_at).any():
            raise RuntimeError("the probe fails as asked")
        if self.fail_task in self._indices:
            raise TaskError("the probe fails as asked", self._indices.index(self.fail_task))
        never = np.zeros(self.num_envs, bool)
        return self._observe(), np.ones(self.num_envs, np.float32), self._clock[:, 0] <= 0, never, {}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        shapes = [(1 + k % 2 if self.ragged else 1,) for k in range(n)]
        return [Task(k % 2, {"index": np.full(shape, k)}) for k, shape in enumerate(shapes)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._indices = [int(task.values["index"][0]) for task in tasks]

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._clock[lanes] = np.stack([rng.integers(1, self.longest + 1, len(lanes)), np.zeros(len(lanes))], axis=1)

    def _observe(self) -> np.ndarray:
        return self._clock.astype(np.float32)


class GoesWrong(TargetAction):
    """`TargetAction` in which some tasks go wrong at one step of one collection, in one lane where that can be said.

    fault: "reward" or "observation", which become `value`; "rewards", all of them at any time; "error", which names
    its task, "nameless error", "exit", "signal", "interrupt", "memory"; "shape", "type" or "nothing": what a step
    returns. An observation of step 0 is that of the reset. tasks: indices among the drawn tasks of those that go
    wrong, all when None, and of these only a share, drawn anew in each iteration. length: of episodes. refuses: raise
    when an action is not finite. crowd: how many tasks a block has to have for anything to go wrong.
    """

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        fault: str = "reward",
        value: str = "nan",
        tasks: Sequence[int] | None = None,
        share: float = 1.0,
        collection: int = 0,
        step: int = 0,
        lane: int = 0,
        length: int = 1000,
        refuses: bool = False,
        crowd: int = 1,
    ) -> None:
        super().__init__(num_tasks, rollouts_per_task, modes=2)
        self.fault, self.value, self.bad_tasks, self.share = fault, float(value), tasks, share
        self.moment = (collection, step)
        self.lane, self.length, self.refuses, self.crowd = lane, length, refuses, crowd
        self._bad: list[bool] = []
        self._now = [-1, 0]
        self._age = np.zeros(self.num_envs)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if options is None:
            self._now = [self._now[0] + 1, 0]
        return super().reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.refuses and not np.isfinite(actions).all():
            raise ValueError("the probe refuses actions that are not finite")
        wrong = self._wrong_lanes()
        _, reward, _, never, _ = super().step(np.nan_to_num(actions))
        if self.fault == "reward":
            reward[wrong] = self.value
        elif self.fault == "rewards":
            reward[np.repeat(self._bad, self.rollouts_per_task)] = self.value
        elif len(wrong):
            self._fail(int(wrong[0]) // self.rollouts_per_task)
        self._now[1] += 1
        self._age += 1
        observations: Any = self._observe()
        if len(wrong) and self.fault in ("shape", "type", "nothing"):
            observations = {"shape": observations[:, :0], "type": observations.astype(np.float16)}.get(self.fault)
        return observations, reward, self._age >= self.length, never, {}

    def _wrong_lanes(self) -> np.ndarray:
        """Lanes that go wrong now."""
        if tuple(self._now) != self.moment or self.num_tasks < self.crowd:
            return np.zeros(0, int)
        return np.flatnonzero(self._bad) * self.rollouts_per_task + self.lane

    def _fail(self, task: int) -> None:
        if self.fault == "error":
            raise TaskError("the probe fails as asked", task)
        text = "the probe fails\nas asked"
        errors = {
            "nameless error": RuntimeError(text),
            "exit": SystemExit(0),
            "signal": Interrupted(signal.SIGTERM),
            "interrupt": KeyboardInterrupt(text),
            "memory": MemoryError(text),
        }
        if self.fault in errors:
            raise errors[self.fault]

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        chosen = range(n) if self.bad_tasks is None else self.bad_tasks
        drawn = rng.random(n) < self.share
        tasks = super()._draw_tasks(n, rng, split)
        return [Task(task.mode, {**task.values, "bad": bool(k in chosen and drawn[k])}) for k, task in enumerate(tasks)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        super()._set_tasks(tasks)
        self._bad = [task.values["bad"] for task in tasks]
        self._now = [-1, 0]

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._age[lanes] = 0

    def _observe(self) -> np.ndarray:
        observations = super()._observe()
        if self.fault == "observation":
            observations[self._wrong_lanes()] = self.value
        return observations


class RightChoice(gym.Env):
    """Four actions, numbered from 5: the reward is 1 for action 7 and 0 for the others."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        self.action_space = gym.spaces.Discrete(4, start=5)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[int]:
        return [0] * n

    def set_task(self, task: int) -> None:
        pass

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        return np.ones(1, np.float32), float(action == 7), False, False, {}


class BlowsUp(TargetAction):
    """`TargetAction` whose first lane reports a blow-up, and ends, at each third step."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self._steps = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, reward, terminated, truncated, infos = super().step(actions)
        self._steps += 1
        terminated[0] = self._steps % 3 == 0
        return observations, reward, terminated, truncated, infos | {"blow_up": terminated.copy()}


class ScaledChoice(RightChoice):
    """Discrete actions, which nothing scales, with a scale."""

    normalization_scale = 2.0


class Still(TaskVectorEnv):
    """A family that is no point mass: nothing moves, nothing is rewarded."""

    splits = ("train", "test", "ood")

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        box = gym.spaces.Box(-1, 1, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, box, box)

    def step(self, actions: np.ndarray) -> Any:
        no = np.zeros(self.num_envs, bool)
        return self._observe(), np.zeros(self.num_envs, np.float32), no, no, {"success": ~no}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {}) for _ in range(n)]

    def _set_tasks(self, tasks: Any) -> None:
        pass

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        pass

    def _observe(self) -> np.ndarray:
        return np.zeros((self.num_envs, 1), np.float32)


class TrainsOnly(TargetAction):
    """A family without held-out tasks."""

    splits = ("train",)


class HeldOut(TargetAction):
    """A family without training tasks."""

    splits = ("test",)


class Dials(TargetAction):
    """A family whose actions nothing distributes."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        actions = gym.spaces.MultiDiscrete([2, 3])
        TaskVectorEnv.__init__(self, num_tasks, rollouts_per_task, gym.spaces.Box(-1, 1, (1,)), actions)


class DrawsBadly(TargetAction):
    """A family that draws what `drawn` makes of n tasks."""

    drawn: ClassVar[Callable[[list[Task]], Any]] = list

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> Any:
        return type(self).drawn(super()._draw_tasks(n, rng, split))


class Thing:
    """What NumPy holds only as an object, and pickle not at all."""

    def __init__(self, number: int | None) -> None:
        self.number, self.unpicklable = number, lambda: None

    def __repr__(self) -> str:
        if self.number is None:
            raise LookupError("no name")
        return f"Thing {self.number}"


class Oddities(TargetAction):
    """Held-out tasks with entries of all kinds. nameless: with a thing that cannot be shown."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, nameless: bool = False) -> None:
        super().__init__(num_tasks, rollouts_per_task, modes=2)
        self.nameless = nameless

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(k % 2, {"sign": 1.0, **(self._entries(k) if split == "test" else {})}) for k in range(n)]

    def _entries(self, k: int) -> dict[Any, Any]:
        entries: dict[Any, Any] = {"goal": [k, 0.5], "file": k, "args": "ab"[k % 2], 7: -k}
        entries |= {"unlike": list(range(k + 1)), "uneven": [[1], [k, 2]], "unlike things": [Thing(k)] * (k + 1)}
        entries |= {"thing": Thing(None if self.nameless else k), "nothing": None, "complex": 1j * np.ones(k + 1)}
        return entries | ({"odd": k} if k % 2 else {"even": k})
