"""The bytes and values of a checkpoint file: protected by a digest, checked before anything is read from it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from mmaml.errors import UsageError

MAX_VALUES, MAX_DEPTH = 1_000_000, 50  # of a state: far beyond what any run saves
_MARK = b"sha256:"
_HEX = 64

_ZIP_START, _ZIP_END, _ZIP_END_SIZE = b"PK\x03\x04", b"PK\x05\x06", 22


class CheckpointError(UsageError):
    """A checkpoint that is missing, cannot be read or does not fit the run."""


def damage(path: Path) -> str:
    """What is wrong with the bytes of the file at `path`, "" if nothing is; without loading torch."""
    try:
        with _opened(path) as file:
            _check_bytes(file)
    except Exception as error:  # zipfile too raises many kinds
        return _reason(error)
    return ""


def read(path: Path, key: str = "restore_path") -> dict[str, Any]:
    """The state in a checkpoint file, checked. Raises CheckpointError, naming the argument `key`."""
    import torch

    try:
        with _opened(path) as file:
            size = _check_bytes(file)
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # of torch, about damaged files
                state = torch.load(file, map_location="cpu", weights_only=True)
        _check_entries(state, size)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        problem = f"'{path}' cannot be read as a checkpoint ({_reason(error)})"
        raise CheckpointError(key, problem, "use another checkpoint") from error
    return state  # type: ignore[no-any-return]


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():  # opening a pipe would wait for its other end
        raise ValueError("not a file" if path.exists() else "no such file")
    return open(path, "rb")


def _reason(error: Exception) -> str:
    """One line that says what is wrong with the file: shown to the user, never read back."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, pickle.UnpicklingError):  # torch's text advises running the file's code
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it asks to run {wanted[1]}, which is not allowed" if wanted else "its values are not plain"
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:300] if " " in lines[0] else "its values are damaged"


def sealed(archive: bytes) -> bytes:
    """A zip archive without a comment -> the same archive with its digest in the comment."""
    length = (len(_MARK) + _HEX).to_bytes(2, "little")
    body = archive[: -len(length)] + length + _MARK
    return body + hashlib.sha256(body).hexdigest().encode()


def _check_bytes(file: BinaryIO) -> int:
    """The size of a file whose bytes are as they were written, and whose contents are not compressed.

    Raises ValueError, with the reason, or what zipfile raises.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size == 0:
        raise ValueError("it is empty")
    if file.read(len(_ZIP_START)) != _ZIP_START:
        raise ValueError("it does not begin like one")
    file.seek(max(size - len(_MARK) - _HEX, 0))
    end = file.read()
    plain_end = end[-_ZIP_END_SIZE:]
    has_digest = end.startswith(_MARK)
    if has_digest and _digest(file, size - _HEX) != end[len(_MARK) :]:
        raise ValueError("its digest is wrong: it was cut short or changed")
    if not has_digest and not (plain_end.startswith(_ZIP_END) and plain_end.endswith(b"\0\0")):
        raise ValueError("it does not end like one: it was cut short or changed")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > size:
            raise ValueError("its contents are larger than the file")
        if not has_digest and (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its entry {name} is wrong")
    return size


def _digest(file: BinaryIO, size: int) -> bytes:
    """SHA-256, in hexadecimal, of the first `size` bytes."""
    file.seek(0)
    found = hashlib.sha256()
    while block := file.read(min(size - file.tell(), 1 << 20)):
        found.update(block)
    return found.hexdigest().encode()


def _check_entries(state: Any, size: int) -> None:
    """Raise ValueError or TypeError unless `state`, from a file of `size` bytes, has all that a run continues from."""
    import torch

    require_plain(state, "its state", size)
    if not isinstance(state, dict):
        raise ValueError(f"it contains no dictionary but {type(state).__name__}")
    required = ("iteration", "env_steps", "seconds", "parameters", "algorithm", "config")
    missing = [key for key in required if key not in state]
    if missing:
        raise ValueError(f"it is not from a training run: no {', '.join(missing)}")

    def demand(key: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ValueError(f"{key}: expected {expected}, got something else")

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
    json.dumps(config)  # raises TypeError for values that no configuration has


def require_plain(value: Any, name: str, max_bytes: float = math.inf) -> None:
    """Raise TypeError for a value that a checkpoint cannot hold, ValueError for one that is too large.

    name: of the value, in errors. max_bytes: of each tensor.
    """
    import torch

    left = MAX_VALUES

    def visit(value: Any, name: str, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise ValueError(f"{name}: expected at most {MAX_VALUES} values, nested {MAX_DEPTH} deep, got more")
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(key, f"a key of {name}", depth + 1)
                visit(inner, f"{name}[{key!r}]", depth + 1)
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                visit(inner, f"{name}[{index}]", depth + 1)
        elif type(value) not in (bool, int, float, str, type(None), torch.Tensor):
            raise TypeError(
                f"{name}: a checkpoint holds numbers, strings, lists, dictionaries and tensors, got "
                f"{type(value).__name__}"
            )
        elif isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
                raise TypeError(f"{name}: a checkpoint holds ordinary dense tensors, got another kind")
            if value.nbytes > max_bytes:
                raise ValueError(f"{name}: expected a tensor no larger than the file, got {value.nbytes} bytes")

    visit(value, name, 0)
