"""Named points of a run, at which tests can have a process fail: be killed, stop, or be slow.

Nothing but tests sets `handler`. Without it a point costs a call and an `if`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Point = Literal[
    "receive",  # before waiting for a message of another rank
    "half received",  # between the parts of a message
    "send",  # before sending a message to another rank
    "half sent",  # before waiting until a message has gone
    "sampling",  # iteration, purpose: before a rank samples its tasks
    "time step",  # before the environments of a rank's tasks are stepped
    "advantages",  # collection: before they are estimated
    "adaptation",  # collection: before the inner step on it
    "evaluation",  # function: before a function of the algorithm is evaluated on a rank's tasks
    "master step",  # step: before a step of the update that the master takes alone
    "checkpoint",  # saved: before the checkpoint of so many iterations is written
    "half written",  # file: when it is complete, but does not have its name yet
]

handler: Callable[[Point, dict[str, int | str]], None] | None = None


def reached(point: Point, **when: int | str) -> None:
    """Call the handler, if there is one, before what happens next. when: what distinguishes this time from others."""
    if handler is not None:
        handler(point, when)
