"""Calls of a user's code: what it raises, prints, and changes in the process beside what it returns."""

from __future__ import annotations

import io
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from mmaml.envs.check.comparison import same
from mmaml.envs.check.findings import ERROR, Finding, error, of_usage_error, warning
from mmaml.envs.process_state import GENERATORS, Change, CodeSettings, read
from mmaml.envs.shown import clipped
from mmaml.errors import UsageError, described

SHOWN_WHERE = "--verbose shows where"  # of the command that examines an environment


class Failed(Exception):
    """A user's code raised, or called sys.exit. finding: says so."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class UserCode:
    """Calls a user's code and collects findings, each once, in the order in which they are met.

    settings: of the process, with which the code runs.
    """

    def __init__(self, settings: CodeSettings) -> None:
        self._settings = settings
        self._findings: dict[tuple[str, ...], Finding] = {}
        self._misfits: dict[str, Finding] = {}

    def apart(self) -> UserCode:
        """One for the same code, whose findings are its own."""
        return UserCode(self._settings)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far."""
        return list(self._findings.values())

    def note(self, *findings: Finding) -> None:
        """Add findings. Of such as differ only in the values that were met, the first is kept."""
        for finding in findings:
            self._findings.setdefault(finding.key, finding)

    def note_signatures(self, *findings: Finding) -> None:
        """Add findings of signatures, each `where` a method; a TypeError of one that is wrong says nothing more."""
        self.note(*findings)
        self._misfits |= {finding.where: finding for finding in findings if finding.level == ERROR}

    def call(self, where: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the function returns; what else it does is noted. where: what findings call it.

        Raises Failed for what it raises, SystemExit too. Settings of the process that it changed are put back; numbers
        that it drew from global generators stay drawn, so that they show in what follows.
        """
        generators = read(GENERATORS)
        output = io.StringIO()
        try:
            with (
                warnings.catch_warnings(action="ignore"),
                self._settings.running() as changes,
                redirect_stdout(output),
                redirect_stderr(output),
            ):
                return called(where, function, *args, **kwargs)
        except Failed as failed:
            if where in self._misfits and isinstance(failed.__cause__, TypeError):
                raise Failed(self._misfits[where]) from failed.__cause__
            raise
        finally:
            self.note(*(_changed(where, change) for change in changes))
            self.note(*drawn_globally(where, generators))
            if printed := output.getvalue().strip():
                got = repr(clipped(printed.splitlines()[0]))
                remedy = "remove it, since a run calls it for every lane"
                self.note(warning(where, expected="nothing on the terminal", got=got, remedy=remedy))


def called(where: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """What the function, a user's, returns. Raises Failed for what it raises, SystemExit too."""
    try:
        return function(*args, **kwargs)
    except UsageError as refused:
        raise Failed(of_usage_error(refused)) from refused
    except SystemExit as exits:
        finding = error(where, f"calls sys.exit({exits.code!r})", "raise an error instead")
        raise Failed(finding._replace(trace=_trace(exits))) from exits
    except Exception as raised:
        finding = error(where, f"raises {clipped(described(raised))}", SHOWN_WHERE)
        raise Failed(finding._replace(trace=_trace(raised))) from raised


def _trace(raised: BaseException) -> str:
    """The traceback from the user's code on."""
    frames = raised.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(raised), raised, frames)).rstrip()


def _changed(where: str, change: Change) -> Finding:
    return warning(where, str(change), change.remedy)


def drawn_globally(where: str, before: dict[str, Any]) -> list[Finding]:
    """Which of the process's random generators are in another state than before, as `read(GENERATORS)` gave it."""
    remedy = "draw from self.np_random, which is seeded"
    if where.endswith("sample_tasks"):
        remedy = "draw from the argument rng"
    elif where.endswith("()"):  # of an object that is built, whose np_random has no seed yet
        remedy = "draw in reset, from self.np_random, which is seeded there"
    return [
        warning(where, f"draws from or seeds the global generator of {setting.name}, which all lanes share", remedy)
        for name, setting in GENERATORS.items()
        if before[name] is not None and _differ(before[name], setting.read())
    ]


def _differ(before: Any, after: Any) -> bool:
    """For states of generators, of which only NumPy's is more than text and whole numbers."""
    return not same(before, after) if isinstance(before, dict) else before != after
