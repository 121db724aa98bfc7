"""Task embeddings of held-out tasks, written to a file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmaml.envs.base import Task
from mmaml.errors import NotFinite, disk_reason
from mmaml.meta_batch import Master
from mmaml.sampling.environment_failures import described
from mmaml.storage.files import atomic_file
from mmaml.updates.evaluate import Question


def write_embeddings(master: Master, parameters: Tensor) -> None:
    """Task embeddings and their tasks for `num_embeddings` held-out tasks, into `te_save_path` (.npz).

    Arrays: embedding [n, H], mode [n], and one array for every entry that all tasks have, e.g. goal [n, 2]; text where
    the tasks' entries differ in shape (JSON) or are neither numbers nor text (their repr). Numbers that are not finite,
    tasks that cannot be written, and a disk that is full are reported as warnings: the run itself has finished.
    """
    config = master.config
    if config.te_save_path is None or not config.declaration.embeds:
        return
    path = Path(config.te_save_path)
    drawn = master.sample_tasks(config.num_embeddings, 0, purpose="test")
    try:
        master.collect(parameters, drawn, 0, purpose="test", stages=config.declaration.embedding_stages(config))
        embedded = master.evaluate()(Question("embed", parameters))
    except NotFinite as finding:
        master.warn(f"warning: no task embeddings, since on held-out tasks, {finding}")
        return
    try:
        arrays = _columns([drawn[index] for index in master.task_indices]) | embedded
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_arrays(path, arrays)
    except OSError as error:
        master.warn(
            f"warning: te_save_path: '{path}' could not be written ({disk_reason(error)}); make room, and again with "
            f"--restore_path {config.dump_path}"
        )
    except Exception as error:  # a user's objects may fail in any way
        master.warn(
            f"warning: te_save_path: '{path}' could not be written ({described(error)}); fix the tasks of "
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
