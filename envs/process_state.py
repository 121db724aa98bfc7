"""What belongs to the whole process, and what a user's code may change of it: read, and put back afterwards."""

from __future__ import annotations

import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np

MAX_SHOWN = 200  # characters of two values in a message
LEAVE_IT = "leave it to the program, or put it back before returning"


class Setting(NamedTuple):
    """Something that belongs to the whole process.

    name: in a message. read: its value, None where it cannot be known. write: set it. remedy: for a user's code that
    changes it. is_kept: whether that code, and no other, goes on with its own value. standard: the value in a new
    process; None where that differs.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    remedy: str = LEAVE_IT
    is_kept: bool = True
    standard: Any = None


class Change(NamedTuple):
    """A setting that a user's code changed, and that was put back."""

    setting: Setting
    before: Any
    after: Any

    def __str__(self) -> str:
        values = f": from {self.before} to {self.after}"
        if not isinstance(self.before, str | int) or len(values) > MAX_SHOWN:
            values = ""
        return f"changes {self.setting.name}{values}, for the whole process"

    @property
    def remedy(self) -> str:
        """What was done, and what to do."""
        return f"it is put back: {self.setting.remedy}"


def _torch() -> Any:
    """The module; None while it is not imported, or only being imported."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_default_dtype") and hasattr(torch, "get_rng_state") else None


def _of_torch(
    name: str, standard: Any, read: Callable[[Any], Any], write: Callable[[Any, Any], Any], remedy: str = LEAVE_IT
) -> Setting:
    """A setting of torch. standard: its value when torch is imported. read, write: get the module."""

    def value() -> Any:
        torch = _torch()
        try:
            return read(torch) if torch else standard
        except RuntimeError:  # an older and a newer name of one setting were both used
            return None

    return Setting(name, value, lambda value: write(_torch(), value), remedy, standard=standard)


def _torch_threads() -> int | None:
    """Before torch is imported, as many as it will have, where that is fixed."""
    if torch := _torch():
        return torch.get_num_threads()
    fixed = os.environ.get("OMP_NUM_THREADS", "")
    return int(fixed) if fixed.isdecimal() else None


def _write_torch_threads(value: int) -> None:
    if torch := _torch():
        torch.set_num_threads(value)
    else:
        os.environ["OMP_NUM_THREADS"] = str(value)


def _write_cudnn(torch: Any, values: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = values


_SUBNORMAL = np.float32(1e-45)


def _flushes() -> bool:
    """Whether numbers too small for full precision become 0, as in code compiled by -ffast-math."""
    return bool(_SUBNORMAL * np.float32(1) == 0)


def _write_flushing(value: bool) -> None:
    import torch  # slow where it is not yet imported, but few environments get here

    torch.set_flush_denormal(value)


_SIGNALS = tuple(signal.valid_signals())  # read once: it takes longer than to read what all of them do


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _write_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            with suppress(ValueError):  # of another thread than the main one
                signal.signal(number, handler)


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "one that was removed"


def _enter(directory: str) -> None:
    with suppress(OSError):  # it may be gone
        os.chdir(directory)


def _write_locale(value: str) -> None:
    with suppress(locale.Error):  # of a C library that does not read what it writes
        locale.setlocale(locale.LC_ALL, value)


class _Entries(tuple[Any, ...]):
    """Entries of a list of the process, equal to another if all that are here are there: more do no harm."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and all(entry in other for entry in self)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def _write_import_path(entries: _Entries) -> None:
    sys.path[:] = [*entries, *(entry for entry in sys.path if entry not in entries)]


def _raised_warnings() -> tuple[Any, ...]:
    """The filters that turn warnings into errors."""
    return tuple(entry for entry in warnings.filters if entry[0] == "error")


def _write_raised_warnings(raised: tuple[Any, ...]) -> None:
    filters = [entry for entry in warnings.filters if entry[0] != "error" or entry in raised]
    warnings.resetwarnings()  # which also makes modules forget what they have looked up
    warnings.filters[:] = filters  # type: ignore[index]


