"""Runs and pieces of runs that several tests need."""

from __future__ import annotations

import csv
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.declaration_file import declaration_of
from mmaml.config.keys import Config
from mmaml.config.loading import load_config
from mmaml.errors import Failure
from mmaml.meta_batch import Master
from mmaml.parallel.ranks import connect
from mmaml.seeding import generator
from mmaml.storage import checkpoint
from mmaml.trainer import train
from mmaml.worker import Worker

SMALL = {
    "meta_batch_size": 4,
    "rollouts_per_meta_task": 3,
    "max_path_length": 7,
    "hidden_sizes": [8, 8],
    "cell_size": 8,
    "num_promp_steps": 2,
    "n_itr": 2,
    "parallel": False,
}

# What a configuration of an algorithm has to say.
REQUIRED: dict[str, dict[str, Any]] = {
    "maesn": {"num_train_tasks": 6},
    "tesp": {"num_inner_grad_steps": 2},
}

# By how they adapt: those that take inner steps, those that remember, and both; others do not adapt.
STEPPING = [n for n in ALGORITHMS if declaration_of(n).credit == "episode" and declaration_of(n).inner_steps]
REMEMBERING = [name for name in ALGORITHMS if declaration_of(name).credit == "trial"]
ADAPTING = [name for name in ALGORITHMS if declaration_of(name).adapts]

# Every algorithm, and other ways of the meta-gradient and the meta-update than its own.
VARIANTS: dict[str, dict[str, Any]] = {
    name: {"algorithm": name} | REQUIRED.get(name, {}) for name in sorted(ALGORITHMS)
}
VARIANTS |= {f"maml, {update}": {"algorithm": "maml", "meta_update": update} for update in ("ppo", "vpg")}
VARIANTS["rl2, readout"] = {"algorithm": "rl2", "readout_size": 8, "previous_observation": True}
VARIANTS |= {
    "maml, first order": {"algorithm": "maml", "first_order": True},
    "mmaml, trpo": {"algorithm": "mmaml", "meta_update": "trpo", "cg_iters": 2},
    "tesp, trpo": VARIANTS["tesp"] | {"meta_update": "trpo", "fisher_rollouts": 2, "cg_iters": 2},
}

TASKS = 5  # of `new_worker`


def small_config(algorithm: str = "mmaml", **overrides: Any) -> Config:
    """A config of a run that takes a moment."""
    return load_config(None, SMALL | REQUIRED.get(algorithm, {}) | overrides, algorithm)


def run(config: Config) -> dict[str, Any]:
    """Train in this process; the last checkpoint."""
    with connect(parallel=False) as ranks:
        train(config, ranks)
    assert config.dump_path is not None
    return checkpoint.load(config.dump_path)


class Log:
    """Keeps what a master reports: lines, and indices of tasks whose environments failed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed: list[int] = []
        self.errors: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)

    def task_failed(self, index: int, failure: Failure) -> None:
        self.failed.append(index)
        self.errors.append(failure.error)


def sampled(config: Config, iteration: int = 0) -> tuple[Worker, torch.Tensor, dict[str, Any]]:
    """A worker that has collected one meta-batch with the initial parameters; they; the statistics."""
    worker = Worker(config)
    parameters = worker.algorithm.spec.flatten(worker.algorithm.init(generator(config.seed, "parameters")))
    with connect(parallel=False) as ranks:
        ranks.serve(worker)
        tasks = worker.sample_tasks(config.meta_batch_size, iteration)
        statistics = Master(config, ranks, worker, Log()).collect(parameters, tasks, iteration)
    return worker, parameters, statistics


def new_worker(algorithm: str, **overrides: Any) -> tuple[Worker, torch.Tensor, list[Any]]:
    """A worker, initial parameters, and `TASKS` tasks to collect, each with its index."""
    config = small_config(algorithm, **{"meta_batch_size": TASKS, "num_inner_grad_steps": 2} | overrides)
    worker = Worker(config)
    parameters = worker.algorithm.spec.flatten(worker.algorithm.init(generator(config.seed, "parameters")))
    return worker, parameters, list(enumerate(worker.sample_tasks(TASKS, 0)))


def held_out_returns(config: Config, state: dict[str, Any], tasks: int = 100, stages: int | None = None) -> np.ndarray:
    """Mean returns of tasks that training never saw, at each stage of learning them: [tasks, stages]."""
    worker = Worker(config)
    with connect(parallel=False) as ranks:
        ranks.serve(worker)
        drawn = worker.sample_tasks(tasks, 0, purpose="test")
        parameters = worker.algorithm.spec.flatten(state["parameters"])
        master = Master(config, ranks, worker, Log(), state)
        return master.collect(parameters, drawn, 0, purpose="test", stages=stages)["return"]


def assert_same_states(ours: Any, theirs: Any, where: str = "") -> None:
    """Of two checkpoints all but times."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds", "config"}:
            assert_same_states(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def save_checkpoint(
    directory: Path, iteration: int, state: dict[str, Any], *, keep: int, keep_every_hours: float = 0.0
) -> Path:
    """A checkpoint that is written, and others pruned, as a run does."""
    path = checkpoint.write(directory, iteration, state)
    checkpoint.prune(directory, iteration, keep=keep, keep_every_hours=keep_every_hours)
    return path


def dump(tmp_path: Path, name: str) -> str:
    """A directory for a run, as config text."""
    return str(tmp_path / name)


def progress(run: str | Path) -> list[dict[str, str]]:
    """The rows of a run's log."""
    with open(Path(run) / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


@contextmanager
def files_no_larger(size: int) -> Iterator[None]:
    """While this lasts, this process and those it starts meet a disk that takes no file of more bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
