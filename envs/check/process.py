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

    @property
    def findings(self) -> list[Finding]:
        """What was found so far."""
        return list(self._findings.values())

    def note(self, *findings: Finding) -> None:
        """Add findings. Of such as differ only in the values that were met, the first is kept."""
        for finding in findings:
            self._findings.setdefault(finding.key, finding)

    def call(self, where: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the function returns; what else it does is noted. where: what findings call it.

        Raises Failed for what it raises, SystemExit too. Settings of the process that it changed are put back; numbers
        that it drew from global generators stay drawn, so that they show in what follows.
        """
        generators = _read(GENERATORS)
        output = io.StringIO()
        try:
            with settings_kept() as changed, redirect_stdout(output), redirect_stderr(output):
                return _called(where, function, args, kwargs)
        finally:
            self.note(*(_changed(where, SETTINGS[name], before, after) for name, before, after in changed))
            self.note(*_drawn(where, generators))
            if printed := output.getvalue().strip():
                lines = printed.splitlines()
                self.note(
                    warning(
                        where,
                        "prints to the terminal",
                        "a run calls it for every lane: remove it, or use the module logging",
                    )._replace(got=clipped(lines[0]))
                )


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
    depth = 0
    frame = raised.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename in (__file__,):
        depth, frame = depth + 1, frame.tb_next
    shortened = raised.with_traceback(frame) if frame is not None else raised
    return "".join(traceback.format_exception(shortened)).rstrip()


class Setting(NamedTuple):
    """Something that belongs to the whole process. name: in a finding; read: its value; write: set it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    remedy: str = "leave it to the program, or put it back before returning"


def _torch_value(name: str, *, unloaded: Any) -> Callable[[], Any]:
    """Reads `torch.<name>()`; `unloaded` while torch is not imported, whose import is slow."""

    def read() -> Any:
        torch = sys.modules.get("torch")
        return getattr(torch, name)() if hasattr(torch, name) else unloaded

    return read


def _torch_dtype() -> str:
    torch = sys.modules.get("torch")
    return str(torch.get_default_dtype()) if hasattr(torch, "get_default_dtype") else "torch.float32"


def _write_torch_dtype(name: str) -> None:
    torch = sys.modules["torch"]
    torch.set_default_dtype(getattr(torch, name.removeprefix("torch.")))


def _write_torch(name: str) -> Callable[[Any], None]:
    def write(value: Any) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and value is not None:
            getattr(torch, name)(value)

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
    torch = sys.modules.get("torch")
    return torch.get_rng_state().numpy().tobytes() if hasattr(torch, "get_rng_state") else None


def _write_torch_generator(state: bytes | None) -> None:
    if state is not None:
        torch = sys.modules["torch"]
        torch.set_rng_state(torch.tensor(list(state), dtype=torch.uint8))


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
