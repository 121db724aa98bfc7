"""The contract of a task family: M tasks x N rollouts stepped as one block of arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SPLITS = ("train", "test", "ood")


@dataclass(frozen=True)
class Task:
    """One task of a family. mode: which mode it was drawn from, for reporting only. values: e.g. {"goal": [x, y]}."""

    mode: int
    values: Mapping[str, Any]


class TaskError(RuntimeError):
    """A user's environment failed. task: position of its task in the block."""

    def __init__(self, message: str, task: int) -> None:
        super().__init__(message)
        self.task = task


def rescale_actions(
    actions: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float | None
) -> np.ndarray:
    """Policy actions in [-s, s] to environment units: low + (a + s)(high - low) / (2 s); unchanged if s is None.

    actions: [..., A] float32. Not clipped here: stepping clips.
    """
    if scale is None:
        return actions
    factor = ((high - low) / (2 * scale)).astype(np.float32)
    return actions * factor + (low + scale * factor).astype(np.float32)


class TaskVectorEnv(VectorEnv):
    """A family's M·N lanes, task-major (lane i belongs to task i // N), by Gymnasium's vector API.

    Nothing resets by itself (`AutoresetMode.DISABLED`): `reset(options={"reset_mask": mask})` starts new
    episodes in the lanes of the mask. A task's random numbers come from its own generator and are drawn
    in lane order, so a task's lanes never depend on which other tasks share the block.

    normalization_scale: the s of `rescale_actions` that the family's experiments use; None: actions as they are.
    num_modes: how many modes its tasks have.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
    normalization_scale: float | None = 10.0
    num_modes: int = 1
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __init__(
        self,
        num_tasks: int,
        rollouts_per_task: int,
        observation_space: gym.Space,
        action_space: gym.Space,
    ) -> None:
        self.num_tasks, self.rollouts_per_task = num_tasks, rollouts_per_task
        self.num_envs = num_tasks * rollouts_per_task
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self.task_generators = [np.random.default_rng() for _ in range(num_tasks)]
        self.tasks: list[Task] = []
        self._fresh = True

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> list[Task]:
        """n tasks of a split. The same state of `rng` gives different tasks in each split.

        Raises ValueError for a split that the family does not have.
        """
        if split not in self.splits:
            raise ValueError(f"split: expected one of {self.splits}, got {split!r}")
        child = np.random.default_rng([*rng.integers(0, 2**32, size=4), SPLITS.index(split)])
        return self._draw_tasks(n, child, split)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give every task of the block its values. A reset has to follow."""
        if len(tasks) != self.num_tasks:
            raise ValueError(f"tasks: expected {self.num_tasks}, one for each task of the block, got {len(tasks)}")
        self.tasks = list(tasks)
        self._set_tasks(self.tasks)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start episodes in all lanes, or in those of options["reset_mask"] (bool [M·N]).

        seed: one integer a task, or one from which each task's is derived; None: the generators go on.
        Returns the observations of all lanes, [M·N, O] float32. Without `set_tasks`, the first reset draws
        tasks by itself.
        """
        if seed is not None:
            keys = [[seed, task] for task in range(self.num_tasks)] if np.isscalar(seed) else list(seed)
            if len(keys) != self.num_tasks:
                raise ValueError(f"seed: expected one integer or one for each of {self.num_tasks} tasks, got {len(keys)}")
            self.task_generators = [np.random.default_rng(key) for key in keys]
        if not self.tasks:
            self.set_tasks(self.sample_tasks(self.num_tasks, self.task_generators[0]))
        mask = (options or {}).get("reset_mask")
        mask = np.ones(self.num_envs, bool) if mask is None or self._fresh else np.asarray(mask, bool)
        self._fresh = False
        lanes = mask.reshape(self.num_tasks, self.rollouts_per_task)
        for task in np.flatnonzero(lanes.any(1)):
            chosen = task * self.rollouts_per_task + np.flatnonzero(lanes[task])
            self._reset_lanes(int(task), chosen, self.task_generators[task])
        return self._observe(), {}

    @abstractmethod
    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        """n tasks from a generator that no other split sees."""

    @abstractmethod
    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        """Take over the tasks' values."""

    @abstractmethod
    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        """Start episodes in some lanes of one task. lanes: positions in the block."""

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """A fresh array of observations of all lanes, [M·N, O] float32."""


class SingleTaskEnv(gym.Env):
    """A family as an ordinary environment: one lane of one task, by Gymnasium's single-environment API.

    The task is options["task"] of `reset` (a `Task`), or else the one drawn at the first reset, from its
    seed. A reset with a seed draws a new task.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, family: TaskVectorEnv) -> None:
        self.family = family
        self.observation_space = family.single_observation_space
        self.action_space = family.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if task is None and (seed is not None or not self.family.tasks):
            task = self.family.sample_tasks(1, self.np_random)[0]
        if task is not None:
            self.family.set_tasks([task])
        observations, _ = self.family.reset(seed=int(self.np_random.integers(2**63)))
        return observations[0], {"mode": self.family.tasks[0].mode}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One time step."""
        observations, rewards, terminated, truncated, infos = self.family.step(np.asarray(action)[None])
        info = {name: value[0].item() for name, value in infos.items()}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info
