"""Checkpoints: written whole or not at all, told from damaged ones, loaded without running code from the file.

A checkpoint is a dictionary of plain values (numbers, strings, lists, dictionaries, tensors):

    iteration     the next iteration to run
    env_steps     environment steps taken so far
    seconds       training time so far
    parameters    name -> tensor
    algorithm     optimiser state, KL coefficients, ...
    config        the resolved configuration
    environment   sizes and units of observations and actions, for a policy to act without the task family
    counts        failed tasks and skipped updates so far
    bad_in_a_row  skipped updates since the last that was not
    rng           the seed; random numbers are keyed by it and the iteration, so that nothing else is needed

`torch.load(path, weights_only=True)` reads it. The file is the zip archive that torch writes, with the SHA-256 of
all bytes before it as the end of the archive's comment; it is checked before anything is taken from the file.
Older files have no digest: for them the archive's own checksums stand in.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmaml.storage.checkpoint_format import CheckpointError, read, require_plain, sealed
from mmaml.storage.files import atomic_file, make_folder, sync_folder
from mmaml.storage.layout import FOLDER

_NAME = re.compile(r"itr_(\d+)\.pt")


def write(directory: Path, iteration: int, state: dict[str, Any]) -> Path:
    """Write `directory/itr_<iteration>.pt`; other checkpoints are left alone.

    Raises OSError, with nothing left behind, and TypeError if `state` holds a value that `load` would refuse.
    """
    require_plain(state, "state")  # before anything is written
    make_folder(directory)
    for leftover in directory.glob(".itr_*.unfinished"):  # of a process killed while it wrote
        leftover.unlink()
    path = directory / f"itr_{iteration:06d}.pt"
    write_file(path, state)
    return path


def write_file(path: Path, state: dict[str, Any]) -> None:
    """Write a file that `load` reads, in a directory that exists. Raises OSError and TypeError as `write` does."""
    import torch  # here, so that looking for a checkpoint does not load torch

    require_plain(state, "state")
    # By way of memory: on a full disk torch's own writer fails with other errors than the disk's.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_file(path) as file:
        file.write(sealed(content.getvalue()))


def prune(directory: Path, iteration: int, *, keep: int, keep_every_hours: float = 0.0) -> None:
    """Delete what is no longer kept, now that the checkpoint of `iteration` is written.

    Of the files up to it, the newest `keep` stay (0: all), and so does one for every `keep_every_hours` hours of
    training time (0: none). Files of later iterations, damaged ones too, are what a run left behind before it was
    restored to an earlier one; they are removed, so that the newest file is always the run's state.

    Raises OSError.
    """
    ordered = by_iteration(directory)
    newest = sum(number <= iteration for number, _ in ordered)
    paths = [path for _, path in ordered]
    recent = paths[max(newest - keep, 0) : newest] if keep else paths[:newest]
    older = paths[: newest - len(recent)]
    stays = {*recent, *_one_per_period(older, 3600 * keep_every_hours)}
    gone = [path for path in paths if path not in stays and not path.is_dir()]
    for path in gone:
        path.unlink()
    if gone:
        sync_folder(directory)


def _one_per_period(paths: list[Path], period: float) -> list[Path]:
    """Of checkpoints in order, the first of each `period` seconds of training but the first period."""
    if not period:
        return []
    chosen = []
    seen = 0
    for path in paths:
        try:
            number = int(read(path)["seconds"] // period)
        except CheckpointError:
            continue  # damaged, or not one of ours: no reason to keep it, nor to end the run
        if number > seen:
            chosen.append(path)
            seen = number
    return chosen


def by_iteration(directory: Path) -> list[tuple[int, Path]]:
    """Iteration and path of everything in `directory` that is named as a checkpoint, in order."""
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def candidates(run: str | Path, key: str = "restore_path") -> list[Path]:
    """What is named as a checkpoint in a run's directory, or in its `checkpoints` directory; the newest first.

    Raises CheckpointError, naming `key`, if that cannot be read.
    """
    run = Path(run)
    try:
        directory = run / FOLDER if (run / FOLDER).is_dir() else run
        found = by_iteration(directory) if directory.is_dir() else []
    except OSError as error:
        raise CheckpointError(f"{key}: cannot read '{run}' ({error.strerror}); check the path") from error
    return [path for _, path in reversed(found)]


def latest(run: str | Path) -> Path:
    """The newest checkpoint, damaged or not, of a run's directory, or of its `checkpoints` directory.

    Raises CheckpointError if there is none.
    """
    found = candidates(run)
    if not found:
        raise CheckpointError(
            f"restore_path: expected a checkpoint or the directory of a run with {FOLDER}/itr_*.pt, "
            f"got '{run}'{', which holds none' if Path(run).is_dir() else ', which does not exist'}"
        )
    return found[0]


def _to_stderr(text: str) -> None:
    print(f"notice: {text}", file=sys.stderr)


def load(path: str | Path, notice: Callable[[str], None] = _to_stderr) -> dict[str, Any]:
    """The state that `newest` finds."""
    return newest(path, notice)[1]


def newest(path: str | Path, notice: Callable[[str], None] = _to_stderr) -> tuple[Path, dict[str, Any]]:
    """A checkpoint, or the newest of a run's directory that is not damaged: its file and state, on the CPU.

    notice: told in a line of each damaged file that is passed over. No file is changed.

    Raises CheckpointError if the file, or each of the directory, is missing, damaged or not a checkpoint of this
    program.
    """
    path = Path(path)
    if is_file(path):
        return path, read(path)
    latest(path)  # raises CheckpointError if there is none
    damaged: list[str] = []
    for file in candidates(path):
        try:
            state = read(file)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for text in damaged:
            notice(f"{text}; '{file.name}' is used in its place")
        return file, state
    more = f"; nor can the {len(damaged) - 1} before it" if len(damaged) > 1 else ""
    raise CheckpointError(damaged[0] + more)


def is_file(path: Path) -> bool:
    """Whether `path` names a file. Raises CheckpointError where that cannot be told."""
    try:
        return path.is_file()
    except OSError as error:
        raise CheckpointError(f"restore_path: cannot read '{path}' ({error.strerror}); check the path") from error
