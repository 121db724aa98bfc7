"""Runs and pieces of runs that several tests need."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from mmaml import checkpoint
from mmaml.comm import connect
from mmaml.config import Config, load_config
from mmaml.seeding import generator
from mmaml.trainer import train
from mmaml.worker import Worker, collect

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


def small_config(algorithm: str = "mmaml", **overrides: Any) -> Config:
    """A config of a run that takes a moment."""
    return load_config(None, SMALL | overrides, algorithm)


def run(config: Config) -> dict[str, Any]:
    """Train in this process; the last checkpoint."""
    with connect(parallel=False) as ranks:
        train(config, ranks)
    assert config.dump_path is not None
    return checkpoint.load(config.dump_path)


def sampled(config: Config, iteration: int = 0) -> tuple[Worker, torch.Tensor, dict[str, Any]]:
    """A worker that has collected one meta-batch with the initial parameters; they; the statistics."""
    worker = Worker(config)
    parameters = worker.algorithm.spec.flatten(worker.algorithm.init(generator(config.seed, "parameters")))
    with connect(parallel=False) as ranks:
        ranks.serve(worker)
        tasks = worker.sample_tasks(config.meta_batch_size, iteration)
        statistics = collect(ranks, worker, parameters, tasks, iteration)
    return worker, parameters, statistics


def dump(tmp_path: Path, name: str) -> str:
    """A directory for a run, as config text."""
    return str(tmp_path / name)


def progress(run: str | Path) -> list[dict[str, str]]:
    """The rows of a run's log."""
    with open(Path(run) / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))
