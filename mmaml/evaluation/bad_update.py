"""A meta-batch whose numbers went bad: written down by a run that it ends, repeated to see what was wrong.

The file is a checkpoint of the state before the iteration, with the finding and, where all tasks were sampled, their
rollouts. An iteration follows from its state, so that it is repeated from the environment; the stored rollouts are
for one that does not do the same again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmaml.algorithms.base import Algorithm
from mmaml.config.keys import Config
from mmaml.config.loading import build_config
from mmaml.envs.base import Task
from mmaml.errors import ConfigError, NotFinite, TasksFailed, UsageError, described
from mmaml.policies.params import ParamSpec
from mmaml.sampling import finite
from mmaml.sampling.rollouts import Rollouts
from mmaml.storage import checkpoint
from mmaml.storage.bad_update_file import FINDING, ROLLOUTS
from mmaml.storage.checkpoint_format import CheckpointError
from mmaml.storage.compatibility import check_fits
from mmaml.task_block import TaskBlock
from mmaml.updates import losses
from mmaml.updates.evaluate import Evaluate, Question, Results
from mmaml.updates.finite import checked, not_finite_results, require_finite
from mmaml.worker import Worker


class Report(NamedTuple):
    """What a repeated iteration showed. findings: a line for each tensor of a task that is not finite; none if all are.

    largest: lines with the largest numbers met. stored: whether it took the stored rollouts to find anything.
    """

    findings: list[str]
    largest: list[str]
    stored: bool = False


def repeat_update(path: Path, config: Config, state: Mapping[str, Any]) -> Report:
    """Repeat the iteration of the dump at `path`, in this process; config, state: as `load_dump` gives them.

    Raises UsageError where the state is not of the configuration, and RunStopped where no tasks are to be had.
    """
    torch.set_num_threads(1)  # as every rank of a run has, for the same bits
    worker = _Witness(config)
    with _naming_path():
        check_fits(state, path, config, worker.algorithm)
    try:
        fresh = _from_environment(worker, state)
    finally:
        worker.close()
    if fresh.findings or worker.block is None or ROLLOUTS not in state:
        return fresh
    stored = _stored_rollouts(state[ROLLOUTS], worker.block.rollouts, config)
    again = _updated(worker, state, TaskBlock(worker.algorithm, stored))
    return again._replace(stored=True) if again.findings else fresh


class _Witness(Worker):
    """A worker that notes all that is not finite in a collection before it stops."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.noted: list[str] = []

    def check_finite(self, data: Rollouts, tasks: Sequence[Task], collection: int, names: Collection[str]) -> None:
        found = finite.findings(data, names)
        task_indices = data.task_index.tolist()
        for one in found:
            where = finite.named(task_indices[one.block_index], tasks[one.block_index], collection)
            self.noted.append(f"{where}, {one} ({one.entries} of the tensor's entries are not finite)")
        if self.noted and names is finite.PROCESSED:
            raise NotFinite(self.noted[0])
        if not found:
            super().check_finite(data, tasks, collection, names)


def _from_environment(worker: _Witness, state: Mapping[str, Any]) -> Report:
    iteration = state["iteration"]
    parameters = worker.algorithm.spec.flatten(state["parameters"])
    with _naming_path():
        scaling = worker.statistics(state).vector()
    findings, failed = [], []
    for item in enumerate(worker.sample_tasks(worker.config.meta_batch_size, iteration)):
        worker.noted = []
        try:
            worker.collect(parameters, scaling, [item], iteration, extend=True)
        except TasksFailed as error:
            failed.append(f"task {item[0]} was left out: its environment failed ({error.failures[0].error})")
        except NotFinite as error:
            findings += worker.noted or [str(error)]
    if findings or worker.block is None:
        held = [] if worker.block is None else _largest_sampled(worker.block.rollouts)
        return Report(findings, failed + held)
    report = _updated(worker, state, worker.block)
    return report._replace(largest=failed + report.largest)


def _updated(worker: Worker, state: Mapping[str, Any], block: TaskBlock) -> Report:
    """What comes of the update on rollouts that are finite themselves."""
    algorithm, spec = worker.algorithm, worker.algorithm.spec
    parameters = spec.flatten(state["parameters"])
    algorithm.load_state_dict(copy.deepcopy(state["algorithm"]))
    evaluate = replace(block.evaluate(), scaling=worker.statistics(state).vector())
    watched = _Watched(evaluate)
    findings = []
    try:
        updated, _ = algorithm.update(parameters, checked(evaluate.through(watched), spec), state["iteration"])
        watched.parameters = updated
        require_finite(spec, updated)
    except NotFinite as error:
        findings = watched.not_finite(spec) or [str(error)]
    largest = _largest_sampled(block.rollouts) + _largest_ratios(algorithm, watched.parameters, block.rollouts)
    for name, value in watched.result.items():
        if value.ndim == 2 and value.shape[1] == spec.total:
            largest += _largest_entries(algorithm, f"{name} of", torch.from_numpy(value))
    return Report(findings, largest + _largest_entries(algorithm, "parameter", watched.parameters))


