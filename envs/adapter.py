"""Makes a task family of any `gymnasium.Env` with tasks: one environment object per lane, stepped one after another."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs.base import SPLITS, StepResult, Task, TaskError, TaskVectorEnv, check_spaces


@dataclass(frozen=True)
class UserTask(Task):
    """A task of a user's environment. user_task: the object that its `sample_tasks` returned."""

    user_task: Any


class GymTaskAdapter(TaskVectorEnv):
    """M·N objects of a user's environment class as the lanes of M tasks.

    The class is a `gymnasium.Env` with observations in a Box of one dimension, actions in such a Box or Discrete, and

    - `sample_tasks(n, rng)` or `sample_tasks(n, rng, split)`: a list of n tasks, drawn with the NumPy generator
      `rng` alone. A task is any object that can be pickled; its entry or attribute `mode`, where it has one,
      says which mode it belongs to (an integer from 0).
    - `set_task(task)`: called with one of these tasks, before a reset.

    Optional class attributes: `num_modes` (1), `normalization_scale` (1, or None where actions are discrete or one
    is unbounded), `finite_horizon` (False; also of the object) and `splits` (those of `SPLITS` that `sample_tasks` can
    draw: all three if it has the argument `split`, else "train" and "test").

    Each reset is seeded from the generator of the lane's task. Actions have the dtype of the action space and are
    clipped to the bounds of a Box. `terminated` and `truncated` are passed on. Of the infos, these are used: "success",
    true or false, which must be reported at every step or at none, and the terms "reward_…" that every lane reports.

    Raises ValueError for spaces of another kind. Whatever the environment raises later, even SystemExit, is wrapped in
    a TaskError.
    """

    def __init__(
        self, env_class: type[gym.Env], num_tasks: int = 1, rollouts_per_task: int = 1, /, **env_kwargs: Any
    ) -> None:
        self._class, self._env_kwargs = env_class, env_kwargs
        # The first one has the spaces and samples tasks; those of the other lanes are made when tasks are set.
        self._envs: list[Any] = []
        self._envs.append(env_class(**env_kwargs))
        observations: Any = getattr(self._envs[0], "observation_space", None)
        actions: Any = getattr(self._envs[0], "action_space", None)
        check_spaces(env_class.__name__, observations, actions)
        super().__init__(num_tasks, rollouts_per_task, observations, actions)
        bounded = isinstance(actions, gym.spaces.Box) and actions.is_bounded()
        self.normalization_scale = getattr(env_class, "normalization_scale", 1.0 if bounded else None)
        self.num_modes = getattr(env_class, "num_modes", 1)
        self.finite_horizon = getattr(self.example, "finite_horizon", False)
        self._takes_split = "split" in inspect.signature(self._envs[0].sample_tasks).parameters
        self.splits = getattr(env_class, "splits", SPLITS if self._takes_split else ("train", "test"))
        self._observations = np.zeros((self.num_envs, *observations.shape), np.float32)
        self._reports_success: bool | None = None

    @property
    def example(self) -> gym.Env:
        """One of the environment objects."""
        return self._envs[0]

    def step(self, actions: np.ndarray) -> StepResult:
        self._check_started()
        space = self.single_action_space
        if isinstance(space, gym.spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        actions = actions.astype(space.dtype, copy=False)
        rewards = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        infos = []
        for lane, env in enumerate(self._envs):
            try:
                observation, reward, ended, cut, info = env.step(actions[lane])
                _check_numbers(reward=reward, terminated=ended, truncated=cut)
                rewards[lane], terminated[lane], truncated[lane] = reward, ended, cut
                self._observe_lane(lane, observation)
                self._check_success(info)
            except (Exception, SystemExit) as error:
                raise self._failure("step", lane, error) from error
            infos.append(info)
        return self._observe(), rewards, terminated, truncated, _collected(infos)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment, even if closing one of them fails."""
        with ExitStack() as stack:
            while self._envs:
                stack.callback(self._envs.pop().close)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        named = {"split": split} if self._takes_split else {}
        tasks = list(self._envs[0].sample_tasks(n, rng, **named))
        if len(tasks) != n:
            raise ValueError(f"{self._class.__name__}.sample_tasks: expected {n} tasks, got {len(tasks)}")
        return [_wrapped(task) for task in tasks]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        while len(self._envs) < self.num_envs:
            self._envs.append(self._class(**self._env_kwargs))
        for lane, env in enumerate(self._envs):
            task = tasks[lane // self.rollouts_per_task]
            if not isinstance(task, UserTask):
                raise ValueError(f"tasks: expected tasks from this family's sample_tasks, got {task!r}")
            try:
                env.set_task(task.user_task)
            except (Exception, SystemExit) as error:
                raise self._failure("set_task", lane, error) from error

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        for lane in lanes:
            try:
                observation, _ = self._envs[lane].reset(seed=int(rng.integers(2**31)))
                self._observe_lane(lane, observation)
            except (Exception, SystemExit) as error:
                raise self._failure("reset", lane, error) from error

    def _observe(self) -> np.ndarray:
        return self._observations.copy()

    def _observe_lane(self, lane: int, observation: Any) -> None:
        observation, expected = np.asarray(observation), self._observations.shape[1:]
        if observation.shape != expected:
            raise ValueError(
                f"observation: expected shape {expected} of the observation space, got {observation.shape}"
            )
        self._observations[lane] = observation

    def _check_success(self, info: Mapping[str, Any]) -> None:
        reported = "success" in info
        if self._reports_success is None:
            self._reports_success = reported
        if reported != self._reports_success:
            raise ValueError(
                "info['success']: expected at every step or at none; report false until the task is solved"
            )
        if reported and not is_truth(info["success"]):
            raise ValueError(f"info['success']: expected true or false, got {info['success']!r}")

    def _failure(self, method: str, lane: int, error: BaseException) -> TaskError:
        task, rollout = divmod(int(lane), self.rollouts_per_task)
        where = f"{self._class.__name__}.{method}, in rollout {rollout} of its task"
        return TaskError(f"{where}: {type(error).__name__}: {error}", task)


def _wrapped(task: Any) -> UserTask:
    """A user's task with what the toolkit reports about it: its mode, and its values by name."""
    mapping = isinstance(task, Mapping)
    mode = task.get("mode", 0) if mapping else getattr(task, "mode", 0)
    if not isinstance(mode, int | np.integer):
        raise ValueError(f"sample_tasks: expected a task's mode to be an integer from 0, got {mode!r}")
    return UserTask(int(mode), task if mapping else {"task": task}, task)


def _check_numbers(**values: Any) -> None:
    """Raise TypeError for None and text, which NumPy would convert to numbers."""
    for name, value in values.items():
        if value is None or isinstance(value, str):
            raise TypeError(f"{name}: expected a number, got {value!r}")


def is_truth(value: Any) -> bool:
    """Whether a value is true or false, or the number 1 or 0; not NaN, text or a fraction."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return False
    return array.size == 1 and array.item() in (False, True)


def _collected(infos: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Success and the reward terms that all lanes report, [M·N] each."""
    names = set.intersection(*(set(info) for info in infos))
    terms = sorted(name for name in names if name.startswith("reward_"))
    collected = {name: np.array([info[name] for info in infos], np.float32) for name in terms}
    if "success" in names:
        collected["success"] = np.array([bool(info["success"]) for info in infos])
    return collected
