"""Faults of what an environment declares: signatures, spaces, attributes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from tests.helpers.faulty_envs.sound import BOX, Sound

# Signatures.


class NoRng(Sound):
    found = (
        "e.sample_tasks: expected sample_tasks(n, rng) or sample_tasks(n, rng, split), got sample_tasks(num_tasks)",
        "w.sample_tasks: gives the same tasks for a different generator",
    )

    def sample_tasks(self, num_tasks: int) -> Any:  # type: ignore[override]
        return [{"goal": float(k)} for k in range(num_tasks)]


class KeywordRng(Sound):
    found = ()

    def sample_tasks(self, n: int, *, rng: np.random.Generator) -> Any:  # type: ignore[override]
        return super().sample_tasks(n, rng)


class OtherOrder(Sound):
    found = ()

    def sample_tasks(self, n: int, split: str = "train", rng: Any = None) -> Any:  # type: ignore[override]
        return super().sample_tasks(n, rng)


class RngFirst(Sound):
    found = ()

    def sample_tasks(self, rng: Any, n: int) -> Any:  # type: ignore[override]
        return super().sample_tasks(n, rng)


class SetTaskOfTwo(Sound):
    found = ("e.set_task: expected set_task(task), got set_task(task, mode)",)

    def set_task(self, task: Any, mode: int) -> None:  # type: ignore[override]
        super().set_task(task)


class StepOfNothing(Sound):
    found = ("e.step: expected step(action), got step()",)

    def step(self) -> Any:  # type: ignore[override]
        return super().step(np.zeros(1))


class NoSeed(Sound):
    found = ("e.reset: expected reset(*, seed=None, options=None), got reset()",)

    def reset(self) -> Any:  # type: ignore[override]
        self.position, self.age = 0.0, 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.age += 1
        return self.observe(), -self.distance, self.age >= self.length, False, {}


class NoOptions(Sound):
    found = ("w.reset: expected reset(*, seed=None, options=None), got reset(seed=None)",)

    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


# Spaces and attributes.


class DictObservations(Sound):
    found = ("e.observation_space: expected a Box of numbers in one dimension, got Dict(",)

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Dict({"position": BOX(-1, 1, (1,), np.float32)})


class Image(Sound):
    found = (
        "e.observation_space: expected a Box of numbers in one dimension, got Box(0, 255, (2, 3), uint8); flatten",
    )

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(0, 255, (2, 3), np.uint8)

    def observe(self) -> Any:
        return np.zeros((2, 3), np.uint8)


class BoolObservations(Sound):
    found = (
        "e.observation_space: expected a Box of numbers in one dimension, got Box(False, True, (2,), bool); use a Box",
    )

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(0, 1, (2,), np.bool_)

    def observe(self) -> Any:
        return np.array([self.position > 0, True])


class ManyActions(Sound):
    found = ("e.action_space: expected a Box of numbers in one dimension, or Discrete, got MultiDiscrete([2 2])",)

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.MultiDiscrete([2, 2])


class WholeActions(Sound):
    found = ()

    def __init__(self) -> None:
        super().__init__()
        self.action_space = BOX(-2, 2, (1,), np.int64)


class AlmostUnbounded(Sound):
    found = ()
    normalization_scale = None

    def __init__(self) -> None:
        super().__init__()
        largest = float(np.finfo(np.float32).max)
        self.action_space = BOX(-largest, largest, (1,), np.float32)


class ScaleWithoutBounds(Sound):
    found = ("e.normalization_scale: expected None for an environment with unbounded actions, got 1.0",)
    normalization_scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.action_space = BOX(-np.inf, np.inf, (1,), np.float32)


class NoSpaces(Sound):
    found = (
        "e.observation_space: expected a Box of numbers in one dimension, got None; set it",
        "e.action_space: expected a Box of numbers in one dimension, or Discrete, got None; set it",
    )

    def __init__(self) -> None:
        self.goal = 0.0


class LateModes(Sound):
    found = ()

    def __init__(self) -> None:
        super().__init__()
        self.num_modes = 3


class TextHorizon(Sound):
    found = ("e.finite_horizon: expected True or False, got 'no'",)
    finite_horizon = "no"


class NoModes(Sound):
    found = ("e.num_modes: expected a whole number of at least 1, got 0",)
    num_modes = 0


class TextSplits(Sound):
    found = ("e.splits: expected some of ('train', 'test', 'ood'), in a tuple, got 'train'",)
    splits = "train"


class OtherSplits(Sound):
    found = ("e.splits: expected some of ('train', 'test', 'ood'), in a tuple, got ('train', 'validation')",)
    splits = ("train", "validation")


class OnlyTest(Sound):
    found = ("e.splits: expected \"train\" among them, got ('test',)",)
    splits = ("test",)


class OnlyTrain(Sound):
    found = ('w.splits: has no "test"',)
    splits = ("train",)
