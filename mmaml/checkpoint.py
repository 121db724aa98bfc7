"""Checkpoints: written whole or not at all, told from damaged ones, loaded without running code from the file.

A checkpoint is a dictionary of plain values (numbers, strings, lists, dictionaries, tensors):

    iteration     the next iteration to run
    env_steps     environment steps taken so far
    seconds       training time so far
    parameters    name -> tensor
    algorithm     optimiser state, KL coefficients, ...
    config        the resolved configuration
    counts        failed tasks and skipped updates so far
    bad_in_a_row  skipped updates since the last that was not
    rng           the seed; random numbers are keyed by it and the iteration, so that nothing else is needed

`torch.load(path, weights_only=True)` reads it. The file is the zip archive that torch writes, with the SHA-256 of
all bytes before it as the end of the archive's comment; it is checked before anything is taken from the file.
Older files have no digest: for them the archive's own checksums stand in.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mmaml.usage import UsageError

FOLDER = "checkpoints"
MOST_VALUES, DEEPEST = 1_000_000, 50  # of a state: far beyond what any run saves
_NAME = re.compile(r"itr_(\d+)\.pt")
_MARK = b"sha256:"
_HEX = 64
_ZIP_START, _ZIP_END, _ZIP_END_SIZE = b"PK\x03\x04", b"PK\x05\x06", 22


class CheckpointError(UsageError):
    """A checkpoint that is missing, cannot be read or does not fit the run."""


def unfinished(path: Path) -> Path:
    """What the file at `path` is called while it is written."""
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only once it is complete and on the disk; after an error it is gone."""
    while_written = unfinished(path)
    try:
        with open(while_written, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(while_written, path)
        _sync_folder(path.parent)
    finally:
        while_written.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make `folder` and those above it that are missing; they too survive a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def write(directory: Path, iteration: int, state: dict[str, Any]) -> Path:
    """Write `directory/itr_<iteration>.pt`; other checkpoints are left alone.

    Raises OSError, with nothing left behind, and TypeError if `state` holds a value that `load` would refuse.
    """
    import torch  # here, so that looking for a checkpoint does not load torch

    require_plain(state, "state")
    _make_folder(directory)
    for leftover in directory.glob(".itr_*.unfinished"):  # of a process killed while it wrote
        leftover.unlink()
    # By way of memory: on a full disk torch's own writer fails with other errors than the disk's.
    content = io.BytesIO()
    torch.save(state, content)
    path = directory / f"itr_{iteration:06d}.pt"
    with atomic_file(path) as file:
        file.write(_sealed(content.getvalue()))
    return path


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
        _sync_folder(directory)


def _one_per_period(paths: list[Path], period: float) -> list[Path]:
    """Of checkpoints in order, the first of each `period` seconds of training but the first period."""
    if not period:
        return []
    chosen = []
    seen = 0
    for path in paths:
        try:
            number = int(_read(path)["seconds"] // period)
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


def run_directory(path: str | Path) -> Path:
    """The run's directory, given a checkpoint, its `checkpoints` directory or itself."""
    path = Path(path)
    if not path.is_dir():
        path = path.parent
    return path.parent if path.resolve().name == FOLDER else path


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
        return path, _read(path)
    latest(path)  # raises CheckpointError if there is none
    damaged: list[str] = []
    for file in candidates(path):
        try:
            state = _read(file)
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


def damage(path: Path) -> str:
    """Why the file at `path` is not what was written, "" where nothing speaks against it; torch is not loaded."""
    try:
        with _opened(path) as file:
            _check_bytes(file)
    except Exception as error:  # zipfile too raises many kinds
        return _reason(error)
    return ""


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        with _opened(path) as file:
            size = _check_bytes(file)
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # of torch, at what a damaged file asks for
                state = torch.load(file, map_location="cpu", weights_only=True)
        _check_entries(state, size)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise CheckpointError(f"restore_path: '{path}' cannot be read as a checkpoint ({_reason(error)})") from error
    return state  # type: ignore[no-any-return]


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():  # to open a pipe would be to wait for its other end
        raise ValueError("not a file" if path.exists() else "no such file")
    return open(path, "rb")


def _reason(error: Exception) -> str:
    """One line that says what is wrong with the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, pickle.UnpicklingError):  # torch's text advises to run the file's code after all
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it asks for {wanted[1]}, but no code is run for a file" if wanted else "its values are no plain ones"
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:300] if " " in lines[0] else "its values are damaged"


# The bytes of a file.


def _sealed(archive: bytes) -> bytes:
    """A zip archive without a comment -> the same with its digest in its comment."""
    length = (len(_MARK) + _HEX).to_bytes(2, "little")
    body = archive[: -len(length)] + length + _MARK
    return body + hashlib.sha256(body).hexdigest().encode()


def _check_bytes(file: BinaryIO) -> int:
    """The size of a file whose bytes are those that were written, without large contents packed small.

    Raises ValueError, saying why, or what zipfile raises.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size == 0:
        raise ValueError("it is empty")
    if file.read(len(_ZIP_START)) != _ZIP_START:
        raise ValueError("it does not begin as one")
    file.seek(max(size - len(_MARK) - _HEX, 0))
    end = file.read()
    plain_end = end[-_ZIP_END_SIZE:]
    has_digest = end.startswith(_MARK)
    if has_digest and _digest(file, size - _HEX) != end[len(_MARK) :]:
        raise ValueError("its digest does not match: it was cut short or changed")
    if not has_digest and not (plain_end.startswith(_ZIP_END) and plain_end.endswith(b"\0\0")):
        raise ValueError("it does not end as one: it was cut short or changed")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > size:
            raise ValueError("its contents are larger than itself")
        if not has_digest and (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its part {name} does not match")
    return size


def _digest(file: BinaryIO, size: int) -> bytes:
    """SHA-256, in hexadecimal, of the first `size` bytes."""
    file.seek(0)
    found = hashlib.sha256()
    while block := file.read(min(size - file.tell(), 1 << 20)):
        found.update(block)
    return found.hexdigest().encode()


# The values in a file.


def _check_entries(state: Any, size: int) -> None:
    """Raise ValueError or TypeError unless `state`, from a file of `size` bytes, has what a run continues from."""
    import torch

    require_plain(state, "its state", size)
    if not isinstance(state, dict):
        raise ValueError(f"it holds no dictionary but {type(state).__name__}")
    required = ("iteration", "env_steps", "seconds", "parameters", "algorithm", "config")
    missing = [key for key in required if key not in state]
    if missing:
        raise ValueError(f"it is not of a training run: no {', '.join(missing)}")

    def demand(key: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ValueError(f"{key}: expected {expected}, got another value")

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**63

    for key in ("iteration", "env_steps", "bad_in_a_row"):
        demand(key, is_count(state.get(key, 0)), "a whole number ≥ 0")
    counts = state.get("counts", {})
    counted = isinstance(counts, dict) and all(isinstance(name, str) and is_count(counts[name]) for name in counts)
    demand("counts", counted, "whole numbers ≥ 0 by name")
    seconds, parameters, config = state["seconds"], state["parameters"], state["config"]
    demand("seconds", type(seconds) in (int, float) and 0 <= seconds < math.inf, "a number ≥ 0")
    named = isinstance(parameters, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and value.dtype == torch.float32
        for name, value in parameters.items()
    )
    demand("parameters", named, "32-bit floating-point tensors by name")
    demand("algorithm", isinstance(state["algorithm"], dict), "a dictionary")
    demand("config", isinstance(config, dict) and all(isinstance(key, str) for key in config), "values by key")
    json.dumps(config)  # raises TypeError for what no configuration holds


def require_plain(value: Any, place: str, most_bytes: float = math.inf) -> None:
    """Raise TypeError for a value that a checkpoint cannot hold, ValueError for one too large.

    place: what errors call it. most_bytes: of each tensor.
    """
    import torch

    left = MOST_VALUES

    def visit(value: Any, place: str, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise ValueError(f"{place}: expected at most {MOST_VALUES} values, nested {DEEPEST} deep, got more")
        if isinstance(value, dict):
            for key, item in value.items():
                visit(key, f"a key of {place}", depth + 1)
                visit(item, f"{place}[{key!r}]", depth + 1)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                visit(item, f"{place}[{index}]", depth + 1)
        elif type(value) not in (bool, int, float, str, type(None), torch.Tensor):
            raise TypeError(
                f"{place}: a checkpoint holds numbers, strings, lists, dictionaries and tensors, got "
                f"{type(value).__name__}"
            )
        elif isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
                raise TypeError(f"{place}: a checkpoint holds ordinary tensors, got one of another layout")
            if value.nbytes > most_bytes:
                raise ValueError(f"{place}: expected a tensor no larger than the file, got {value.nbytes} bytes")

    visit(value, place, 0)
