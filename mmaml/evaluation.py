"""What a trained run is worth: returns after 0 … K adaptation steps on held-out tasks, and how it moves."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import flatdim

from envs.base import Task
from envs.point_mass import PointMass
from envs.registry import make_family
from mmaml import checkpoint, memory
from mmaml.comm import Ranks
from mmaml.config import Config, ConfigError, build_config, check_value
from mmaml.faults import Failure, NotFinite, RunStopped, TasksFailed
from mmaml.plotting import Trajectories
from mmaml.restoring import check_parameters
from mmaml.usage import UsageError
from mmaml.worker import Worker, close_quietly, collect

# Keys the tasks and randomness of an evaluation in place of an iteration that training could reach.
FRESH = 1 << 30
# For numbers of a policy that are not finite.
REMEDY = "lower inner_lr, or take an earlier checkpoint"


def restore(path: str | Path) -> tuple[Config, dict[str, Any]]:
    """The configuration and state in a checkpoint, or in the newest one of a run's directory.

    Raises UsageError if there is none, if its environment is not to be found here, or if its parameters are others
    than its configuration asks for.
    """
    check_value("restore_path", str(path))
    state = checkpoint.load(path)
    try:
        config = build_config(state["config"], trains=False)
    except ConfigError as error:
        raise UsageError(f"restore_path: the configuration in '{path}' cannot be used here: {error}") from error
    worker = Worker(replace(config, rollouts_per_meta_task=1))
    worker.close()
    check_parameters(state["parameters"], path, worker.algorithm.spec.shapes)
    return config, state


def check_split(config: Config, split: str) -> None:
    """Raise UsageError if the configuration's family has no such tasks."""
    family = make_family(config.env, 1, 1, **config.env_kwargs)
    close_quietly(family)
    if split not in family.splits:
        raise UsageError(f"--split: '{config.env}' has {family.splits}, got '{split}'")


def check_memory(config: Config, num_tasks: int, adapt_steps: int, keys: Sequence[str]) -> None:
    """Raise UsageError, naming the keys, if the rollouts of an evaluation, N of each task, cannot fit into memory."""
    family = make_family(config.env, 1, 1, **config.env_kwargs)
    close_quietly(family)
    action_size = flatdim(family.single_action_space)
    if text := memory.shortage([memory.rollouts(config, num_tasks, adapt_steps, action_size, keys)]):
        raise UsageError(text)


@contextmanager
def in_a_line() -> Iterator[None]:
    """Turn what keeps a policy from being evaluated, bad numbers and environments that fail, into UsageError.

    The traceback of a user's code that draws no tasks is told on stderr.
    """
    try:
        yield
    except NotFinite as finding:
        raise UsageError(f"{finding}; {REMEDY}") from finding
    except TasksFailed as error:
        place, text, _ = error.failures[0]
        raise UsageError(f"the environment of task {place} failed ({text}); mend it") from error
    except RunStopped as stop:
        if stop.trace:
            print(stop.trace, file=sys.stderr)
        raise UsageError(str(stop).removeprefix("stopped: ")) from stop


def evaluate(
    ranks: Ranks,
    worker: Worker,
    state: Mapping[str, Any],
    num_tasks: int,
    adapt_steps: int,
    split: str = "test",
) -> dict[str, Any]:
    """Adapt to `num_tasks` fresh tasks and summarise their returns; on rank 0, while the others serve.

    Each task is sampled adapt_steps + 1 times, with one step of adaptation in between, as in training. Its
    return after k steps is the mean, undiscounted, over the whole episodes of collection k. split: "test"
    (tasks like those of training, from a stream that it never sees) or "ood" where the family has it.
    Returns what `summarise` gives. A task whose environment fails is told on stderr and left out. Raises RunStopped, in
    words for `in_a_line`, if all do or a number is not finite.
    """
    tasks = worker.sample_tasks(num_tasks, FRESH, split)
    parameters = worker.algorithm.spec.flatten(state["parameters"])
    ranks.task_failed = _Warner()
    try:
        result = collect(ranks, parameters, tasks, FRESH, purpose=split, collections=adapt_steps + 1)
    except NotFinite as finding:  # ranks that serve are released, not ended
        raise RunStopped(f"stopped: {finding}; {REMEDY}") from finding
    return summarise(result["return"], result["mode"], result["success"])


class _Warner:
    """Tells of tasks that an evaluation goes on without; of equal tracebacks the first alone."""

    def __init__(self) -> None:
        self._traces: set[str] = set()

    def __call__(self, place: int, failure: Failure) -> None:
        trace = "" if failure.trace in self._traces else f"\n{failure.trace.rstrip()}"
        self._traces.add(failure.trace)
        print(
            f"warning: the environment of task {place} failed ({failure.error}); the others go on without it{trace}",
            file=sys.stderr,
        )


