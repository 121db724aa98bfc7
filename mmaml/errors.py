"""Errors of a run: what the user can correct, and what can end or interrupt it."""

from __future__ import annotations

import signal
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from mmaml.written_paths import as_written

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, lone surrogates, line and paragraph separators
MAX_LINE_LENGTH = 1500  # of an error: as long as the one that lists every family


def one_line(text: str) -> str:
    """`text` as a line: control characters and the like as escapes, the middle left out where it is very long."""
    line = "".join(repr(c)[1:-1] if unicodedata.category(c) in UNPRINTABLE else c for c in text)
    half = MAX_LINE_LENGTH // 2
    return line if len(line) <= MAX_LINE_LENGTH else f"{line[:half]} … {line[-half:]}"


def text_of(error: BaseException) -> str:
    """What an exception says, in a line; "" where it says nothing, or cannot."""
    try:
        return " ".join(str(error).split())
    except Exception:  # of a user's class, which may fail in any way
        return ""


def described(error: BaseException) -> str:
    """The kind of an exception and what it says, in a line."""
    return ": ".join(filter(None, (type(error).__name__, text_of(error))))


def to_stderr(text: str) -> None:
    """Print a line on stderr, which nobody may read any more."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class UsageError(ValueError):
    """What the user asked for cannot be done, in one line: "argument: expected …, got …; remedy".

    argument: the key, flag or file that is wrong. expected and got, or the problem in words. remedy: what to do.
    Raises TypeError without expected and problem: a text alone is not enough.
    """

    def __init__(
        self, argument: str, problem: str = "", remedy: str = "", *, expected: str = "", got: str = ""
    ) -> None:
        if not (problem or expected):
            raise TypeError(f"{type(self).__name__}({argument!r}): needs a problem, or what is expected")
        self.argument, self.problem, self.remedy = argument, problem, remedy
        self.expected, self.got = expected, got
        text = f"{argument}: {problem or f'expected {expected}' + (got and f', got {got}')}"
        # Names and values in it are the user's: whatever they hold, it stays one line, and paths as they wrote them.
        super().__init__(one_line(as_written(f"{text}; {remedy}" if remedy else text)))

    def renamed(self, argument: str) -> Self:
        """The same error, of an argument that the user knows by another name."""
        return type(self)(argument, self.problem, self.remedy, expected=self.expected, got=self.got)

    def __reduce__(self) -> tuple[Any, ...]:
        """As it travels between ranks."""
        return (_usage_error, (type(self), dict(vars(self))))


class ConfigError(UsageError):
    """What is wrong with the user's configuration."""


def _usage_error(kind: type[UsageError], values: dict[str, str]) -> UsageError:
    return kind(values["argument"], values["problem"], values["remedy"], expected=values["expected"], got=values["got"])


def disk_reason(error: OSError) -> str:
    """Why the disk refused, in the system's words."""
    return error.strerror or str(error) or type(error).__name__


class RunStopped(RuntimeError):
    """The run ends early, on purpose, with a line for the user: "stopped: " and the reason.

    reason: why, and how to continue. trace: the traceback of the user's code if that is the reason, else "".
    """

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason, trace)
        self.reason, self.trace = reason, trace

    def __str__(self) -> str:
        return f"stopped: {self.reason}"


class NotFinite(ArithmeticError):
    """A number is NaN or infinite, or missing. order: sort key, the smallest that ranks find is reported."""

    def __init__(self, text: str, order: tuple[int, ...] = ()) -> None:
        super().__init__(text, order)
        self.text, self.order = text, order

    def __str__(self) -> str:
        return self.text


class Failure(NamedTuple):
    """A task whose environment raised. item_index: among the items given. error: one line. trace: the traceback."""

    item_index: int
    error: str
    trace: str


class TasksFailed(RuntimeError):
    """Environments of some of the tasks raised; the others could go on without them."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(list(failures))
        self.failures = list(failures)


class Interrupted(BaseException):
    """The run was asked to stop; exit_code: 128 + the signal; reported: whether it is in the log."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
        self.reported = False