# What decides how NumPy and torch compute, and can be looked at in no time, so before and after every step.
ARITHMETIC = {
    "numpy_errors": Setting(
        "NumPy's treatment of floating-point errors (np.seterr)",
        np.geterr,
        lambda value: np.seterr(**value),
        "use `with np.errstate(…):` instead",
        standard={"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    "torch_dtype": _of_torch(
        "torch's default dtype (torch.set_default_dtype)",
        "torch.float32",
        lambda torch: str(torch.get_default_dtype()),
        lambda torch, name: torch.set_default_dtype(getattr(torch, name.removeprefix("torch."))),
        "name the dtype of each tensor instead",
    ),
    "torch_grad": _of_torch(
        "whether torch records gradients (torch.set_grad_enabled)",
        True,
        lambda torch: torch.is_grad_enabled(),
        lambda torch, value: torch.set_grad_enabled(value),
        "use `with torch.no_grad():` instead",
    ),
    "torch_threads": Setting(
        "torch's number of threads (torch.set_num_threads)",
        _torch_threads,
        _write_torch_threads,
        is_kept=False,
    ),
    "torch_deterministic": _of_torch(
        "which algorithms torch may use (torch.use_deterministic_algorithms)",
        False,
        lambda torch: torch.are_deterministic_algorithms_enabled(),
        lambda torch, value: torch.use_deterministic_algorithms(value),
    ),
    "torch_precision": _of_torch(
        "the precision of torch's products (torch.set_float32_matmul_precision)",
        "highest",
        lambda torch: torch.get_float32_matmul_precision(),
        lambda torch, value: torch.set_float32_matmul_precision(value),
    ),
    "torch_anomalies": _of_torch(
        "whether torch looks for anomalies (torch.autograd.set_detect_anomaly)",
        False,
        lambda torch: torch.is_anomaly_enabled(),
        lambda torch, value: torch.autograd.set_detect_anomaly(value),
    ),
    "flushing": Setting(
        "whether the smallest numbers become 0 (torch.set_flush_denormal, or a library built with -ffast-math)",
        _flushes,
        _write_flushing,
        is_kept=False,
        standard=False,
    ),
}
# The others: looked at before and after all that is called once.
SETTINGS = {
    **ARITHMETIC,
    "directory": Setting("the working directory (os.chdir)", _directory, _enter, "use absolute paths instead"),
    "signals": Setting("what signals do (signal.signal)", _handlers, _write_handlers, is_kept=False),
    "torch_device": _of_torch(
        "torch's default device (torch.set_default_device)",
        "cpu",
        lambda torch: str(torch.get_default_device()),
        lambda torch, value: torch.set_default_device(None if value == "cpu" else value),
        "name the device of each tensor instead",
    ),
    "torch_cudnn": _of_torch(
        "how torch computes on a GPU (torch.backends.cudnn)",
        (False, False),
        lambda torch: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        _write_cudnn,
    ),
    "locale": Setting(
        "the locale (locale.setlocale)",
        lambda: locale.setlocale(locale.LC_ALL),
        _write_locale,
    ),
    "import_path": Setting(
        "where Python imports from (entries removed from sys.path)",
        lambda: _Entries(sys.path),
        _write_import_path,
        is_kept=False,
    ),
    "warnings": Setting(
        "which warnings are errors (warnings.simplefilter)",
        _raised_warnings,
        _write_raised_warnings,
        "use `with warnings.catch_warnings():` instead",
        is_kept=False,
    ),
}
OTHERS = {name: setting for name, setting in SETTINGS.items() if name not in ARITHMETIC}


class Entered(NamedTuple):
    """Settings before a user's code was entered, and the values with which it was."""

    settings: Mapping[str, Setting]
    before: list[Any]
    given: list[Any]


class CodeSettings:
    """The settings of the process with which a user's code runs, so that it computes as it would without us.

    They are the process's, but for those that it has changed in earlier calls. What it changes is put back after each
    call, so that we compute as we would without it.
    """

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}

    @contextmanager
    def running(self, settings: Mapping[str, Setting] = SETTINGS) -> Iterator[list[Change]]:
        """The body is the user's code. settings: those looked at. The list gets what it changes for the first time."""
        entered = self.enter(settings)
        changes: list[Change] = []
        try:
            yield changes
        finally:
            changes += self.leave(entered)

    @contextmanager
    def given(self, values: Mapping[str, Any]) -> Iterator[None]:
        """While the body lasts, the code runs with these values, too, where it has none of its own."""
        new = {name: value for name, value in values.items() if SETTINGS[name].is_kept and name not in self._own}
        self._own |= new
        try:
            yield
        finally:
            for name in new:
                self._own.pop(name, None)

    def enter(self, settings: Mapping[str, Setting]) -> Entered:
        """Before the user's code. What `leave` needs."""
        if not self._own:
            before = _values(settings)
            return Entered(settings, before, before)
        settings = {**settings, **{name: SETTINGS[name] for name in self._own}}
        before = _values(settings)
        for name, value in self._own.items():
            SETTINGS[name].write(value)
        given = [self._own.get(name, value) for name, value in zip(settings, before, strict=True)]
        return Entered(settings, before, given)

    def leave(self, entered: Entered) -> list[Change]:
        """After the user's code. What it has changed for the first time."""
        settings, before, given = entered
        after = _values(settings)
        if before == after and given == after:
            return []
        changes = []
        for name, ours, theirs, now in zip(settings, before, given, after, strict=True):
            setting = settings[name]
            if now is None or ours is None:
                continue
            if theirs != now:
                if setting.is_kept:
                    self._own[name] = now
                if ours != now:
                    changes.append(Change(setting, ours, now))
            if ours != now:
                setting.write(ours)
        return changes


@contextmanager
def standard_settings(*codes: CodeSettings) -> Iterator[None]:
    """The body computes as it would in a new process, whatever the program around it has set.

    codes: of that program, which go on with what it has set.
    """
    before = {name: setting.read() for name, setting in SETTINGS.items() if setting.standard is not None}
    theirs = {name: value for name, value in before.items() if value not in (None, SETTINGS[name].standard)}
    with ExitStack() as stack:
        for code in codes:
            stack.enter_context(code.given(theirs))
        for name, value in theirs.items():
            SETTINGS[name].write(SETTINGS[name].standard)
            stack.callback(SETTINGS[name].write, value)
        yield


def _values(settings: Mapping[str, Setting]) -> list[Any]:
    return [setting.read() for setting in settings.values()]


def running(
    code: CodeSettings | None, settings: Mapping[str, Setting] = SETTINGS
) -> AbstractContextManager[list[Change]]:
    """The context of `CodeSettings.running`; one without effect for None."""
    return nullcontext([]) if code is None else code.running(settings)


@contextmanager
def others_kept(code: CodeSettings | None) -> Iterator[None]:
    """The body calls a user's code again and again, and looks at ARITHMETIC alone: the other settings are put back."""
    before = [] if code is None else _values(OTHERS)
    try:
        yield
    finally:
        if code is not None:
            code.leave(Entered(OTHERS, before, before))


@cache
def code_settings(name: str) -> CodeSettings:
    """Those of the module of an environment or algorithm. name: as a configuration names it, or that of the module."""
    module, _, _ = name.rpartition(":")
    return code_settings(module) if module else CodeSettings()


def read(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The values of settings, or the states of generators."""
    return {name: setting.read() for name, setting in settings.items()}


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
