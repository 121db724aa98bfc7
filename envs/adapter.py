"""Makes a task family of any `gymnasium.Env` with tasks: one environment object per lane, stepped one after another."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs import answers
from mmaml.envs.base import SPLITS, StepResult, Task, TaskError, TaskVectorEnv, close_quietly
from mmaml.envs.check.signatures import call_sample_tasks, takes_split
from mmaml.envs.layers import attribute, class_name, layer_with
from mmaml.envs.loading import Source, check_new
from mmaml.envs.ownership import own_task
from mmaml.envs.spaces import check_spaces, within
from mmaml.errors import described


@dataclass(frozen=True)
class UserTask(Task):
    """A task of a user's environment. user_task: a copy of the object that its `sample_tasks` returned."""

    user_task: Any


class GymTaskAdapter(TaskVectorEnv):
    """M·N objects of a user's environment as the lanes of M tasks.

    source: builds one object, a new one each time. The object, or what it wraps, is a `gymnasium.Env` with
    observations in a Box of one dimension, actions in such a Box or Discrete, and

    - `sample_tasks(n, rng)` or `sample_tasks(n, rng, split)`: a list of n tasks, drawn with the NumPy generator
      `rng` alone. A task is any object that can be copied and pickled; its entry or attribute `mode`, where it has
      one, says which mode it belongs to (an integer from 0).
    - `set_task(task)`: called with one of these tasks, before a reset.

    Optional attributes: `num_modes` (1), `tasks_per_mode` (None), `normalization_scale` (1, or None where actions are
    discrete or one is unbounded), `finite_horizon` (False) and `splits` (those of `SPLITS` that `sample_tasks` can
    draw: all three if it has the argument `split`, else "train" and "test").

    Each object gets copies of its own of its tasks and arguments, to keep and to change. Each reset is seeded from the
    generator of the lane's task. Actions are elements of the action space: of its dtype, clipped to the bounds of a
    Box, rounded where it is one of whole numbers. What `reset` and `step` may return: `mmaml.envs.answers`. Of an info,
    success alone is read.

    Raises ConfigError for spaces of another kind, for an object without the two methods, and for one that another lane
    has already. Whatever the environment raises later, even SystemExit, is wrapped in a TaskError.
    """

    def __init__(self, source: Source, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        self.source = source
        # The first one has the spaces and samples tasks; those of the other lanes are made when tasks are set.
        self._envs: list[Any] = []
        self._seen: set[int] = set()
        self._build_object()
        try:
            self._describe(num_tasks, rollouts_per_task)
        except BaseException:
            close_quietly(self)
            raise

    def _describe(self, num_tasks: int, rollouts_per_task: int) -> None:
        """What the first object says of the family."""
        self._name = class_name(self.example)
        observations: Any = getattr(self.example, "observation_space", None)
        actions: Any = getattr(self.example, "action_space", None)
        check_spaces(self._name, observations, actions)
        super().__init__(num_tasks, rollouts_per_task, copy.deepcopy(observations), copy.deepcopy(actions))
        actions = self.single_action_space
        bounded = isinstance(actions, gym.spaces.Box) and actions.is_bounded()
        self.normalization_scale = attribute(self.example, "normalization_scale", 1.0 if bounded else None)
        self.num_modes = attribute(self.example, "num_modes", 1)
        self.tasks_per_mode = attribute(self.example, "tasks_per_mode", None)
        self.finite_horizon = attribute(self.example, "finite_horizon", False)
        default = SPLITS if takes_split(self.example) else ("train", "test")
        self.splits = attribute(self.example, "splits", default)
        self._observations = np.zeros((self.num_envs, *observations.shape), np.float32)
        self._successes = answers.SuccessReports()

    @property
    def example(self) -> gym.Env:
        """One of the environment objects."""
        return self._envs[0]

    def step(self, actions: np.ndarray) -> StepResult:
        self._check_started()
        actions = within(actions, self.single_action_space)
        rewards = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        solved = np.zeros(self.num_envs, bool)
        for lane, env in enumerate(self._envs):
            try:
                observation, reward, ended, cut, info = answers.of_step(env.step(actions[lane]))
                self._observe_lane(lane, observation)
                rewards[lane] = answers.reward(reward)
                terminated[lane], truncated[lane] = answers.truth("terminated", ended), answers.truth("truncated", cut)
                solved[lane] = self._success(answers.mapping(info))
            except (Exception, SystemExit) as error:
                raise self._failure("step", lane, error) from error
        infos = {"success": solved} if self._successes.always else {}
        return self._observe(), rewards, terminated, truncated, infos

    def render_lanes(self, lanes: Sequence[int]) -> list[Any]:
        return [self._envs[lane].render() for lane in lanes]

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment, even if closing one of them fails."""
        with ExitStack() as stack:
            while self._envs:
                stack.callback(self._envs.pop().close)

    def _build_object(self) -> None:
        env = self.source.build()
        check_new(self.source.name, env, self._seen)
        self._envs.append(env)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [_wrapped(own_task(task)) for task in call_sample_tasks(self.example, n, rng, split)]

    @property
    def _draws_with(self) -> str:
        return f"{self._name}.sample_tasks"

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        while len(self._envs) < self.num_envs:
            self._build_object()
        for lane, env in enumerate(self._envs):
            task = tasks[lane // self.rollouts_per_task]
            if not isinstance(task, UserTask):
                raise ValueError(f"tasks: expected tasks from this family's sample_tasks, got {task!r}")
            try:
                layer_with(env, "set_task").set_task(own_task(task.user_task))
            except (Exception, SystemExit) as error:
                raise self._failure("set_task", lane, error) from error

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        for lane in lanes:
            try:
                observation, _ = answers.of_reset(self._envs[lane].reset(seed=int(rng.integers(2**31))))
                self._observe_lane(lane, observation)
            except (Exception, SystemExit) as error:
                raise self._failure("reset", lane, error) from error

    def _observe(self) -> np.ndarray:
        return self._observations.copy()

    def _observe_lane(self, lane: int, observation: Any) -> None:
        taken = answers.observation(observation, self._observations.shape[1:])
        if self._observations.dtype == np.float32 and not np.can_cast(taken.dtype, np.float32):
            self._observations = self._observations.astype(np.float64)  # nothing is lost before they are normalised
        self._observations[lane] = taken

    def _success(self, info: Mapping[Any, Any]) -> bool:
        """Whether the task is solved; false where nothing is reported."""
        solved = answers.success(info)
        self._successes.note("info['success']", solved is not None)
        return bool(solved)

    def _failure(self, method: str, lane: int, error: BaseException) -> TaskError:
        task, rollout = divmod(int(lane), self.rollouts_per_task)
        where = f"{self._name}.{method}, in rollout {rollout} of its task"
        if isinstance(error, answers.Refused):
            return TaskError(str(error.in_method(where)), task)
        return TaskError(f"{where}: {described(error)}", task)


def mode_of(task: Any) -> Any:
    """The entry or attribute `mode` of a user's task, 0 where it has none. A method, as tensors have, is none."""
    if isinstance(task, Mapping):
        return task.get("mode", 0)
    mode = getattr(task, "mode", 0)
    return 0 if callable(mode) else mode


def _wrapped(task: Any) -> UserTask:
    """A user's task with what the toolkit reports about it: its mode, and its values by name."""
    values = task if isinstance(task, Mapping) else {"task": task}
    mode = mode_of(task)
    return UserTask(int(mode) if isinstance(mode, np.integer) else mode, values, task)