class _Watched:
    """Answers as an `Evaluate` does, and keeps the last question and its answer."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self.question = Question("", torch.empty(0))
        self.parameters = torch.empty(0)
        self.evaluations = 0
        self.result: Results = {}

    def __call__(self, question: Question) -> Results:
        self.question, self.parameters = question, question.parameters
        self.evaluations += 1
        self.result = self._evaluate(question)
        return self.result

    def not_finite(self, spec: ParamSpec) -> list[str]:
        """A line for each task and tensor of the last result that is not finite."""
        tasks = self._evaluate.tasks if self.question.tasks is None else self.question.tasks
        return not_finite_results(spec, self.question.function, self.evaluations, tasks, self.result)


# The largest numbers.
def _largest_sampled(rollouts: Sequence[Rollouts]) -> list[str]:
    lines = []
    for collection, data in enumerate(rollouts):
        for name in ("observations", "actions", "rewards", "advantages"):
            sizes = getattr(data, name).abs()
            if sizes.dim() == 4:  # [M, N, T, E]
                sizes = sizes.amax(-1)
            lines.append(f"largest |{finite.EXAMINED[name]}| of collection {collection}: {_of_tasks(sizes, data)}")
    return lines


def _largest_ratios(algorithm: Algorithm, parameters: Tensor, rollouts: Sequence[Rollouts]) -> list[str]:
    """Of π_new / π_old on each collection, at the parameters of the last evaluation.

    None of an algorithm that has no `distribution`, which gives π of all steps of a collection at once.
    """
    distribution = getattr(algorithm, "distribution", None)
    if distribution is None:
        return []
    lines = []
    meta = algorithm.spec.per_task(parameters, rollouts[0].tasks)
    state = algorithm.begin(meta, rollouts[0].identity)
    for collection, data in enumerate(rollouts):
        with torch.no_grad():
            ratios = losses.likelihood_ratio(distribution(state, data), data).view(data.mask.shape)
        lines.append(f"largest likelihood ratio on collection {collection}: {_of_tasks(ratios, data)}")
        if collection < len(rollouts) - 1:
            state = algorithm.adapt(meta, state, rollouts[: collection + 1])
    return lines


def _of_tasks(values: Tensor, data: Rollouts) -> str:
    """The largest of [M, N, T] on real steps, and the task that has it."""
    of_task = torch.where(data.mask > 0, values, 0.0).flatten(1).nan_to_num(nan=math.inf, posinf=math.inf).amax(1)
    block_index = int(of_task.argmax())
    return f"{of_task[block_index]:.4g} (task {int(data.task_index[block_index])})"


def _largest_entries(algorithm: Algorithm, what: str, vectors: Tensor) -> list[str]:
    """Of each tensor of flat vectors [..., P]; what is not finite left out."""
    sizes = torch.where(vectors.isfinite(), vectors, 0.0).detach()
    return [
        f"largest finite |{what} {name}|: {value.abs().max():.4g}"
        for name, value in algorithm.spec.unflatten(sizes).items()
    ]


# The file.
def load_dump(path: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration and state in a dump. Raises UsageError if there is none at `path`, or if it is damaged."""
    with _naming_path():
        state = checkpoint.load(path) if checkpoint.is_file(path) else None
    if state is None:
        expected = "a file bad_update_*.pt that a run has written"
        raise UsageError("FILE", expected=expected, got=f"'{path}'", remedy="check the path")
    if not isinstance(state.get(FINDING), str):
        got = f"'{path}', a checkpoint of an ordinary iteration"
        raise UsageError("FILE", expected="a file bad_update_*.pt", got=got)
    try:
        return build_config(state["config"]), state
    except ConfigError as error:
        raise UsageError("FILE", f"the configuration in '{path}' cannot be used here: {error}") from error


@contextmanager
def _naming_path() -> Iterator[None]:
    """Has the errors of checkpoints name the argument that gives this one."""
    try:
        yield
    except CheckpointError as error:
        raise error.renamed("FILE") from error


def _stored_rollouts(stored: Any, like: Sequence[Rollouts], config: Config) -> list[Rollouts]:
    """Rollouts of the form of others. Raises UsageError."""
    try:
        collections = [Rollouts.from_fields(fields) for fields in stored]
        for ours, theirs in zip(collections, like, strict=True):
            expected = {name: (value.shape[1:], value.dtype) for name, value in theirs.fields().items()}
            if {name: (value.shape[1:], value.dtype) for name, value in ours.fields().items()} != expected:
                raise ValueError("tensors of other shapes or types")
            if not set(ours.task_index.tolist()) <= set(range(config.meta_batch_size)):
                raise ValueError("tasks that are not in the meta-batch")
    except (AttributeError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        got = f"others ({described(error)})"
        raise UsageError("FILE", expected="rollouts as a run writes them", got=got) from error
    return collections
