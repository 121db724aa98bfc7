"""Records episodes of a trained policy, from which its pictures are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mmaml.config.keys import Config
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.point_mass import PointMass
from mmaml.evaluation.held_out import FRESH, in_a_line
from mmaml.figures.trajectories import Trajectories
from mmaml.sampling.rollouts import Rollouts
from mmaml.worker import Worker


@dataclass(frozen=True)
class RecordedEpisodes:
    """One episode of each of M MuJoCo tasks after 0 … K adaptation steps.

    family: of the tasks. qpos[m][k]: positions at the start and after each of the episode's L steps, [L + 1, nq].
    returns: [M, K+1]. ended: whether the episode ended before the horizon, bool [M, K+1].
    """

    family: MujocoFamily
    tasks: Sequence[Task]
    qpos: Sequence[Sequence[np.ndarray]]
    returns: np.ndarray
    ended: np.ndarray


def record(config: Config, state: Mapping[str, Any], collections: int, split: str) -> RecordedEpisodes:
    """Adapt to one held-out task of each mode, as an evaluation does, and record one episode of every collection.

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
            worker.collect(parameters, None, list(enumerate(tasks)), FRESH, split, collections)
        assert worker.block is not None
        shown = [
            _typical(data, np.stack(qpos)) for data, qpos in zip(worker.block.rollouts, worker.recorded, strict=True)
        ]
        qpos, returns, lengths = (
            [list(row) for row in zip(*column, strict=True)] for column in zip(*shown, strict=True)
        )
        return RecordedEpisodes(
            worker.family, tasks, qpos, np.array(returns), np.array(lengths) < config.max_path_length
        )
    finally:
        worker.close()


def _typical(data: Rollouts, qpos: np.ndarray) -> tuple[list[np.ndarray], list[float], list[int]]:
    """For each task, its first episode whose return is nearest to their mean: positions, return, number of steps.

    qpos: of one collection, [T + 1, M·N, nq].
    """
    lanes = data.rewards.shape[1]
    lengths = data.episode_end.numpy().argmax(-1) + 1
    steps = np.arange(data.rewards.shape[2])
    returns = np.where(steps < lengths[..., None], data.rewards.numpy(), 0).sum(-1)
    nearest = np.abs(returns - returns.mean(1, keepdims=True)).argmin(1)
    kept = [(task, int(lane), int(lengths[task, lane])) for task, lane in enumerate(nearest)]
    return (
        [qpos[: length + 1, task * lanes + lane] for task, lane, length in kept],
        [float(returns[task, lane]) for task, lane, _ in kept],
        [length for *_, length in kept],
    )


class _RecordingWorker(Worker):
    """A worker that records, for each collection, the positions before the first step and after every step."""

    recorded: Sequence[list[np.ndarray]] = ()

    def _sample(self, env: TaskVectorEnv, *arguments: Any) -> tuple[list[Rollouts], np.ndarray]:
        recorder = _Recorder(cast(MujocoFamily, env))
        self.recorded = recorder.recorded
        return super()._sample(cast(TaskVectorEnv, recorder), *arguments)


class _Recorder:
    """Wraps a family and records its positions [M·N, nq]; a reset of all lanes starts a new list."""

    def __init__(self, family: MujocoFamily) -> None:
        self._family = family
        self.recorded: list[list[np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        result = self._family.reset(**arguments)
        if arguments.get("options") is None:
            self.recorded.append([self._family.qpos.copy()])
        return result

    def step(self, actions: np.ndarray) -> StepResult:
        result = self._family.step(actions)
        self.recorded[-1].append(self._family.qpos.copy())
        return result


def point_mass_trajectories(
    config: Config,
    state: Mapping[str, Any],
    rollouts_per_task: int,
    collections: int | None = None,
    split: str = "test",
) -> Trajectories | None:
    """Rollouts before and after each adaptation step on one held-out task of each mode.

    None if the environment is not a point mass. A family with a single mode is shown on four tasks. collections: None
    for the number that the algorithm trains with. Raises UsageError for numbers that are not finite and for
    environments that fail.
    """
    worker = Worker(config.replace(rollouts_per_meta_task=rollouts_per_task))
    try:
        if not issubclass(worker.spec.family, PointMass):
            return None
        parameters = worker.algorithm.spec.flatten(state["parameters"])
        with in_a_line():
            tasks = one_of_each_mode(worker, split)
            statistics = worker.collect(parameters, None, list(enumerate(tasks)), FRESH, split, collections)
        assert worker.block is not None
        rollouts = worker.block.rollouts
        unbroken = [(data.mask[..., 1:] > 0) & ~data.episode_start[..., 1:] for data in rollouts]
        label = "mode" if worker.spec.num_modes > 1 else "task"
        return Trajectories(
            positions=np.stack([data.observations[..., :2].numpy() for data in rollouts], axis=1),
            connected=np.stack([flags.numpy() for flags in unbroken], axis=1),
            goals=np.stack([task.values["goal"] for task in tasks]),
            returns=statistics["return"],
            names=[f"{label} {task.mode if label == 'mode' else number}" for number, task in enumerate(tasks)],
            gaps=np.stack([task.values["gaps"] for task in tasks]) if "gaps" in tasks[0].values else None,
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
