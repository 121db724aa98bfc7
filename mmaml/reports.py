"""What an iteration and a run report: return columns, evaluation on held-out tasks, task embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmaml.checkpoint import atomic_file
from mmaml.comm import Ranks
from mmaml.config import Config
from mmaml.faults import NotFinite
from mmaml.usage import disk_reason
from mmaml.worker import Worker, collect

Statistics = dict[str, np.ndarray]


def returns_row(sampled: Statistics, prefix: str = "") -> dict[str, float]:
    """Columns of the log: returns over the tasks' means and over all their episodes; how often physics blew up."""
    row: dict[str, float] = {}
    for step in range(sampled["return"].shape[1]):
        mean, episodes = sampled["return"][:, step], sampled["episodes"][:, step]
        second_moment = sampled["return_std"][:, step] ** 2 + mean**2
        average = float(np.average(mean, weights=episodes))
        variance = max(float(np.average(second_moment, weights=episodes)) - average**2, 0.0)
        name = f"{prefix}Step_{step}-"
        row[name + "AverageReturn"] = average
        row[name + "StdReturn"] = variance**0.5
        row[name + "MinReturn"] = float(sampled["return_min"][:, step].min())
        row[name + "MaxReturn"] = float(sampled["return_max"][:, step].max())
        row[name + "NumEpisodes"] = float(episodes.sum())
        if not np.isnan(sampled["success"]).all():
            row[name + "SuccessRate"] = float(np.average(sampled["success"][:, step], weights=episodes))
    if not np.isnan(sampled["blow_ups"]).all():
        row[prefix + "BlowUps"] = float(sampled["blow_ups"].sum())
    return row


def evaluation_row(
    config: Config, ranks: Ranks, worker: Worker, parameters: Tensor, iteration: int
) -> dict[str, float]:
    """Returns on held-out tasks, the same tasks each time; NaN in iterations without an evaluation, or a bad one."""
    if config.eval_interval == 0:
        return {}
    names = [f"Eval-Step_{step}-AverageReturn" for step in range(worker.algorithm.collections)]
    unknown = dict.fromkeys(names, float("nan"))
    if (iteration + 1) % config.eval_interval and iteration + 1 < config.n_itr:
        return unknown
    tasks = worker.sample_tasks(config.eval_num_tasks, 0, purpose="test")
    try:
        row = returns_row(collect(ranks, parameters, tasks, iteration, purpose="test"), "Eval-")
    except NotFinite as finding:
        ranks.roster.report(f"warning: iteration {iteration}: no evaluation, since on held-out tasks, {finding}")
        return unknown
    return {name: row[name] for name in names}


def write_embeddings(config: Config, ranks: Ranks, worker: Worker, parameters: Tensor) -> None:
    """Task embeddings and their tasks for `num_embeddings` held-out tasks, into `te_save_path` (.npz).

    Arrays: embedding [n, H], mode [n], and one array for every entry of the tasks, e.g. goal [n, 2]; text
    (JSON) where the tasks' entries differ in shape. Bad numbers, or a disk that refuses, end no run that has finished.
    """
    if config.te_save_path is None or "embed" not in worker.algorithm.functions:
        return
    path = Path(config.te_save_path)
    try:
        arrays = _embeddings(config, ranks, worker, parameters)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(file, **arrays)
    except NotFinite as finding:
        ranks.roster.report(f"warning: no task embeddings, since on held-out tasks, {finding}")
    except OSError as error:
        ranks.roster.report(
            f"warning: te_save_path: '{path}' could not be written ({disk_reason(error)}); make room, and again with "
            f"--restore_path {config.dump_path}"
        )


def _embeddings(config: Config, ranks: Ranks, worker: Worker, parameters: Tensor) -> dict[str, Any]:
    drawn = worker.sample_tasks(config.num_embeddings, 0, purpose="test")
    collect(ranks, parameters, drawn, 0, purpose="test", collections=1)
    tasks = [drawn[place] for place in ranks.places]
    arrays: dict[str, Any] = {name: _stacked([task.values[name] for task in tasks]) for name in tasks[0].values}
    return arrays | {"mode": np.array([task.mode for task in tasks])} | ranks.evaluator()("embed", parameters)


def _stacked(values: Sequence[np.ndarray]) -> np.ndarray:
    if len({np.shape(value) for value in values}) == 1:
        return np.stack(values)
    return np.array([json.dumps(np.asarray(value).tolist()) for value in values])
