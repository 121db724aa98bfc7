"""Calls of a user's code: what it raises, prints, and changes in the process beside what it returns."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import numpy as np

from mmaml.envs.check.comparison import same
from mmaml.envs.check.findings import ERROR, Finding, clipped, described, error, of_usage_error, warning
from mmaml.errors import UsageError


class Failed(Exception):
    """A user's code raised, or called sys.exit. finding: says so."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class UserCode:
    """Calls a user's code and collects findings, each once, in the order in which they are met."""

    def __init__(self) -> None:
        self._findings: dict[tuple[str, ...], Finding] = {}
        self._misfits: dict[str, Finding] = {}

    @property
    def findings(self) -> list[Finding]:
        """What was found so far."""
        return list(self._findings.values())

    def note(self, *findings: Finding) -> None:
        """Add findings. Of such as differ only in the values that were met, the first is kept."""
        for finding in findings:
            self._findings.setdefault(finding.key, finding)

    def note_signatures(self, *findings: Finding) -> None:
        """Add findings of signatures, each `where` a method; a TypeError of its call says nothing more."""
        self.note(*findings)
        self._misfits |= {finding.where: finding for finding in findings}

    def call(self, where: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the function returns; what else it does is noted. where: what findings call it.

        Raises Failed for what it raises, SystemExit too. Settings of the process that it changed are put back; numbers
        that it drew from global generators stay drawn, so that they show in what follows.
        """
        generators = _read(GENERATORS)
        output = io.StringIO()
        try:
            with settings_kept() as changed, redirect_stdout(output), redirect_stderr(output):
                return _called(where, function, args, kwargs)
        except Failed as failed:
            if where in self._misfits and isinstance(failed.__cause__, TypeError):
                raise Failed(self._misfits[where]) from failed.__cause__
            raise
        finally:
            self.note(*(_changed(where, SETTINGS[name], before, after) for name, before, after in changed))
            self.note(*_drawn(where, generators))
            if printed := output.getvalue().strip():
                got = repr(clipped(printed.splitlines()[0]))
                remedy = "remove it, since a run calls it for every lane"
                self.note(warning(where, expected="nothing on the terminal", got=got, remedy=remedy))


def _called(where: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)
    except UsageError as refused:
        raise Failed(of_usage_error(refused)) from refused
    except SystemExit as exits:
        finding = error(where, f"calls sys.exit({exits.code!r})", "raise an error instead")
        raise Failed(finding._replace(trace=_trace(exits))) from exits
    except Exception as raised:
        remedy = "--verbose shows where"
        raise Failed(Finding(ERROR, where, f"raises {described(raised)}", remedy, trace=_trace(raised))) from raised


def _trace(raised: BaseException) -> str:
    """The traceback from the user's code on."""
    frames = raised.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(raised), raised, frames)).rstrip()


class Setting(NamedTuple):
    """Something that belongs to the whole process. name: in a finding; read: its value; write: set it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    remedy: str = "leave it to the program, or put it back before returning"


def _torch() -> Any:
    """The module; None while it is not imported, or only being imported."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_default_dtype") and hasattr(torch, "get_rng_state") else None


def _torch_value(name: str, *, unloaded: Any) -> Callable[[], Any]:
    """Reads `torch.<name>()`; `unloaded` while torch is not imported, whose import is slow."""

    def read() -> Any:
        return getattr(_torch(), name)() if _torch() else unloaded

    return read


def _torch_dtype() -> str:
    return str(_torch().get_default_dtype()) if _torch() else "torch.float32"


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


SETTINGS = {
    "directory": Setting("the working directory (os.chdir)", _directory, os.chdir, "use absolute paths instead"),
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
        _torch_value("is_grad_enabled", unloaded=True),
        _write_torch("set_grad_enabled"),
        "use `with torch.no_grad():` instead",
    ),
    "torch_threads": Setting(
        "torch's number of threads (torch.set_num_threads)",
        _torch_value("get_num_threads", unloaded=None),
        _write_torch("set_num_threads"),
    ),
    "signals": Setting("what signals do (signal.signal)", _handlers, _write_handlers),
}


def _changed(where: str, setting: Setting, before: Any, after: Any) -> Finding:
    got = "" if isinstance(before, dict) else f": from {before} to {after}"
    return error(where, f"changes {setting.name}{got}, for the whole process", setting.remedy)


@contextmanager
def settings_kept() -> Iterator[list[tuple[str, Any, Any]]]:
    """Put back what the body changes of SETTINGS; the list gets the name, value before and value after of each."""
    before = {name: setting.read() for name, setting in SETTINGS.items()}
    changed: list[tuple[str, Any, Any]] = []
    try:
        yield changed
    finally:
        for name, setting in SETTINGS.items():
            after = setting.read()
            if before[name] is not None and after != before[name]:
                changed.append((name, before[name], after))
                setting.write(before[name])


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


def _read(settings: dict[str, Setting]) -> dict[str, Any]:
    return {name: setting.read() for name, setting in settings.items()}


def _drawn(where: str, before: dict[str, Any]) -> list[Finding]:
    remedy = (
        "draw from the argument rng" if where.endswith("sample_tasks") else "draw from self.np_random, which is seeded"
    )
    return [
        warning(where, f"draws from or seeds the global generator of {setting.name}, which all lanes share", remedy)
        for name, setting in GENERATORS.items()
        if before[name] is not None and _differ(before[name], setting.read())
    ]


def _differ(before: Any, after: Any) -> bool:
    """For states of generators, of which only NumPy's is more than text and whole numbers."""
    return not same(before, after) if isinstance(before, dict) else before != after


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the process's random generators back after the body."""
    before = _read(GENERATORS)
    try:
        yield
    finally:
        for name, setting in GENERATORS.items():
            setting.write(before[name])
