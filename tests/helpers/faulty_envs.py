"""Environments and families with one fault each, to be found by the examination; `Sound` and `SoundBlock` have none."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch

from mmaml.envs.base import StepResult, Task, TaskVectorEnv

BOX = gym.spaces.Box


class Sound(gym.Env):
    """A point steps towards a goal for twelve steps. Observation: position, steps so far."""

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


# Signatures.


class NoRng(Sound):
    def sample_tasks(self, num_tasks: int) -> Any:  # type: ignore[override]
        return [{"goal": float(k)} for k in range(num_tasks)]


class KeywordRng(Sound):
    def sample_tasks(self, n: int, *, rng: np.random.Generator) -> Any:  # type: ignore[override]
        return super().sample_tasks(n, rng)


class OtherOrder(Sound):
    def sample_tasks(self, n: int, split: str = "train", rng: Any = None) -> Any:  # type: ignore[override]
        return super().sample_tasks(n, rng)


class RngFirst(Sound):
    def sample_tasks(self, rng: Any, n: int) -> Any:  # type: ignore[override]
        return super().sample_tasks(n, rng)


class SetTaskOfTwo(Sound):
    def set_task(self, task: Any, mode: int) -> None:  # type: ignore[override]
        super().set_task(task)


class StepOfNothing(Sound):
    def step(self) -> Any:  # type: ignore[override]
        return super().step(np.zeros(1))


class NoSeed(Sound):
    def reset(self) -> Any:  # type: ignore[override]
        self.position, self.age = 0.0, 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.age += 1
        return self.observe(), -self.distance, self.age >= self.length, False, {}


class NoOptions(Sound):
    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


# Gymnasium's API.


class BareObservation(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class FourValues(Sound):
    def step(self, action: np.ndarray) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


# Spaces and attributes.


class DictObservations(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Dict({"position": BOX(-1, 1, (1,), np.float32)})


class Image(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(0, 255, (2, 3), np.uint8)

    def observe(self) -> Any:
        return np.zeros((2, 3), np.uint8)


class BoolObservations(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(0, 1, (2,), np.bool_)

    def observe(self) -> Any:
        return np.array([self.position > 0, True])


class ManyActions(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.MultiDiscrete([2, 2])


class WholeActions(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = BOX(-2, 2, (1,), np.int64)


class AlmostUnbounded(Sound):
    normalization_scale = None

    def __init__(self) -> None:
        super().__init__()
        largest = float(np.finfo(np.float32).max)
        self.action_space = BOX(-largest, largest, (1,), np.float32)


class ScaleWithoutBounds(Sound):
    normalization_scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.action_space = BOX(-np.inf, np.inf, (1,), np.float32)


class NoSpaces(Sound):
    def __init__(self) -> None:
        self.goal = 0.0


class LateModes(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.num_modes = 3


class TextHorizon(Sound):
    finite_horizon = "no"


class NoModes(Sound):
    num_modes = 0


class TextSplits(Sound):
    splits = "train"


class OtherSplits(Sound):
    splits = ("train", "validation")


class OnlyTest(Sound):
    splits = ("test",)


class OnlyTrain(Sound):
    splits = ("train",)


# What is returned.


class WrongShape(Sound):
    def observe(self) -> Any:
        return np.zeros(3, np.float32)


class Doubles(Sound):
    def observe(self) -> Any:
        return super().observe().astype(np.float64)


class Lists(Sound):
    def observe(self) -> Any:
        return super().observe().tolist()


class Text(Sound):
    def observe(self) -> Any:
        return "here"


class Outside(Sound):
    def observe(self) -> Any:
        return super().observe() + np.float32(200)


class Clock(Sound):
    """Seconds since 1970, in steps of 0.02 s."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(-np.inf, np.inf, (2,), np.float64)

    def observe(self) -> Any:
        return np.array([self.position, 1.7e9 + 0.02 * self.age])


class CoarseClock(Clock):
    """The same in float32, whose numbers are 128 apart there."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(-np.inf, np.inf, (2,), np.float32)

    def observe(self) -> Any:
        return super().observe().astype(np.float32)


class Pixels(Sound):
    """Pixels of 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(0, 255, (2,), np.uint8)

    def observe(self) -> Any:
        return np.array([100 + 50 * np.tanh(self.position), self.age % 256], np.uint8)


