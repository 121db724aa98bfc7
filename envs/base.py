"""The contract of a task family: M tasks × N rollouts, stepped together as one block of arrays."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mmaml.envs.ownership import own_task
from mmaml.envs.process_state import CodeSettings, running
from mmaml.envs.shown import shown
from mmaml.envs.spaces import check_spaces, without_huge_bounds
from mmaml.errors import UsageError

if __name__ != "mmaml.envs.base":  # as `envs.base` it would be another module, with other classes
    raise ImportError("the toolkit's envs.base is imported as mmaml.envs.base", name=__name__)

SPLITS = ("train", "test", "ood")
WRITE_IT = "write it as mmaml.envs.base.TaskVectorEnv says"
# What a step of a block returns: observations, rewards, terminated, truncated, infos.
StepResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """One task of a family.

    mode: index of the mode it was drawn from, for reporting only. values: what distinguishes it from the family's other
    tasks, e.g. {"goal": [x, y]}. identity: its index in a finite set of training tasks, -1 for a task in no such set.
    """

    mode: int
    values: Mapping[str, Any]
    identity: int = field(default=-1, kw_only=True)


class TaskError(RuntimeError):
    """A user's environment failed. task: index of its task in the block."""

    def __init__(self, message: str, task: int) -> None:
        super().__init__(message)
        self.task = task


