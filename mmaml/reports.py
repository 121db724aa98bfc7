"""What an iteration and a run report: return columns, evaluation on held-out tasks, task embeddings."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from envs.base import Task
from mmaml.checkpoint import atomic_file
from mmaml.comm import Ranks
from mmaml.config import Config
from mmaml.faults import NotFinite, described
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

    Arrays: embedding [n, H], mode [n], and one array for every entry that all tasks have, e.g. goal [n, 2]; text where
    the tasks' entries differ in shape (JSON) or are no numbers or text (as Python shows them). Bad numbers, tasks that
    cannot be written, or a disk that refuses, end no run that has finished.
    """
    if config.te_save_path is None or "embed" not in worker.algorithm.functions:
        return
    path = Path(config.te_save_path)
    drawn = worker.sample_tasks(config.num_embeddings, 0, purpose="test")
    try:
        collect(ranks, parameters, drawn, 0, purpose="test", collections=1)
        embedded = ranks.evaluator()("embed", parameters)
    except NotFinite as finding:
        ranks.roster.report(f"warning: no task embeddings, since on held-out tasks, {finding}")
        return
    try:
        arrays = _columns([drawn[place] for place in ranks.places]) | embedded
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_arrays(path, arrays)
    except OSError as error:
        ranks.roster.report(
            f"warning: te_save_path: '{path}' could not be written ({disk_reason(error)}); make room, and again with "
            f"--restore_path {config.dump_path}"
        )
    except Exception as error:  # a user's objects may fail in any way
        ranks.roster.report(
            f"warning: te_save_path: '{path}' could not be written ({described(error)}); mend the tasks of "
            f"sample_tasks, and again with --restore_path {config.dump_path}"
        )


def _columns(tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """What is written of tasks: the entries that all have, by name, and the mode."""
    shared = [name for name in tasks[0].values if all(name in task.values for task in tasks)]
    arrays = {str(name): _stacked([task.values[name] for task in tasks]) for name in shared}
    return arrays | {"mode": np.array([task.mode for task in tasks])}


def _stacked(values: Sequence[Any]) -> np.ndarray:
    try:
        arrays = [np.asarray(value) for value in values]
        alike = len({array.shape for array in arrays}) == 1
        stacked = np.stack(arrays) if alike else np.array([json.dumps(array.tolist()) for array in arrays])
    except (TypeError, ValueError):  # uneven lists, objects of unlike shapes, times beside numbers
        stacked = np.array(None)
    return np.array([repr(value) for value in values]) if stacked.dtype.hasobject else stacked


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As `numpy.savez` does, whose own arguments take some names."""
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)
