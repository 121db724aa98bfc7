"""Waiting for an event."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
GUARD = 300.0  # seconds after which a test fails that waits in vain; no event takes nearly as long


def wait_until(condition: Callable[[], Result], seconds: float = GUARD) -> Result:
    """What the condition returns once that is true. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.02)
    return result


def wait_for_looks(pid: int, looks: int) -> None:
    """Let the supervisor look at its job so many times."""
    before = context_switches(pid)
    wait_until(lambda: context_switches(pid) > before + looks)


def context_switches(pid: int) -> int:
    """How often a process has gone to sleep by itself: the supervisor does at each of its looks."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
