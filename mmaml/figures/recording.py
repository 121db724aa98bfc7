"""Records episodes of a trained policy, from which its pictures are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from mmaml.config.keys import Config
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.point_mass import PointMass
from mmaml.evaluation.held_out import FRESH, in_a_line
from mmaml.figures.trajectories import Trajectories
from mmaml.sampling.normalisation import Scaling
from mmaml.sampling.rollouts import Rollouts
from mmaml.worker import Worker


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
    """Adapt to one held-out task of each mode, as an evaluation does, and record one episode of every stage.

    Of the first episodes of the task's rollouts, the one whose return is nearest to their mean. Raises TypeError if the
    family is not a MuJoCo family, and UsageError for numbers that are not finite and for environments that fail.
    """
    worker = _RecordingWorker(config)
    try:
        if not isinstance(worker.family, MujocoFamily):
            raise TypeError(f"env: expected a MuJoCo family, got '{config.env}'")
        parameters = worker.algorithm.spec.flatten(state["parameters"])
        with in_a_line():
            tasks = one_of_each_mode(worker, split)
            scaling = worker.statistics(state).vector()
            worker.collect(parameters, scaling, list(enumerate(tasks)), FRESH, split, stages)
        assert worker.block is not None
        sampled = list(zip(worker.block.rollouts, worker.recorded, strict=True))
        if worker.algorithm.credit == "trial":
            shown = [_typical(*sampled[0], number, config.max_path_length) for number in range(stages)]
        else:
            shown = [_typical(data, positions, 0, config.max_path_length) for data, positions in sampled]
        qpos, returns, lengths = (
            [list(row) for row in zip(*column, strict=True)] for column in zip(*shown, strict=True)
        )
        ended = np.array(lengths) < config.max_path_length
        by_episode = worker.algorithm.credit == "trial"
        return RecordedEpisodes(worker.family, tasks, qpos, np.array(returns), ended, by_episode)
    finally:
        worker.close()


def _typical(
    data: Rollouts, positions: Positions, number: int, horizon: int
) -> tuple[list[np.ndarray], list[float], list[int]]:
    """For each task the episode of a lane whose return is nearest to their mean: positions, return, number of steps.

    number: which episode of its lane. horizon: steps of the longest.
    """
    lanes = data.rewards.shape[1]
    episode = data.episode(number, horizon)
    first = (data.episode_numbers() == number).int().argmax(-1).numpy()
    lengths = episode.mask.sum(-1).int().numpy()
    returns = np.where(episode.mask > 0, episode.rewards.numpy(), 0).sum(-1)
    nearest = np.abs(returns - returns.mean(1, keepdims=True)).argmin(1)
    qpos, chosen = [], []
    for task, lane in enumerate(nearest):
        start, end = int(first[task, lane]), int(first[task, lane] + lengths[task, lane])
        index = task * lanes + lane
        qpos.append(np.stack([positions.before[start][index], *(after[index] for after in positions.after[start:end])]))
        chosen.append((float(returns[task, lane]), end - start))
    return qpos, [value for value, _ in chosen], [length for _, length in chosen]


class Positions(NamedTuple):
    """Positions [M·N, nq] of a collection: before every step, and after it, where no episode has started anew yet."""

    before: list[np.ndarray]
    after: list[np.ndarray]


class _RecordingWorker(Worker):
    """A worker that records the positions of each collection."""

    recorded: Sequence[Positions] = ()

    def _sample(self, env: TaskVectorEnv, *arguments: Any) -> tuple[list[Rollouts], np.ndarray]:
        recorder = _Recorder(cast(MujocoFamily, env))
        self.recorded = recorder.recorded
        return super()._sample(cast(TaskVectorEnv, recorder), *arguments)


class _Recorder:
    """Wraps a family and records its positions; a reset of all lanes starts a new collection."""

    def __init__(self, family: MujocoFamily) -> None:
        self._family = family
        self.recorded: list[Positions] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        result = self._family.reset(**arguments)
        if arguments.get("options") is None:
            self.recorded.append(Positions([], []))
        return result

    def step(self, actions: np.ndarray) -> StepResult:
        self.recorded[-1].before.append(self._family.qpos.copy())
        result = self._family.step(actions)
        self.recorded[-1].after.append(self._family.qpos.copy())
        return result


def point_mass_trajectories(
    config: Config,
    state: Mapping[str, Any],
    rollouts_per_task: int,
    stages: int | None = None,
    split: str = "test",
) -> Trajectories | None:
    """Rollouts at each stage of learning a task, on one held-out task of each mode.

    None if the environment is not a point mass. A family with a single mode is shown on four tasks. stages: None for
    the number that the algorithm trains with. Raises UsageError for numbers that are not finite and for environments
    that fail.
    """
    worker = Worker(config.replace(rollouts_per_meta_task=rollouts_per_task))
    try:
        if not issubclass(worker.spec.family, PointMass):
            return None
        parameters = worker.algorithm.spec.flatten(state["parameters"])
        with in_a_line():
            tasks = one_of_each_mode(worker, split)
            vector = worker.statistics(state).vector()
            statistics = worker.collect(parameters, vector, list(enumerate(tasks)), FRESH, split, stages)
        assert worker.block is not None
        rollouts = worker.stages_of(worker.block.rollouts, statistics["return"].shape[1])
        scaling = Scaling.from_vector(vector)
        observed = [data.observations if scaling is None else scaling.original(data.observations) for data in rollouts]
        unbroken = [(data.mask[..., 1:] > 0) & ~data.episode_start[..., 1:] for data in rollouts]
        label = "mode" if worker.spec.num_modes > 1 else "task"
        return Trajectories(
            positions=np.stack([values[..., :2].numpy() for values in observed], axis=1),
            connected=np.stack([flags.numpy() for flags in unbroken], axis=1),
            goals=np.stack([task.values["goal"] for task in tasks]),
            returns=statistics["return"],
            names=[f"{label} {task.mode if label == 'mode' else number}" for number, task in enumerate(tasks)],
            gaps=np.stack([task.values["gaps"] for task in tasks]) if "gaps" in tasks[0].values else None,
            by_episode=worker.algorithm.credit == "trial",
        )
    finally:
        worker.close()


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
