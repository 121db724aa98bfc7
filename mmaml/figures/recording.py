"""Records episodes of a trained policy, from which its pictures are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from mmaml.config.keys import Config
from mmaml.envs.base import StepResult, Task, TaskVectorEnv, mode_label
from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.spec import EnvSpec
from mmaml.evaluation.held_out import FRESH, in_a_line
from mmaml.figures.trajectories import Trajectories
from mmaml.sampling.normalisation import Scaling
from mmaml.sampling.rollouts import Rollouts
from mmaml.worker import Sampled, Worker


@dataclass(frozen=True)
class ChosenEpisodes:
    """One episode of each of M tasks at each of K+1 stages of learning it.

    Of the task's lanes, the one whose episode has the return nearest to their mean. lanes: its index in the block;
    starts: the step of the lane at which the episode begins; lengths: its steps; returns; all [M, K+1]. horizon: steps
    of the longest possible. by_episode: stages are the episodes of a trial, not numbers of adaptation steps.
    """

    tasks: Sequence[Task]
    lanes: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    horizon: int
    by_episode: bool

    @property
    def ended(self) -> np.ndarray:
        """Whether the episode ended before the horizon, bool [M, K+1]."""
        return self.lengths < self.horizon

    def collection(self, stage: int) -> int:
        """In which collection the episodes of a stage were sampled."""
        return 0 if self.by_episode else stage


def choose_episodes(worker: Worker, state: Mapping[str, Any], stages: int, split: str) -> ChosenEpisodes:
    """Adapt to one held-out task of each mode, as an evaluation does, and choose an episode of each at every stage.

    Raises UsageError for numbers that are not finite and for environments that fail.
    """
    parameters = worker.algorithm.spec.flatten(state["parameters"])
    with in_a_line():
        tasks = one_of_each_mode(worker, split)
        scaling = worker.statistics(state).vector()
        worker.collect(parameters, scaling, list(enumerate(tasks)), FRESH, split, stages)
    assert worker.block is not None
    collections, horizon = worker.block.rollouts, worker.config.max_path_length
    by_episode = worker.algorithm.credit == "trial"
    columns = [
        _typical(collections[0], stage, horizon) if by_episode else _typical(collections[stage], 0, horizon)
        for stage in range(stages)
    ]
    lanes, starts, lengths, returns = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
    return ChosenEpisodes(tasks, lanes, starts, lengths, returns, horizon, by_episode)


def _typical(data: Rollouts, number: int, horizon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each task the episode of a lane whose return is nearest to their mean: lane, start, steps, return; [M] each.

    number: which episode of its lane. horizon: steps of the longest.
    """
    tasks, lanes, _ = data.rewards.shape
    episode = data.episode(number, horizon)
    starts = (data.episode_numbers() == number).int().argmax(-1).numpy()
    lengths = episode.mask.sum(-1).int().numpy()
    returns = np.where(episode.mask > 0, episode.rewards.numpy(), 0).sum(-1)
    nearest = np.abs(returns - returns.mean(1, keepdims=True)).argmin(1)
    every = np.arange(tasks)
    chosen = (every, nearest)
    return every * lanes + nearest, starts[chosen], lengths[chosen], returns[chosen]


@dataclass(frozen=True)
class RecordedEpisodes:
    """One episode of each of M MuJoCo tasks after 0 … K adaptation steps.

    family: of the tasks. qpos[m][k]: positions at the start and after each of the episode's L steps, [L + 1, nq].
    returns: [M, K+1]. ended: whether the episode ended before the horizon, bool [M, K+1]. by_episode:
    whether they are those of a trial.
    """

    family: MujocoFamily
    tasks: Sequence[Task]
    qpos: Sequence[Sequence[np.ndarray]]
    returns: np.ndarray
    ended: np.ndarray
    by_episode: bool = False


