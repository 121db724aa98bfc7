"""A rank's share of the work: its tasks' environments, rollouts, adaptations and gradients."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms import make_algorithm
from mmaml.config.keys import Config
from mmaml.envs.base import Task, TaskVectorEnv, close_quietly, drawn_tasks
from mmaml.envs.ownership import own_task
from mmaml.envs.process_state import SETTINGS, others_kept
from mmaml.envs.registry import import_environment, make_family
from mmaml.errors import RunStopped, TasksFailed
from mmaml.fault_points import reached
from mmaml.policies.distributions import distribution_over
from mmaml.sampling import finite
from mmaml.sampling.collector import Lanes, rollout
from mmaml.sampling.environment_failures import EnvironmentFailed, FromEnvironment, described, failing_tasks, traced
from mmaml.sampling.normalisation import ObservedMoments, RunningStatistics, Scaling, moments_of_returns
from mmaml.sampling.rollouts import Rollouts
from mmaml.sampling.statistics import stage_statistics, stages_of
from mmaml.seeding import generator, integer
from mmaml.storage.compatibility import restored_statistics
from mmaml.task_block import TaskBlock, compact_index
from mmaml.updates.evaluate import Question, Results


class _Session(NamedTuple):
    """What all tasks that one `Worker.collect` samples have in common."""

    parameters: Tensor
    scaling: Scaling | None
    iteration: int
    purpose: str
    stages: int


class Sampled(NamedTuple):
    """All collections of some tasks. seconds [3]: spent on rolling out, advantages and adapting.

    observed: what was observed, with a scaling.
    """

    rollouts: list[Rollouts]
    seconds: np.ndarray
    observed: ObservedMoments | None


class Worker:
    """Samples tasks, adapts to them, and evaluates the algorithm's functions on what it sampled.

    Every rank has one. `Ranks` calls the methods from `collect` on by name: they take parameters, an optional vector
    and this rank's items, and return arrays with one entry per item.

    threads: how many a family that uses threads steps its lanes with; the results do not depend on it.
    """

    def __init__(self, config: Config, threads: int = 1) -> None:
        self.config, self._threads = config, threads
        import_environment(config.env)
        assert config.env_spec is not None  # which `build_config` has found
        self.spec = config.env_spec
        self.actions, self.action_size = distribution_over(self.spec.action_space)
        self.algorithm = make_algorithm(config, self.spec.observation_size, self.action_size, self.actions)
        self.block: TaskBlock | None = None
        self._collected: tuple[int, str] | None = None  # of the block: iteration and purpose
        self._train_tasks: list[Task] = []
        self._env: TaskVectorEnv | None = None
        self._has_built = False

    @cached_property
    def family(self) -> TaskVectorEnv:
        """A lane of the family, to draw tasks from: built where it is first needed, on the master alone."""
        return self._make_family(1)

    def sample_tasks(self, n: int, iteration: int, purpose: str = "train") -> list[Task]:
        """The tasks of one iteration's meta-batch. purpose: "train", "test" or "ood".

        Raises RunStopped if the environment fails to draw them.
        """
        rng = generator(self.config.seed, "tasks", iteration, purpose=purpose)
        finite = self.config.num_train_tasks
        if finite is None or purpose != "train":
            return self._draw_tasks(n, rng, purpose)
        if not self._train_tasks:
            drawn = self._draw_tasks(finite, generator(self.config.seed, "train tasks"), purpose)
            self._train_tasks = [replace(task, identity=k) for k, task in enumerate(drawn)]
        order = np.concatenate([rng.permutation(finite) for _ in range(-(-n // finite))])
        return [self._train_tasks[k] for k in order[:n]]

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        family = self.family
        try:
            with FromEnvironment(family, SETTINGS):
                return [own_task(task) for task in drawn_tasks(family, n, rng, split)]
        except EnvironmentFailed as failed:
            error = failed.error
        text = f'sample_tasks failed for the split "{split}" ({described(error)}); fix it'
        raise RunStopped(text, traced(error))

    def close(self) -> None:
        """Close the environments."""
        close_quietly(self.__dict__.get("family"))
        close_quietly(self._env)

    def collect(
        self,
        parameters: Tensor,
        scaling: Tensor | None,
        items: Sequence[tuple[int, Task]],
        iteration: int,
        purpose: str = "train",
        stages: int | None = None,
        extend: bool = False,
    ) -> dict[str, np.ndarray]:
        """Sample every task and adapt to it, in all stages of learning it.

        scaling: as `Scaling.from_vector` reads it. items: (index in the meta-batch, task). stages: how many
        collections, with adaptation in between, or episodes of the trial; as many as in training when None. extend: add
        the tasks to those already held of this iteration and purpose, instead of replacing them; the results are those
        of the new tasks only. If this raises, the tasks that were to be extended are still held, and no others.
        Raises TasksFailed if the environments of some tasks fail again when these tasks are sampled alone; the
        environment's own error if no task fails alone, but all of them together fail twice; and NotFinite for NaN or
        infinity in what was sampled or adapted.
        Returns statistics of the whole episodes [m, stages] (return, return_std, return_min, return_max, episodes,
        success, blow_ups), mode [m], env_steps [m], largest_reward [m], and the seconds [m, 3] that this rank spent on
        rolling out, advantages and adapting; with a scaling, what `RunningStatistics.update` takes too. The rollouts
        stay here for `evaluate`.
        """
        reached("sampling", iteration=iteration, purpose=purpose)
        extends = extend and self._collected == (iteration, purpose)
        held = self.block = self.block if extends else None
        session = _Session(parameters, Scaling.from_vector(scaling), iteration, purpose, stages or self.config.stages)
        rollouts, seconds, observed = self._sample_again_if_needed(items, session, lasting=held is None)
        blocks = [rollouts] if held is None else [held.rollouts, rollouts]
        every = [Rollouts.concatenate(parts) for parts in zip(*blocks, strict=True)]
        self.block, self._collected = TaskBlock(self.algorithm, every), (iteration, purpose)
        shown = self.stages_of(rollouts, session.stages)
        found = stage_statistics(rollouts, shown, [task for _, task in items], seconds)
        if observed is None:
            return found
        return found | observed.found() | moments_of_returns(rollouts, self.config.discount, self._over_trial)

    @property
    def _over_trial(self) -> bool:
        return self.algorithm.credit == "trial"

    def stages_of(self, collections: Sequence[Rollouts], stages: int) -> list[Rollouts]:
        """What was sampled at each stage: collections, or episodes of the trials."""
        return stages_of(collections, self._over_trial, stages, self.config.max_path_length)

    def statistics(self, state: Mapping[str, Any] | None = None) -> RunningStatistics:
        """The running statistics that the configuration asks for: new, or from a checkpoint's state.

        Raises CheckpointError if the state holds others.
        """
        return restored_statistics(self.config, self.spec.observation_size, state)

    def _sample_again_if_needed(self, items: Sequence[tuple[int, Task]], session: _Session, lasting: bool) -> Sampled:
        """`_sample`, and where an environment fails, once more. lasting: as in `_environment`.

        Raises TasksFailed where tasks fail again when they are sampled alone, and the environment's own error where
        none does, but all of them together fail twice.
        """

        def sample(items: Sequence[tuple[int, Task]], lasting: bool = False) -> Sampled:
            with self._environment([task for _, task in items], lasting) as env:
                return self._sample(env, items, session)

        def attempt() -> Sampled | EnvironmentFailed:
            try:
                return sample(items, lasting)
            except EnvironmentFailed as error:
                return error  # outside of `except`, so that no later error has it as its context

        first = attempt()
        if isinstance(first, Sampled):
            return first
        if failures := failing_tasks(sample, items, first):
            raise TasksFailed(failures)
        second = attempt()
        if isinstance(second, EnvironmentFailed):
            raise second.error
        print(f"warning: an environment failed ({described(first.error)}), but not when sampled again", file=sys.stderr)
        return second

    def _sample(self, env: TaskVectorEnv, items: Sequence[tuple[int, Task]], session: _Session) -> Sampled:
        """All collections of some tasks, with adaptation in between. Raises EnvironmentFailed and NotFinite."""
        indices, tasks = zip(*items, strict=True)
        lanes, size = self.config.rollouts_per_meta_task, self.spec.observation_size
        observed = None if session.scaling is None else ObservedMoments(len(tasks), lanes, size)
        collections = 1 if self._over_trial else session.stages
        seconds = np.zeros(3)
        with torch.no_grad():
            meta = {
                name: value.expand(len(tasks), *value.shape)
                for name, value in self.algorithm.spec.unflatten(session.parameters).items()
            }
        state = self.algorithm.begin(meta, torch.tensor([task.identity for task in tasks]))
        rollouts: list[Rollouts] = []
        for step in range(collections):
            clock = time.perf_counter()
            data = self._roll_out(env, state, items, step, session, observed)
            self.check_finite(data, tasks, step, finite.SAMPLED)
            seconds[0] += time.perf_counter() - clock
            clock = time.perf_counter()
            reached("advantages", collection=step)
            self.algorithm.estimate_advantages(state, data, session.scaling)
            self.check_finite(data, tasks, step, finite.PROCESSED)
            rollouts.append(data)
            seconds[1] += time.perf_counter() - clock
            clock = time.perf_counter()
            if step < collections - 1:
                reached("adaptation", collection=step)
                state = self.algorithm.adapt(meta, state, rollouts)
                finite.check_adapted(getattr(state, "params", {}), indices, tasks, step)
            seconds[2] += time.perf_counter() - clock
        return Sampled(rollouts, seconds, observed)

    def check_finite(self, data: Rollouts, tasks: Sequence[Task], collection: int, names: Collection[str]) -> None:
        """Raise NotFinite if a real step of a collection has NaN or infinity in one of the tensors of these names."""
        finite.check_rollouts(data, tasks, collection, names)

    @torch.no_grad()
    def _roll_out(
        self,
        env: TaskVectorEnv,
        state: Any,
        items: Sequence[tuple[int, Task]],
        collection: int,
        session: _Session,
        observed: ObservedMoments | None,
    ) -> Rollouts:
        """One collection of some tasks, without advantages."""
        config, (indices, tasks) = self.config, zip(*items, strict=True)
        keys = [(session.iteration, index, collection) for index in indices]
        episodes = session.stages if self._over_trial else config.episodes_per_trial
        layout = Lanes(config.max_path_length, episodes, config.collect == "episodes")
        try:
            data = rollout(
                env,
                self.algorithm.actor(state),
                layout,
                self._noise(keys, session.purpose, layout.length),
                [integer(config.seed, "environment", *key, purpose=session.purpose) for key in keys],
                self.spec.action_scale(config.normalization_scale),
                self._episode_noise(keys, session.purpose, layout.length),
                session.scaling,
                observed,
            )
        except EnvironmentFailed as error:
            if error.given is not None:
                raise finite.not_finite_given(error.given, indices, tasks, collection) from error
            raise
        data.task_index = torch.tensor(indices)
        return data

    def evaluate(
        self,
        parameters: Tensor,
        vector: Tensor | None,
        items: Sequence[int],
        function: str,
        lanes: Sequence[int] | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> Results:
        """The answer to a `Question` about tasks of this rank's block. items: their indices in the block."""
        assert self.block is not None
        return self.block.answer(Question(function, parameters, vector, items, lanes, arguments))

    def rollouts(self, parameters: Tensor | None, vector: Tensor | None, items: Sequence[int]) -> dict[str, np.ndarray]:
        """Rollouts of tasks of this rank's block, "collection/field" -> [m, …]: for a master with a device of its own.

        items: as in `evaluate`.
        """
        assert self.block is not None
        return {
            f"{step}/{name}": np.ascontiguousarray(value.numpy())
            for step, collection in enumerate(self.block.rollouts)
            for name, value in collection.select(compact_index(items)).fields().items()
        }

    def _noise(self, keys: Sequence[tuple[int, int, int]], purpose: str, length: int) -> Tensor:
        """The randomness of the actions, [m, T, N, A], each task's from a generator of its own."""
        config = self.config
        shape = (length, config.rollouts_per_meta_task, self.action_size)
        noise = np.empty((len(keys), *shape), np.float32)
        for task, key in enumerate(keys):
            noise[task] = self.actions.draw_noise(generator(config.seed, "action", *key, purpose=purpose), shape)
        return torch.from_numpy(noise)

    def _episode_noise(self, keys: Sequence[tuple[int, int, int]], purpose: str, length: int) -> Tensor | None:
        """The noise of the episodes of each task, [m, T, N, L]; entry t is for an episode that starts at step t."""
        config, size = self.config, self.algorithm.episode_noise_size
        if not size:
            return None
        shape = (length, config.rollouts_per_meta_task, size)
        drawn = [generator(config.seed, "episode", *key, purpose=purpose).standard_normal(shape) for key in keys]
        return torch.from_numpy(np.stack(drawn).astype(np.float32))

    def _make_family(self, tasks: int) -> TaskVectorEnv:
        config = self.config
        return make_family(config.env, tasks, config.rollouts_per_meta_task, **config.env_kwargs)

    @contextmanager
    def _environment(self, tasks: Sequence[Task], lasting: bool) -> Iterator[TaskVectorEnv]:
        """An environment that holds the tasks. lasting: keep it, to use again for the same number of tasks."""
        env = self._env
        if env is None or env.num_tasks != len(tasks):
            # The first block that a rank cannot build ends the run: its host lacks something. A later one costs tasks.
            with FromEnvironment() if self._has_built else nullcontext():
                env = self._make_family(len(tasks))
                env.use_threads(self._threads)
            self._has_built = True
            if lasting:
                close_quietly(self._env)
                self._env = env
        try:
            with FromEnvironment(env, SETTINGS):
                env.set_tasks([own_task(task) for task in tasks])
            with others_kept(env.code_settings):
                yield env
        except Exception:
            if env is self._env:  # it may be in any state
                self._env = None
            close_quietly(env)
            raise
        if env is not self._env:
            close_quietly(env)
