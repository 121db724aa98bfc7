"""What belongs to the whole process, and what a user's code may change of it: read, and put back afterwards."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np


class Setting(NamedTuple):
    """Something that belongs to the whole process. name: in a message; read: its value; write: set it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    remedy: str = "leave it to the program, or put it back before returning"


class Change(NamedTuple):
    """A setting that was changed, and put back."""

    setting: Setting
    before: Any
    after: Any

    def __str__(self) -> str:
        values = "" if isinstance(self.before, dict) else f": from {self.before} to {self.after}"
        return f"changes {self.setting.name}{values}, for the whole process"


def _torch() -> Any:
    """The module; None while it is not imported, or only being imported."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_default_dtype") and hasattr(torch, "get_rng_state") else None


def _torch_records() -> bool:
    torch = _torch()
    return torch.is_grad_enabled() if torch else True


def _torch_threads() -> int | None:
    """Before torch is imported, as many as it will have, where that is fixed."""
    torch, fixed = _torch(), os.environ.get("OMP_NUM_THREADS", "")
    if torch:
        return torch.get_num_threads()
    return int(fixed) if fixed.isdecimal() else None


def _torch_dtype() -> str:
    torch = _torch()
    return str(torch.get_default_dtype()) if torch else "torch.float32"


def _write_torch_dtype(name: str) -> None:
    _torch().set_default_dtype(getattr(_torch(), name.removeprefix("torch.")))


def _write_torch(name: str) -> Callable[[Any], None]:
    def write(value: Any) -> None:
        if value is not None:
            getattr(_torch(), name)(value)

    return write


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _write_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "one that was removed"


def _enter(directory: str) -> None:
    with suppress(OSError):  # it may be gone
        os.chdir(directory)


# What decides how NumPy and torch compute.
ARITHMETIC = {
    "numpy_errors": Setting(
        "NumPy's treatment of floating-point errors (np.seterr)",
        np.geterr,
        lambda value: np.seterr(**value),
        "use `with np.errstate(…):` instead",
    ),
    "torch_dtype": Setting(
        "torch's default dtype (torch.set_default_dtype)",
        _torch_dtype,
        _write_torch_dtype,
        "name the dtype of each tensor instead",
    ),
    "torch_grad": Setting(
        "whether torch records gradients (torch.set_grad_enabled)",
        _torch_records,
        _write_torch("set_grad_enabled"),
        "use `with torch.no_grad():` instead",
    ),
    "torch_threads": Setting(
        "torch's number of threads (torch.set_num_threads)",
        _torch_threads,
        _write_torch("set_num_threads"),
    ),
}
SETTINGS = {
    "directory": Setting("the working directory (os.chdir)", _directory, _enter, "use absolute paths instead"),
    **ARITHMETIC,
    "signals": Setting("what signals do (signal.signal)", _handlers, _write_handlers),
}


def read(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The values of settings, or the states of generators."""
    return {name: setting.read() for name, setting in settings.items()}


def put_back(settings: Mapping[str, Setting], before: Mapping[str, Any]) -> list[Change]:
    """Set what differs from `before`, what `read` gave; the changes."""
    changes = []
    for name, setting in settings.items():
        after = setting.read()
        if before[name] is not None and after != before[name]:
            changes.append(Change(setting, before[name], after))
            setting.write(before[name])
    return changes


@contextmanager
def settings_kept() -> Iterator[list[Change]]:
    """Put back what the body changes of SETTINGS; the list gets the changes."""
    before = read(SETTINGS)
    changes: list[Change] = []
    try:
        yield changes
    finally:
        changes += put_back(SETTINGS, before)


def _read_torch_generator() -> bytes | None:
    return _torch().get_rng_state().numpy().tobytes() if _torch() else None


def _write_torch_generator(state: bytes | None) -> None:
    if state is not None:
        _torch().set_rng_state(_torch().tensor(list(state), dtype=_torch().uint8))


# Random generators that all code of a process shares.
GENERATORS = {
    "numpy": Setting("np.random", lambda: np.random.get_state(legacy=False), np.random.set_state),
    "python": Setting("random", random.getstate, random.setstate),
    "torch": Setting("torch", _read_torch_generator, _write_torch_generator),
}


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the process's random generators back after the body."""
    before = read(GENERATORS)
    try:
        yield
    finally:
        for name, setting in GENERATORS.items():
            setting.write(before[name])