def record(config: Config, state: Mapping[str, Any], stages: int, split: str) -> RecordedEpisodes:
    """The positions in episodes that `choose_episodes` gives.

    Raises TypeError if the family is not a MuJoCo family, and UsageError as `choose_episodes` does.
    """
    worker = RecordingWorker(config, _PositionRecorder)
    try:
        if not isinstance(worker.family, MujocoFamily):
            raise TypeError(f"env: expected a MuJoCo family, got '{config.env}'")
        chosen = choose_episodes(worker, state, stages, split)
        recorder = cast(_PositionRecorder, worker.recorder)
        qpos = [
            [recorder.episode(chosen.collection(stage), *where) for stage, where in enumerate(zip(*row, strict=True))]
            for row in zip(chosen.lanes, chosen.starts, chosen.lengths, strict=True)
        ]
        family, tasks, by_episode = worker.family, chosen.tasks, chosen.by_episode
        return RecordedEpisodes(family, tasks, qpos, chosen.returns, chosen.ended, by_episode)
    finally:
        worker.close()


class Recorder:
    """Wraps a family and looks at it before and after each step.

    collection, time: the number of the one that is being sampled, and of its steps so far. A reset of all lanes starts
    a new collection.
    """

    def __init__(self, family: TaskVectorEnv) -> None:
        self.family: Any = family
        self.collection, self.time = -1, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        result = self.family.reset(**arguments)
        if arguments.get("options") is None:
            self.collection, self.time = self.collection + 1, 0
        return result

    def step(self, actions: np.ndarray) -> StepResult:
        self.before_step()
        result = self.family.step(actions)
        self.time += 1
        self.after_step()
        return result

    def before_step(self) -> None:
        """Episodes may have started."""

    def after_step(self) -> None:
        """Episodes may have ended; no new one has started yet."""


class RecordingWorker(Worker):
    """A worker that has all that it samples recorded. recorder: the last that `wrap` has made, for a block of tasks."""

    recorder: Recorder

    def __init__(self, config: Config, wrap: Callable[[TaskVectorEnv], Recorder]) -> None:
        super().__init__(config)
        self._wrap = wrap

    def _sample(self, env: TaskVectorEnv, *arguments: Any) -> Sampled:
        self.recorder = self._wrap(env)
        return super()._sample(cast(TaskVectorEnv, self.recorder), *arguments)


class _PositionRecorder(Recorder):
    """Keeps the positions [M·N, nq] of each collection before and after every step."""

    def __init__(self, family: TaskVectorEnv) -> None:
        super().__init__(family)
        self._before: list[list[np.ndarray]] = []
        self._after: list[list[np.ndarray]] = []

    def before_step(self) -> None:
        if self.time == 0:
            self._before.append([])
            self._after.append([])
        self._before[-1].append(self.family.qpos.copy())

    def after_step(self) -> None:
        self._after[-1].append(self.family.qpos.copy())

    def episode(self, collection: int, lane: int, start: int, length: int) -> np.ndarray:
        """At the start and after each of the episode's steps, [length + 1, nq]."""
        after = self._after[collection][start : start + length]
        return np.stack([self._before[collection][start][lane], *(positions[lane] for positions in after)])


@dataclass(frozen=True)
class SampledStages:
    """Rollouts at each of K+1 stages of learning M held-out tasks.

    family: a lane of the tasks' family. rollouts [K+1]: of each stage, [M, N, …]. observations [K+1]: of these, as the
    family gave them, [M, N, T, O]. returns: [M, K+1]. names: of the tasks. by_episode: stages are the episodes of a
    trial, not numbers of adaptation steps. expected_rewards: for observations [k, O], what the policy believes at the
    end of each stage's episode, in the first lane, to be rewarded where an action leads to them, [M, K+1, k]; or None.
    expectation: what these numbers are, in words.
    """

    family: TaskVectorEnv
    tasks: Sequence[Task]
    rollouts: Sequence[Rollouts]
    observations: Sequence[np.ndarray]
    returns: np.ndarray
    names: Sequence[str]
    by_episode: bool
    expected_rewards: Callable[[np.ndarray], np.ndarray | None]
    expectation: str

    @property
    def connected(self) -> np.ndarray:
        """Whether an observation and the next belong to the same episode, bool [M, K+1, N, T-1]."""
        unbroken = [(data.mask[..., 1:] > 0) & ~data.episode_start[..., 1:] for data in self.rollouts]
        return np.stack([flags.numpy() for flags in unbroken], axis=1)


