"""What can go wrong in the middle of a run without being a fault of this program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RunStopped(RuntimeError):
    """The run ends before its time, in order: its text is one line that says why and how to go on."""


class NotFinite(ArithmeticError):
    """A number is NaN or infinite. order: of several that ranks find at once, the least is told."""

    def __init__(self, text: str, order: tuple[int, ...] = ()) -> None:
        super().__init__(text, order)
        self.text, self.order = text, order

    def __str__(self) -> str:
        return self.text


class Failure(NamedTuple):
    """A task whose environment raised. item: its index among the items given; error: in a line; trace: in full."""

    item: int
    error: str
    trace: str


class TasksFailed(RuntimeError):
    """Environments of some of the tasks raised; the others could go on without them."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(list(failures))
        self.failures = list(failures)
