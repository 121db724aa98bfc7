"""Checkpoints: written whole or not at all, loaded without running code from the file.

A checkpoint is a dictionary of plain values (numbers, strings, lists, dictionaries, tensors):

    iteration   the next iteration to run
    env_steps   environment steps taken so far
    seconds     training time so far
    parameters  name -> tensor
    algorithm   optimiser state, KL coefficients, ...
    config      the resolved configuration
    rng         the seed; random numbers are keyed by it and the iteration, so that nothing else is needed

`torch.load(path, weights_only=True)` reads it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mmaml.usage import UsageError

FOLDER = "checkpoints"
_NAME = re.compile(r"itr_(\d+)\.pt")
_REQUIRED = ("iteration", "seconds", "parameters", "config")


class CheckpointError(UsageError):
    """A checkpoint that is missing or cannot be read."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only once it is complete and on the disk; after an error it is gone."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(directory: Path, iteration: int, state: dict[str, Any], *, keep: int, keep_every_hours: float = 0.0) -> Path:
    """Write `directory/itr_<iteration>.pt` and delete what is no longer kept.

    Of the files in `directory`, the newest `keep` stay (0: all), and so does one for every
    `keep_every_hours` hours of training time (0: none). Files of later iterations are what a run left
    behind before it was restored to an earlier one; they are removed, so that the newest file is always
    the run's state.

    Raises TypeError if `state` holds a value that `weights_only` loading would refuse.
    """
    import torch  # here, so that looking for a checkpoint does not load torch

    _require_plain(state, "state")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"itr_{iteration:06d}.pt"
    with atomic_file(path) as file:
        torch.save(state, file)

    for leftover in directory.glob(".itr_*.unfinished"):
        leftover.unlink()
    ordered = _by_iteration(directory)
    newest = ordered.index(path) + 1
    recent = ordered[max(newest - keep, 0) : newest] if keep else ordered[:newest]
    older = ordered[: newest - len(recent)]
    stays = {*recent, *_one_per_period(older, 3600 * keep_every_hours)}
    for other in ordered:
        if other not in stays:
            other.unlink()
    return path


def _one_per_period(paths: list[Path], period: float) -> list[Path]:
    """Of checkpoints in order, the first of each `period` seconds of training but the first period."""
    if not period:
        return []
    chosen = []
    seen = 0
    for path in paths:
        try:
            number = int(load(path)["seconds"] // period)
        except CheckpointError:
            continue  # not one of ours: no reason to keep it, nor to end the run
        if number > seen:
            chosen.append(path)
            seen = number
    return chosen


def _by_iteration(directory: Path) -> list[Path]:
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def latest(run: str | Path) -> Path:
    """The newest checkpoint of a run's directory, or of its `checkpoints` directory.

    Raises CheckpointError if there is none.
    """
    run = Path(run)
    directory = run / FOLDER if (run / FOLDER).is_dir() else run
    paths = _by_iteration(directory) if directory.is_dir() else []
    if not paths:
        raise CheckpointError(
            f"restore_path: expected a checkpoint or the directory of a run with {FOLDER}/itr_*.pt, "
            f"got '{run}'{', which holds none' if run.is_dir() else ', which does not exist'}"
        )
    return paths[-1]


def run_directory(path: str | Path) -> Path:
    """The run's directory, given a checkpoint, its `checkpoints` directory or itself."""
    path = Path(path)
    if not path.is_dir():
        path = path.parent
    return path.parent if path.resolve().name == FOLDER else path


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or the newest one of a run's directory, onto the CPU.

    Raises CheckpointError if it is missing, unreadable or not a checkpoint of this program.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        path = latest(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"restore_path: '{path}' cannot be read as a checkpoint ({reason})") from error
    missing = [key for key in _REQUIRED if not isinstance(state, dict) or key not in state]
    if missing:
        raise CheckpointError(f"restore_path: '{path}' is not a checkpoint of a training run: no {', '.join(missing)}")
    return state


def _require_plain(value: Any, place: str) -> None:
    """Raise TypeError for a value that would be saved but could not be loaded again."""
    import torch

    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(key, f"a key of {place}")
            _require_plain(item, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{place}[{index}]")
    elif type(value) not in (bool, int, float, str, type(None), torch.Tensor):
        raise TypeError(
            f"{place}: a checkpoint holds numbers, strings, lists, dictionaries and tensors, got {type(value).__name__}"
        )