def sampled_stages(
    config: Config,
    state: Mapping[str, Any],
    rollouts_per_task: int,
    stages: int | None = None,
    split: str = "test",
) -> SampledStages:
    """Rollouts at each stage of learning a task, on one held-out task of each mode; on four, where there is one mode.

    stages: None for the number that the algorithm trains with. Raises UsageError for numbers that are not finite and
    for environments that fail.
    """
    worker = Worker(config.replace(rollouts_per_meta_task=rollouts_per_task))
    try:
        parameters = worker.algorithm.spec.flatten(state["parameters"])
        with in_a_line():
            tasks = one_of_each_mode(worker, split)
            vector = worker.statistics(state).vector()
            statistics = worker.collect(parameters, vector, list(enumerate(tasks)), FRESH, split, stages)
        assert worker.block is not None
        trials = worker.block.rollouts[0]
        rollouts = worker.stages_of(worker.block.rollouts, statistics["return"].shape[1])
        scaling = Scaling.from_vector(vector)
        observed = [data.observations if scaling is None else scaling.original(data.observations) for data in rollouts]

        def expected_rewards(observations: np.ndarray) -> np.ndarray | None:
            seen = torch.from_numpy(observations.astype(np.float32))
            seen = seen if scaling is None else scaling.normalised(seen)
            first_lane = trials.only_lanes([0])
            until = first_lane.episode_numbers()[:, :, None] <= torch.arange(len(rollouts))[:, None]
            steps = (until & (first_lane.mask[:, :, None] > 0)).sum(-1)
            found = worker.algorithm.expected_rewards(parameters, first_lane, steps, seen)
            return None if found is None else found[:, 0].numpy()

        return SampledStages(
            family=worker.family,
            tasks=tasks,
            rollouts=rollouts,
            observations=[values.numpy() for values in observed],
            returns=statistics["return"],
            names=names_of(tasks, worker.spec),
            by_episode=worker.algorithm.credit == "trial",
            expected_rewards=expected_rewards,
            expectation=worker.algorithm.expectation,
        )
    finally:
        worker.close()


def point_mass_trajectories(sampled: SampledStages) -> Trajectories:
    """Those of a point mass."""
    tasks = sampled.tasks
    return Trajectories(
        positions=np.stack([values[..., :2] for values in sampled.observations], axis=1),
        connected=sampled.connected,
        goals=np.stack([task.values["goal"] for task in tasks]),
        returns=sampled.returns,
        names=sampled.names,
        gaps=np.stack([task.values["gaps"] for task in tasks]) if "gaps" in tasks[0].values else None,
        by_episode=sampled.by_episode,
    )


def one_of_each_mode(worker: Worker, split: str) -> Sequence[Task]:
    """The first held-out task of each mode; four tasks if the family has a single mode.

    Raises RunStopped, as `Worker.sample_tasks`.
    """
    num_modes = worker.spec.num_modes
    tasks = worker.sample_tasks(32 * num_modes, FRESH, split)
    if num_modes == 1:
        return tasks[:4]
    first = {task.mode: task for task in reversed(tasks)}
    return [first[mode] for mode in sorted(first)]


def names_of(tasks: Sequence[Task], family: EnvSpec | TaskVectorEnv) -> list[str]:
    """Tasks by the modes of their family, or by their numbers where there is one mode."""
    if family.num_modes > 1:
        return [mode_label(task.mode, family.mode_names) for task in tasks]
    return [f"task {number}" for number in range(len(tasks))]
