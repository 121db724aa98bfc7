"""A run's checkpoints as the disk allows: a write that fails is told, and ends the run only when it keeps failing."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmaml.errors import RunStopped, disk_reason
from mmaml.storage import checkpoint

_NOT_WRITTEN = "the checkpoint of iteration {} could not be written"


class NotSaved(RunStopped):
    """The run ends because its checkpoints cannot be written, or without the last of them."""


def not_saved(messages: str) -> set[int]:
    """The iterations whose checkpoints could not be written, by what a log of messages tells of them."""
    return {int(number) for number in re.findall(_NOT_WRITTEN.format("([0-9]{1,18})"), messages)}


class Saver:
    """Writes checkpoints into `directory` and deletes old ones, as `checkpoint.write` and `checkpoint.prune` do.

    max_failed_saves: writes in a row that fail before the run ends. warn: told in a line of each before the last.
    Nothing is deleted unless the new file is safely on the disk, so that the checkpoint before a failed one stays as
    it is.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        keep_every_hours: float,
        max_failed_saves: int,
        warn: Callable[[str], None],
    ) -> None:
        self.directory = directory
        self.keep, self.keep_every_hours = keep, keep_every_hours
        self.max_failed_saves = max_failed_saves
        self.warn = warn
        self.failures = 0  # in a row

    def save(self, iteration: int, state: dict[str, Any], last: bool = False) -> bool:
        """Write the checkpoint of `iteration`, or warn that it could not be written; whether it was.

        last: no other follows, so that a failure is not to be waited out.

        Raises NotSaved when `max_failed_saves` in a row have failed, or the last.
        """
        try:
            checkpoint.write(self.directory, iteration, state)
        except OSError as error:
            self._failed(iteration, disk_reason(error), last)
            return False
        self.failures = 0
        try:
            checkpoint.prune(self.directory, iteration, keep=self.keep, keep_every_hours=self.keep_every_hours)
        except OSError as error:
            self.warn(f"warning: old checkpoints in '{self.directory}' could not be deleted ({disk_reason(error)})")
        return True

    def _failed(self, iteration: int, reason: str, last: bool) -> None:
        self.failures += 1
        before = self._before(iteration)
        there = "there is none before it" if before is None else f"that of iteration {before} stays"
        told = f"{_NOT_WRITTEN.format(iteration)} ({reason}); {there}"
        allowed = self.max_failed_saves
        if last:
            raise NotSaved(f"stopped: {told}; it is the run's last; make room")
        if self.failures >= allowed:
            raise NotSaved(f"stopped: {told} ({self.failures} in a row failed); make room, or raise max_failed_saves")
        self.warn(f"warning: {told} ({self.failures} in a row failed, {allowed} end the run)")

    def _before(self, iteration: int) -> int | None:
        """The iteration of the newest checkpoint up to `iteration`, None where there is none to be seen."""
        with suppress(OSError):
            there = [number for number, _ in checkpoint.by_iteration(self.directory) if number <= iteration]
            return there[-1] if there else None
        return None