def summarise(returns: np.ndarray, modes: np.ndarray, success: np.ndarray) -> dict[str, Any]:
    """Statistics over all tasks and over those of each mode.

    returns and success [M, K+1] (success NaN where a family reports none), modes [M]. The result is ready
    for JSON: {"overall": group, "modes": {mode: group}, "tasks": every task's mode and returns}. A group
    holds its number of tasks and, for each number of adaptation steps, mean, sample standard deviation and
    95% interval of the mean; None where too few tasks were measured to say.
    """
    groups = {str(mode): modes == mode for mode in np.unique(modes)}
    return {
        "overall": _group(returns, success),
        "modes": {mode: _group(returns[chosen], success[chosen]) for mode, chosen in groups.items()},
        "tasks": [
            {"mode": int(mode), "return": [_known(value) for value in row]}
            for mode, row in zip(modes, returns, strict=True)
        ],
    }


def _group(returns: np.ndarray, success: np.ndarray) -> dict[str, Any]:
    steps = [{"adapt_steps": k, **_spread(column)} for k, column in enumerate(returns.T)]
    for step, column in zip(steps, success.T, strict=True):
        if not np.isnan(column).all():
            step["success_rate"] = float(np.nanmean(column))
    return {"num_tasks": len(returns), "return": steps}


def _spread(values: np.ndarray) -> dict[str, Any]:
    """Mean, sample standard deviation and Student's 95% interval of the mean; NaN left out."""
    values = values[~np.isnan(values)].astype(np.float64)
    if not len(values):
        return {"mean": None, "std": None, "interval95": None}
    mean = float(values.mean())
    if len(values) == 1:
        return {"mean": mean, "std": None, "interval95": None}
    std = float(values.std(ddof=1))
    half = student_quantile(0.975, len(values) - 1) * std / math.sqrt(len(values))
    return {"mean": mean, "std": std, "interval95": [mean - half, mean + half]}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@cache
def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, by integrating its density.

    With t = √n · tan(φ) the density of φ is proportional to cos(φ)^(n-1) on a finite interval.
    """
    angle = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    density = np.cos(angle[:-1] + (angle[1] - angle[0]) / 2) ** (degrees - 1)
    cumulative = np.concatenate([[0.0], density.cumsum()])
    return math.sqrt(degrees) * math.tan(np.interp(probability, cumulative / cumulative[-1], angle))


def table(summary: Mapping[str, Any]) -> str:
    """The statistics of `summarise` as text, a row for each group and number of adaptation steps."""
    groups = {f"mode {mode}": group for mode, group in summary["modes"].items()}
    groups["all tasks"] = summary["overall"]
    succeeds = any("success_rate" in step for step in summary["overall"]["return"])
    header = f"{'':12}{'tasks':>6}{'steps':>7}{'mean':>12}{'std':>12}   {'95% interval':24}"
    lines = [header + ("success" if succeeds else "")]
    for name, group in groups.items():
        for index, step in enumerate(group["return"]):
            start = f"{name:12}{group['num_tasks']:6d}" if index == 0 else " " * 18
            interval = "" if step["interval95"] is None else "[{:.2f}, {:.2f}]".format(*step["interval95"])
            success = f"{100 * step['success_rate']:6.1f}%" if "success_rate" in step else ""
            numbers = f"{step['adapt_steps']:7d}{_decimal(step['mean'])}{_decimal(step['std'])}"
            lines.append(f"{start}{numbers}   {interval:24}{success}".rstrip())
    return "\n".join(line.rstrip() for line in lines)


def _decimal(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{value:12.2f}"


def point_mass_trajectories(
    config: Config,
    state: Mapping[str, Any],
    rollouts_per_task: int,
    collections: int | None = None,
    split: str = "test",
) -> Trajectories | None:
    """Rollouts before and after each adaptation step on one held-out task of each mode.

    None if the environment is not a point mass. A family of a single mode is shown on four tasks. collections: the
    algorithm's own number when None. Raises UsageError for numbers that are not finite and environments that fail.
    """
    worker = Worker(replace(config, rollouts_per_meta_task=rollouts_per_task))
    try:
        family = worker.family
        if not isinstance(family, PointMass):
            return None
        parameters = worker.algorithm.spec.flatten(state["parameters"])
        with in_a_line():
            tasks = one_of_each_mode(worker, split)
            statistics = worker.collect(parameters, None, list(enumerate(tasks)), FRESH, split, collections)
        assert worker.block is not None
        rollouts = worker.block.rollouts
        unbroken = [(data.mask[..., 1:] > 0) & ~data.episode_start[..., 1:] for data in rollouts]
        label = "mode" if family.num_modes > 1 else "task"
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
    """The first held-out task of each mode among many; four tasks of a family of a single mode.

    Raises RunStopped, as `Worker.sample_tasks`.
    """
    num_modes = worker.family.num_modes
    tasks = worker.sample_tasks(32 * num_modes, FRESH, split)
    if num_modes == 1:
        return tasks[:4]
    first = {task.mode: task for task in reversed(tasks)}
    return [first[mode] for mode in sorted(first)]
