"""What is wrong with an environment, as values."""

from __future__ import annotations

from typing import NamedTuple

from mmaml.errors import UsageError

ERROR, WARNING = "error", "warning"


class Finding(NamedTuple):
    """One thing that is wrong with an environment.

    level: ERROR for what training refuses, or what makes its results wrong; WARNING for what it accepts but few intend.
    where: the method, attribute or value, such as "HoldSpeed.step: reward". problem: in words, or expected and got.
    remedy: what to do. trace: the traceback of the user's code, where it raised.
    """

    level: str
    where: str
    problem: str = ""
    remedy: str = ""
    expected: str = ""
    got: str = ""
    trace: str = ""

    def __str__(self) -> str:
        """In one line."""
        return str(UsageError(self.where, self.problem, self.remedy, expected=self.expected, got=self.got))

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for findings that differ only in the values that were met."""
        return self.level, self.where, self.problem, self.expected


def error(where: str, problem: str = "", remedy: str = "", *, expected: str = "", got: str = "") -> Finding:
    """A finding that training refuses, or that makes its results wrong."""
    return Finding(ERROR, where, problem, remedy, expected, got)


def warning(where: str, problem: str = "", remedy: str = "", *, expected: str = "", got: str = "") -> Finding:
    """A finding that training accepts."""
    return Finding(WARNING, where, problem, remedy, expected, got)


def of_usage_error(refused: UsageError) -> Finding:
    """What the toolkit refuses, as a finding."""
    return Finding(ERROR, refused.argument, refused.problem, refused.remedy, refused.expected, refused.got)
