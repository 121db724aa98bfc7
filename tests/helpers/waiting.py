"""Waiting for an event."""

from __future__ import annotations

import time
from collections.abc import Callable
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