class TaskVectorEnv(VectorEnv, ABC):
    """The M·N lanes of a family's M tasks, as a Gymnasium vector environment. Lane i belongs to task i // N.

    Lanes are never reset automatically (`AutoresetMode.DISABLED`): `reset(options={"reset_mask": mask})` starts new
    episodes in the lanes of the mask. The random numbers of a task come from its own generator and are drawn in lane
    order, so that its lanes do not depend on which other tasks share the block.

    A family implements `step` and the four methods at the end, and sets:
    normalization_scale: the s of `rescale_actions` that its published experiments used; None for actions as they are.
    num_modes: the number of modes of its tasks. mode_names: what they are called, () where they are only numbered.
    splits: those of `SPLITS` that it can draw.
    tasks_per_mode: how many tasks of a split each mode has, none of which is drawn again before all of them have been;
        None where they do not run out.
    finite_horizon: whether a task is over once an episode is truncated, so that the value after it is 0; False: the
        task would have gone on, and the value is that of the observation which follows.
    uses_threads: whether `use_threads` makes it use threads.
    code_settings: with which settings of the process its code runs, where it is a user's; None for the process's own.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
    normalization_scale: float | None = 1.0
    num_modes: int = 1
    mode_names: tuple[str, ...] = ()
    finite_horizon: bool = False
    splits: tuple[str, ...] = ("train", "test")
    tasks_per_mode: int | None = None
    uses_threads: bool = False
    code_settings: CodeSettings | None = None

    def __init__(
        self,
        num_tasks: int,
        rollouts_per_task: int,
        observation_space: gym.Space,
        action_space: gym.Space,
    ) -> None:
        for name, count in (("num_tasks", num_tasks), ("rollouts_per_task", rollouts_per_task)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}")
        check_spaces(type(self).__name__, observation_space, action_space)
        self.num_tasks, self.rollouts_per_task = num_tasks, rollouts_per_task
        self.num_envs = num_tasks * rollouts_per_task
        observation_space, action_space = without_huge_bounds(observation_space), without_huge_bounds(action_space)
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self.task_generators = [np.random.default_rng() for _ in range(num_tasks)]
        self.tasks: list[Task] = []
        self._tasks_given = False
        self._needs_reset = True

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> list[Task]:
        """Draw n tasks of a split. Equal states of `rng` give equal tasks, but each split has different ones.

        Raises ValueError for a split that the family does not have, if it does not draw n tasks, and for a task of a
        mode that it does not have.
        """
        if split not in self.splits:
            raise ValueError(f"split: expected one of {self.splits} for {type(self).__name__}, got {split!r}")
        child = np.random.default_rng([*rng.integers(0, 2**32, size=4), SPLITS.index(split)])
        tasks = list(self._draw_tasks(n, child, split))
        _check_drawn(self._draws_with, n, tasks, self.num_modes)
        return tasks

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Set the tasks of the block. A reset of all lanes must follow.

        Raises ValueError if there are not M tasks, or if they are not of this family.
        """
        self._take_over(tasks)
        self._tasks_given = True

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start episodes in all lanes, or in those of options["reset_mask"] (bool [M·N]).

        seed: one integer per task, which determines all later random numbers of the task; or a single one, from which
        each task's is derived; None: the generators continue. A block whose tasks were never set draws training tasks
        at its first reset and at every seeded one.
        Returns the observations of all lanes, [M·N, O] float32, or float64 where they change by less than float32 can
        hold, which is of use where they are normalised. Raises ValueError for a seed or mask of another
        length, ResetNeeded for a mask before the first reset of all lanes.
        """
        if seed is not None:
            self.task_generators = [np.random.default_rng(key) for key in self._seed_of_each_task(seed)]
        if not self._tasks_given and (seed is not None or not self.tasks):
            self._take_over(drawn_tasks(self, self.num_tasks, self.task_generators[0].spawn(1)[0]))
        lanes = self._reset_mask(options).reshape(self.num_tasks, self.rollouts_per_task)
        self._needs_reset = False
        for task in np.flatnonzero(lanes.any(1)):
            chosen = task * self.rollouts_per_task + np.flatnonzero(lanes[task])
            self._reset_lanes(int(task), chosen, self.task_generators[task])
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> StepResult:
        """One time step of all lanes.

        actions: [M·N, A] float32 in environment units, clipped here to the bounds; integers [M·N] if they are discrete.
        Returns observations [M·N, O] as `reset`, rewards [M·N] float32, terminated and truncated bool [M·N]
        (by the family itself; the horizon is the sampler's), and infos: "reward_…" float32 [M·N], the terms of the
        reward, which sum to it, for who plays the family by itself; "success" bool [M·N], at every step, if the family
        defines success. The arrays are new: whoever calls this may keep and change them.
        """
        raise self._not_written("step")

    def use_threads(self, threads: int) -> None:
        """Compute the following steps with up to so many threads, which changes none of their bits."""

    def close(self, **kwargs: Any) -> None:
        """Close once, even if that raises: before version 1.3, Gymnasium tries again when the object is deleted."""
        if not self.closed:
            self.closed = True
            self.close_extras(**kwargs)

    def render_lanes(self, lanes: Sequence[int]) -> list[Any]:
        """Pictures of some lanes, uint8 [height, width, 3] each; `render` returns those of all.

        Raises NotImplementedError for a family that draws none.
        """
        pictures: Any = self.render()
        return [pictures[lane] for lane in lanes]

    @property
    def _draws_with(self) -> str:
        """The method that draws tasks, as errors call it."""
        return f"{type(self).__name__}._draw_tasks"

    def _take_over(self, tasks: Sequence[Task]) -> None:
        if len(tasks) != self.num_tasks:
            raise ValueError(f"tasks: expected {self.num_tasks}, one for each task of the block, got {len(tasks)}")
        self._set_tasks(list(tasks))
        self.tasks = list(tasks)
        self._needs_reset = True

    def _seed_of_each_task(self, seed: int | Sequence[int]) -> list[Any]:
        if isinstance(seed, int | np.integer):
            return [[seed, task] for task in range(self.num_tasks)]
        if len(seed) != self.num_tasks:
            raise ValueError(f"seed: expected one integer or {self.num_tasks}, one per task, got {len(seed)}")
        return list(seed)

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(f"reset_mask: expected bool [{self.num_envs}], got {mask.dtype} {list(mask.shape)}")
        if self._needs_reset:
            raise ResetNeeded("reset_mask: expected no mask at the first reset of a block or of new tasks")
        return mask

    def _check_started(self) -> None:
        """Raise ResetNeeded unless all lanes were reset; families call it in `step`."""
        if self._needs_reset:
            raise ResetNeeded("step: expected a reset before the first step of a block or of new tasks")

    def _per_lane(self, tasks: Sequence[Task], name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An entry of the tasks' values, repeated for each lane, float64 [M·N, *shape]."""
        return np.repeat(self._per_task(tasks, name, shape), self.rollouts_per_task, axis=0)

    def _per_task(self, tasks: Sequence[Task], name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An entry of the tasks' values, float64 [M, *shape]. Raises ValueError if a task has none of that shape."""
        entries = []
        for task in tasks:
            entry = np.asarray(task.values.get(name, ()), np.float64)
            if entry.shape != shape:
                raise ValueError(
                    f"tasks: expected '{name}' of shape {shape} in each task's values, got {dict(task.values)}"
                )
            entries.append(entry)
        return np.stack(entries)

    # Not abstract: a family that writes `sample_tasks`, `set_tasks` or `reset` itself does without some of these.

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        """Draw n tasks, from a generator that no other split uses."""
        raise self._not_written("_draw_tasks")

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        """Use the values of M tasks from now on."""
        raise self._not_written("_set_tasks")

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        """Start episodes in some lanes of one task. lanes: their indices in the block, ascending."""
        raise self._not_written("_reset_lanes")

    def _observe(self) -> np.ndarray:
        """The observations of all lanes in a new array, [M·N, O] float32 or float64."""
        raise self._not_written("_observe")

    def _not_written(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__}.{method}: is missing; {WRITE_IT}")


def drawn_tasks(family: TaskVectorEnv, n: int, rng: np.random.Generator, split: str = "train") -> list[Task]:
    """n tasks of a family, by `sample_tasks`, which its class may have written itself.

    Raises UsageError where these are not n valid tasks, and what the family raises.
    """
    tasks = list(family.sample_tasks(n, rng, split))
    _check_drawn(f"{type(family).__name__}.sample_tasks", n, tasks, family.num_modes)
    return tasks


def _check_drawn(where: str, n: int, tasks: Sequence[Task], num_modes: int) -> None:
    """Raise UsageError unless these are n valid tasks. where: what drew them."""
    if len(tasks) != n:
        raise UsageError(where, expected=f"{n} tasks", got=str(len(tasks)), remedy="return a list of n tasks")
    for task in tasks:
        if not isinstance(task, Task) or not isinstance(task.values, Mapping):
            raise UsageError(where, expected="a Task whose values are a mapping", got=shown(task), remedy=WRITE_IT)
        if refused := refused_mode(where, task.mode, num_modes):
            raise refused


def refused_mode(where: str, mode: Any, num_modes: int) -> UsageError | None:
    """What is wrong with the mode of a task that was drawn, if anything. where: what drew it."""
    if isinstance(mode, int | np.integer) and not isinstance(mode, bool) and 0 <= mode < num_modes:
        return None
    expected = f"a task's mode to be a whole number from 0 to {num_modes - 1}, as num_modes = {num_modes} says"
    return UsageError(where, expected=expected, got=shown(mode), remedy="set num_modes in the class, or other modes")


def mode_label(mode: int, names: Sequence[str]) -> str:
    """What a mode is called in tables and pictures. names: those of the family's modes, if they have any."""
    return names[mode] if 0 <= mode < len(names) else f"mode {mode}"


def _of_one_lane(value: Any) -> Any:
    """The number of the only lane; what is no array of lanes as it is."""
    return value[0].item() if isinstance(value, np.ndarray) and value.shape == (1,) else value


def close_quietly(family: TaskVectorEnv | None) -> None:
    """Close a family that is done with, if there is one: what it raises then concerns nobody any more."""
    if family is not None:
        with suppress(Exception, SystemExit), running(family.code_settings):
            family.close()


class SingleTaskEnv(gym.Env):
    """A family as an ordinary Gymnasium environment: one lane of one task. What goes in and comes out is copied.

    Its task is the one last set, by `set_task` or `reset(options={"task": task})`; until one is set, a training task is
    drawn at the first reset and at every seeded one. `info["mode"]` of a reset is the mode of the task.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, family: TaskVectorEnv) -> None:
        self.family = family
        self.observation_space = family.single_observation_space
        self.action_space = family.single_action_space
        self.finite_horizon = family.finite_horizon

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> list[Task]:
        """n tasks of the family, as `TaskVectorEnv.sample_tasks`."""
        return [own_task(task) for task in drawn_tasks(self.family, n, rng, split)]

    def set_task(self, task: Task) -> None:
        """Set the task of the environment. A reset must follow."""
        self.family.set_tasks([own_task(task)])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if options is not None and "task" in options:
            self.set_task(options["task"])
        observations, _ = self.family.reset(seed=seed)
        return observations[0].copy(), {"mode": self.family.tasks[0].mode}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.family.step(np.array(action)[None])
        info = {name: _of_one_lane(value) for name, value in infos.items()}
        return observations[0].copy(), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def close(self) -> None:
        self.family.close()