class Millimetres(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(-np.inf, np.inf, (2,), np.float32)

    def observe(self) -> Any:
        return np.array([2000 + self.position, self.age], np.float32)


class NotANumber(Sound):
    def observe(self) -> Any:
        return np.array([np.nan if self.age > 3 else 0, self.age], np.float32)


class InfiniteReward(Steps):
    def changed(self, observation: Any, reward: Any, *rest: Any) -> Any:
        return observation, np.inf if self.age == 5 else reward, rest[0], rest[1], {}


class ListedReward(Steps):
    def changed(self, observation: Any, reward: Any, *rest: Any) -> Any:
        return observation, np.array([reward]), *rest


class NoReward(Steps):
    def changed(self, observation: Any, reward: Any, *rest: Any) -> Any:
        return observation, None, *rest


class ListedEnd(Steps):
    def changed(self, observation: Any, reward: Any, terminated: Any, *rest: Any) -> Any:
        return observation, reward, [terminated], *rest


class EndOfAll(Steps):
    def changed(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return observation, reward, {"__all__": terminated}, truncated, info


class NoCut(Steps):
    def changed(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return observation, reward, terminated, None, info


class NoInfo(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], None


class TermOfText(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], values[4] | {"reward_type": "dense"}


class TermOfTwo(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], values[4] | {"reward_pair": np.zeros(2)}


class MissingTerm(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_alive": 1.0}


class RareTerm(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_all": values[1]} if self.age % 2 else {}


class SuccessOfText(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"success": "no"}


class LateSuccess(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"success": True} if values[2] else {}


class OtherSuccess(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"is_success": False}


class BlowUp(Steps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"blow_up": False}


# Randomness, and what a play leaves.


class DropsSeed(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=None)


class GlobalNumpy(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        np.random.seed(seed)  # so that plays repeat
        return super().reset(seed=seed)


class GlobalPython(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        random.seed(seed)
        return super().reset(seed=seed)


class GlobalTorch(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        torch.manual_seed(seed or 0)
        return super().reset(seed=seed)


class KeepsFirstTask(Sound):
    given = False

    def set_task(self, task: Any) -> None:
        if not self.given:
            super().set_task(task)
        self.given = True


class LeavesFriction(Sound):
    """What one task sets, the next one finds."""

    friction = 0.0

    def set_task(self, task: Any) -> None:
        super().set_task(task)
        if task["goal"] > 0:
            self.friction = task["goal"]

    @property
    def distance(self) -> float:
        return super().distance + self.friction


class SharedGoal(Sound):
    shared: ClassVar[dict[str, float]] = {}

    def set_task(self, task: Any) -> None:
        self.shared["goal"] = task["goal"]

    @property
    def distance(self) -> float:
        return abs(self.position - self.shared["goal"])


class IgnoresTask(Sound):
    def set_task(self, task: Any) -> None:
        pass


class PopsTask(Sound):
    def set_task(self, task: Any) -> None:
        self.goal = task.pop("goal")


class MovesTask(Sound):
    """Steps move the goal, which is the task's own array."""

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
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return super().sample_tasks(n, np.random.default_rng())


class RandomObject(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.centre = np.random.default_rng().normal()

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": self.centre + goal} for goal in rng.normal(size=n)]


class FixedTasks(Sound):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return super().sample_tasks(n, np.random.default_rng(0))


class FewTasks(Sound):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return super().sample_tasks(min(n, 2), rng)


class CountsDraws(Sound):
    """Drawing tests changes training."""

    scale = 1.0

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> Any:
        if split == "test":
            self.scale += 1
        return [{"goal": self.scale * goal} for goal in rng.normal(size=n)]


class ReusesTasks(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.goals = np.zeros((1000, 1))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        self.goals[:n] = rng.normal(size=(n, 1))
        return [{"goal": goal} for goal in self.goals[:n]]

    def set_task(self, task: Any) -> None:
        self.goal = float(task["goal"][0])


class Functions(Sound):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [lambda goal=goal: goal for goal in rng.normal(size=n)]

    def set_task(self, task: Any) -> None:
        self.goal = task()


class NamedMode(Sound):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal, "mode": "left"} for goal in rng.normal(size=n)]


class ManyModes(Sound):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal, "mode": 5} for goal in rng.normal(size=n)]


# Failures, and effects on the process.


class CannotBuild(Sound):
    def __init__(self) -> None:
        raise FileNotFoundError("no model")


class Raises(Sound):
    def step(self, action: np.ndarray) -> Any:
        if self.age == 5:
            raise ZeroDivisionError("as asked")
        return super().step(action)


class Exits(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        sys.exit("as asked")


class Prints(Sound):
    def step(self, action: np.ndarray) -> Any:
        print("a step of\nmany")
        return super().step(action)


class ChangesDirectory(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        os.chdir("/")
        return super().reset(seed=seed)


class StrictNumpy(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        np.seterr(all="raise")
        return super().reset(seed=seed)


class DoubleTorch(Sound):
    def __init__(self) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)


class NoGradients(Sound):
    def __init__(self) -> None:
        super().__init__()
        torch.set_grad_enabled(False)


class ManyThreads(Sound):
    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(torch.get_num_threads() + 1)


class TakesSignal(Sound):
    def set_task(self, task: Any) -> None:
        signal.signal(signal.SIGUSR2, lambda *_: None)
        super().set_task(task)


class CannotClose(Sound):
    def close(self) -> None:
        raise RuntimeError("as asked")


# Several faults at once.


class Everything(Sound):
    """Old Gym's API, a task that is changed, learn2learn's `sample_tasks`, and a term that is text."""

    def sample_tasks(self, num_tasks: int) -> Any:  # type: ignore[override]
        return [{"goal": float(k)} for k in range(num_tasks)]

    def set_task(self, task: Any) -> None:
        self.goal = task.pop("goal")

    def reset(self) -> Any:  # type: ignore[override]
        self.position, self.age = 0.0, 0
        return self.observe()

    def step(self, action: np.ndarray) -> Any:
        self.age += 1
        return self.observe(), -self.distance, self.age >= self.length, {}


# Families of arrays.


class SoundBlock(TaskVectorEnv):
    """Points step towards goals; an episode ends near its goal. Observation: position, steps so far."""

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


class BlockOfDoubles(SoundBlock):
    def _observe(self) -> np.ndarray:
        return self.state.astype(np.float64)


class BlockOfHalves(SoundBlock):
    def _observe(self) -> np.ndarray:
        return self.state.astype(np.float16)


class BlockOfOneShape(SoundBlock):
    def _observe(self) -> np.ndarray:
        return self.state[:, :1].copy()


class BlockOfDoubleRewards(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return values[0], values[1].astype(np.float64), *values[2:]


class BlockOfListedEnds(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return *values[:2], values[2].tolist(), *values[3:]


class BlockOfFourValues(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return *values[:3], values[4]


class BlockWithoutInfos(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], None


class BlockOfSuccessRates(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"success": values[2].astype(float)}


class BlockOfOneTerm(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_mean": values[1].mean()}


class BlockOfMissingTerms(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_alive": np.ones(self.num_envs)}


class BlockOfInfiniteRewards(BlockSteps):
    def changed(self, *values: Any) -> Any:
        return values[0], values[1] * np.float32(np.inf), *values[2:4], {}


class BlockOfOneArray(SoundBlock):
    """Returns its own state: later steps change it, and so does who receives it."""

    def _observe(self) -> np.ndarray:
        return self.state


class BlockThatListens(SoundBlock):
    """Goes on from the array of rewards that it returned."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self.rewards, self.is_new = np.zeros(self.num_envs, np.float32), np.ones(self.num_envs, bool)

    def step(self, actions: np.ndarray) -> Any:
        self.state[:, 0] += 0.01 * np.where(self.is_new, 0, self.rewards)
        values = super().step(actions)
        self.rewards, self.is_new[:] = values[1], False
        return values

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, rng)
        self.is_new[lanes] = True


class BlockReadOnly(SoundBlock):
    def _observe(self) -> np.ndarray:
        observations = self.state.copy()
        observations.flags.writeable = False
        return observations


class BlockOfChangedActions(SoundBlock):
    def step(self, actions: np.ndarray) -> Any:
        np.clip(actions, -1, 1, out=actions)
        return super().step(actions)


class BlockOfFreeActions(SoundBlock):
    def step(self, actions: np.ndarray) -> Any:
        values = super().step(actions)
        self.state[:, 0] += actions[:, 0]
        return values


class BlockOfOneGenerator(SoundBlock):
    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, self.task_generators[0])


class BlockThatResetsAll(SoundBlock):
    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, task * self.rollouts_per_task + np.arange(self.rollouts_per_task), rng)


class BlockOfOwnRandomness(SoundBlock):
    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, np.random.default_rng())


class BlockOfChangedTasks(SoundBlock):
    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        super()._set_tasks(tasks)
        for task in tasks:
            task.values["seen"] = True  # type: ignore[index]


class BlockOfResets(SoundBlock):
    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}


class BlockWithoutBase(SoundBlock):
    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        pass


class BlockOfFewTasks(SoundBlock):
    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return super()._draw_tasks(1, rng, split)


class BlockWithoutObserve(TaskVectorEnv):
    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        spaces = BOX(-np.inf, np.inf, (2,), np.float32), BOX(-1, 1, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, *spaces)
