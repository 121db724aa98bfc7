"""Faults of families of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from mmaml.envs.base import Task, TaskVectorEnv
from tests.helpers.faulty_envs.sound import BOX, BlockSteps, SoundBlock

OBSERVATIONS = "observations: expected a float32 or float64 array of shape (6, 2)"


class BlockOfDoubles(SoundBlock):
    found = ()

    def _observe(self) -> np.ndarray:
        return self.state.astype(np.float64)


class BlockOfHalves(SoundBlock):
    found = tuple(f"e.{method}: {OBSERVATIONS}, got a float16 array of shape (6, 2)" for method in ("reset", "step"))

    def _observe(self) -> np.ndarray:
        return self.state.astype(np.float16)


class BlockOfOneShape(SoundBlock):
    found = tuple(f"e.{method}: {OBSERVATIONS}, got a float32 array of shape (6, 1)" for method in ("reset", "step"))

    def _observe(self) -> np.ndarray:
        return self.state[:, :1].copy()


class BlockOfDoubleRewards(BlockSteps):
    found = ("e.step: rewards: expected a float32 array of shape (6,), got a float64 array of shape (6,",)

    def changed(self, *values: Any) -> Any:
        return values[0], values[1].astype(np.float64), *values[2:]


class BlockOfListedEnds(BlockSteps):
    found = ("e.step: terminated: expected a bool array of shape (6,), got [",)

    def changed(self, *values: Any) -> Any:
        return *values[:2], values[2].tolist(), *values[3:]


class BlockOfFourValues(BlockSteps):
    found = ("e.step: expected five values (observation, reward, terminated, truncated, info), each of all",)

    def changed(self, *values: Any) -> Any:
        return *values[:3], values[4]


class BlockWithoutInfos(BlockSteps):
    found = ("e.step: infos: expected a dict, got None",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], None


class BlockOfSuccessRates(BlockSteps):
    found = ("e.step: infos['success']: expected a bool array of shape (6,), got a float64 array",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"success": values[2].astype(float)}


class BlockOfOneTerm(BlockSteps):
    found = ("w.step: infos['reward_mean']: expected an array of numbers of shape (6,), got np.float32(",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_mean": values[1].mean()}


class BlockOfMissingTerms(BlockSteps):
    found = ("w.step: info['reward_…']: expected terms that sum to the reward, got 1 for -",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_alive": np.ones(self.num_envs)}


class BlockOfInfiniteRewards(BlockSteps):
    found = ("e.step: reward: expected finite numbers, got -inf",)

    def changed(self, *values: Any) -> Any:
        return values[0], values[1] * np.float32(np.inf), *values[2:4], {}


class BlockOfOneArray(SoundBlock):
    """Returns its own state: later steps change it, and so does who receives it."""

    found = ("w.reset: returns an array (observation) that a later call changes",)

    def _observe(self) -> np.ndarray:
        return self.state


class BlockThatListens(SoundBlock):
    """Goes on from the array of rewards that it returned."""

    found = ("w: returns arrays that it goes on using: observation of step 1 differs once they are written ov",)

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
    found = ("w.reset: returns an array (observation) that cannot be written to",)

    def _observe(self) -> np.ndarray:
        observations = self.state.copy()
        observations.flags.writeable = False
        return observations


class BlockOfChangedActions(SoundBlock):
    found = ("w.step: changes the array of actions that it was given",)

    def step(self, actions: np.ndarray) -> Any:
        np.clip(actions, -1, 1, out=actions)
        return super().step(actions)


class BlockOfFreeActions(SoundBlock):
    found = ("w.step: does not clip actions to their bounds: observation of ",)

    def step(self, actions: np.ndarray) -> Any:
        values = super().step(actions)
        self.state[:, 0] += actions[:, 0]
        return values


class BlockOfOneGenerator(SoundBlock):
    found = ("e: depends on the other tasks of the block: observation of the reset",)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, self.task_generators[0])


class BlockThatResetsAll(SoundBlock):
    found = ('e.reset: changes lanes that are not in options["reset_mask"]',)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, task * self.rollouts_per_task + np.arange(self.rollouts_per_task), rng)


class BlockOfOwnRandomness(SoundBlock):
    found = ("w: gives other results for the same task, seed and actions: observation of the reset",)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, np.random.default_rng())


class BlockOfChangedTasks(SoundBlock):
    found = ("w.set_tasks: expected the task left as it was given, got Task(",)

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        super()._set_tasks(tasks)
        for task in tasks:
            task.values["seen"] = True  # type: ignore[index]


class BlockOfResets(SoundBlock):
    found = ("e.metadata['autoreset_mode']: expected AutoresetMode.DISABLED, got AutoresetMode.NEXT_STEP",)
    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}


class BlockWithoutBase(SoundBlock):
    found = ("e.num_envs: expected num_tasks × rollouts_per_task, got None for 3 × 2",)

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        pass


class BlockOfFewTasks(SoundBlock):
    found = ("e._draw_tasks: expected 3 tasks, got 1",)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return super()._draw_tasks(1, rng, split)


class BlockWithoutObserve(TaskVectorEnv):
    found = (
        "e._draw_tasks: is missing",
        "e._set_tasks: is missing",
        "e._reset_lanes: is missing",
        "e._observe: is missing",
        "e.step: is missing",
    )

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        spaces = BOX(-np.inf, np.inf, (2,), np.float32), BOX(-1, 1, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, *spaces)
