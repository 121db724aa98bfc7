"""Checkpoints: written whole or not at all, checked for damage, loaded without running code from the file.

A checkpoint is a dictionary of plain values (numbers, strings, lists, dictionaries, tensors):

    iteration     the next iteration to run
    env_steps     environment steps taken so far
    seconds       training time so far
    parameters    name -> tensor
    algorithm     optimiser state, KL coefficients, ...
    statistics    running statistics of observations and rewards, if the run normalises any
    config        the resolved configuration
    environment   sizes and units of observations and actions, for a policy to act without the task family
    counts        failed tasks and skipped updates so far
    bad_in_a_row  skipped updates in a row, up to now
    rng           the seed; random numbers are keyed by it and the iteration, so nothing else is needed

`torch.load(path, weights_only=True)` reads it. The file is the zip archive that torch writes. The archive's comment
ends with the SHA-256 of all bytes before it, which is checked before anything is read from the file. Files of earlier
versions have no digest; for them the archive's own checksums are checked.
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
from mmaml.written_paths import as_written

_NAME = re.compile(r"itr_(\d+)\.pt")


def write(directory: Path, iteration: int, state: dict[str, Any]) -> Path:
    """Write `directory/itr_<iteration>.pt`; other checkpoints stay as they are.

    Raises OSError, with nothing left behind, and TypeError if `state` holds a value that `load` would reject.
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
    import torch  # not at the top: looking for a checkpoint does not need it

    require_plain(state, "state")
    # Into memory first: on a full disk torch's own writer raises other errors than OSError.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_file(path) as file:
        file.write(sealed(content.getvalue()))


def prune(directory: Path, iteration: int, *, keep: int, keep_every_hours: float = 0.0) -> None:
    """Delete old checkpoints, now that the one of `iteration` is written.

    Of the files up to it, the newest `keep` are kept (0: all), and one for every `keep_every_hours` hours of training
    time (0: none). Files of later iterations, damaged ones too, were written before the run was restored to an earlier
    one; they are deleted, so that the newest file is always the run's state.

    Raises OSError.
    """
    ordered = by_iteration(directory)
    newest = sum(number <= iteration for number, _ in ordered)
    paths = [path for _, path in ordered]
    recent = paths[max(newest - keep, 0) : newest] if keep else paths[:newest]
    older = paths[: newest - len(recent)]
    kept = {*recent, *_one_per_period(older, 3600 * keep_every_hours)}
    gone = [path for path in paths if path not in kept and not path.is_dir()]
    for path in gone:
        path.unlink()
    if gone:
        sync_folder(directory)


def _one_per_period(paths: list[Path], period: float) -> list[Path]:
    """The first checkpoint of each `period` seconds of training, except the first period. paths: in order."""
    if not period:
        return []
    chosen = []
    seen = 0
    for path in paths:
        try:
            number = int(read(path)["seconds"] // period)
        except CheckpointError:
            continue  # damaged, or of another program: neither kept nor a reason to end the run
        if number > seen:
            chosen.append(path)
            seen = number
    return chosen


def by_iteration(directory: Path) -> list[tuple[int, Path]]:
    """Iteration and path of everything in `directory` whose name is that of a checkpoint, in order."""
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def candidates(run: str | Path, key: str = "restore_path") -> list[Path]:
    """Paths with the name of a checkpoint in a run's directory, or in its `checkpoints` directory; the newest first.

    Raises CheckpointError, naming the argument `key`, if the directory cannot be read.
    """
    run = Path(run)
    try:
        directory = run / FOLDER if (run / FOLDER).is_dir() else run
        found = by_iteration(directory) if directory.is_dir() else []
    except OSError as error:
        raise _unreadable(run, key, error) from error
    return [path for _, path in reversed(found)]


def latest(run: str | Path, key: str = "restore_path") -> Path:
    """The newest checkpoint, damaged or not, of a run's directory, or of its `checkpoints` directory.

    Raises CheckpointError, naming the argument `key`, if there is none.
    """
    found = candidates(run, key)
    if not found:
        raise CheckpointError(
            key,
            expected=f"a checkpoint, or the directory of a run with {FOLDER}/itr_*.pt",
            got=f"'{run}', which {'contains none' if Path(run).is_dir() else 'does not exist'}",
            remedy="check the path",
        )
    return found[0]


def _to_stderr(text: str) -> None:
    print(f"notice: {as_written(text)}", file=sys.stderr)


def load(path: str | Path, notice: Callable[[str], None] = _to_stderr, key: str = "restore_path") -> dict[str, Any]:
    """The state that `newest` finds."""
    return newest(path, notice, key)[1]


def newest(
    path: str | Path, notice: Callable[[str], None] = _to_stderr, key: str = "restore_path"
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint at `path`, or the newest undamaged one of a run's directory: its file, and its state on the CPU.

    notice: called with one line for each damaged file that is skipped. key: the argument that errors name. No file is
    changed.

    Raises CheckpointError if there is no checkpoint of this program, or none that is undamaged.
    """
    path = Path(path)
    if is_file(path, key):
        return path, read(path, key)
    latest(path, key)  # raises CheckpointError if there is none
    damaged: list[CheckpointError] = []
    for file in candidates(path, key):
        try:
            state = read(file, key)
        except CheckpointError as error:
            damaged.append(error)
            continue
        for skipped in damaged:
            notice(f"{skipped.argument}: {skipped.problem}; '{file.name}' is used instead")
        return file, state
    earlier = f", nor can the {len(damaged) - 1} before it" if len(damaged) > 1 else ""
    raise CheckpointError(key, damaged[0].problem + earlier, damaged[0].remedy)


def is_file(path: Path, key: str = "restore_path") -> bool:
    """Whether `path` is a file. Raises CheckpointError, naming the argument `key`, if that cannot be found out."""
    try:
        return path.is_file()
    except OSError as error:
        raise _unreadable(path, key, error) from error


def _unreadable(path: Path, key: str, error: OSError) -> CheckpointError:
    return CheckpointError(key, f"'{path}' cannot be read ({error.strerror})", "check the path")
