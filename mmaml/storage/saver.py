"""Writing a run's checkpoints: a write that fails is a warning, and ends the run only when it keeps failing."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmaml.errors import RunStopped, disk_reason
from mmaml.fault_points import reached
from mmaml.storage import checkpoint
from mmaml.storage.files import atomic_file
from mmaml.storage.layout import UNSAVED


class NotSaved(RunStopped):
    """The run ends because its checkpoints cannot be written, or because its last one cannot."""


class Saver:
    """Writes checkpoints into `directory` and deletes old ones, as `checkpoint.write` and `checkpoint.prune` do.

    max_failed_saves: after how many failed writes in a row the run ends. warn: called with one line for each failed
    write before that. Old checkpoints are deleted only once the new file is safely on the disk, so that a failed write
    leaves the previous checkpoint as it is. The run's directory, the parent of `directory`, records the iterations
    whose checkpoints could not be written (`unsaved`).
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
        self._failed: list[int] = []  # iterations whose checkpoints could not be written, since the last that could

    def save(self, iteration: int, state: dict[str, Any], last: bool = False) -> bool:
        """Write the checkpoint of `iteration`, or warn that it could not be written; whether it was written.

        last: no other checkpoint follows, so that a failure ends the run at once.

        Raises NotSaved when `max_failed_saves` writes in a row have failed, or the last.
        """
        reached("checkpoint", saved=iteration)
        try:
            checkpoint.write(self.directory, iteration, state)
        except OSError as error:
            self._record([*self._failed, iteration])
            self._report_failure(iteration, disk_reason(error), last)
            return False
        self._record([])
        try:
            checkpoint.prune(self.directory, iteration, keep=self.keep, keep_every_hours=self.keep_every_hours)
        except OSError as error:
            self.warn(f"warning: old checkpoints in '{self.directory}' could not be deleted ({disk_reason(error)})")
        return True

    def _record(self, failed: list[int]) -> None:
        """Remember which checkpoints are missing, also in a file in the run's directory."""
        self._failed = failed
        path = self.directory.parent / UNSAVED
        with suppress(OSError):  # the disk may refuse this as well; a run without the record is not started over
            if failed:
                with atomic_file(path) as file:
                    file.write(json.dumps({"iterations": failed}).encode())
            else:
                path.unlink(missing_ok=True)

    def _report_failure(self, iteration: int, reason: str, last: bool) -> None:
        previous = self._previous(iteration)
        kept = "there is no earlier one" if previous is None else f"that of iteration {previous} is kept"
        text = f"the checkpoint of iteration {iteration} could not be written ({reason}); {kept}"
        count, allowed = len(self._failed), self.max_failed_saves
        if last:
            raise NotSaved(f"{text}; it was the last of the run; free some disk space")
        if count >= allowed:
            raise NotSaved(f"{text} ({count} failed in a row); free some disk space, or raise max_failed_saves")
        self.warn(f"warning: {text} ({count} failed in a row, the run ends at {allowed})")

    def _previous(self, iteration: int) -> int | None:
        """The iteration of the newest checkpoint up to `iteration`; None if there is none or it cannot be seen."""
        with suppress(OSError):
            existing = [number for number, _ in checkpoint.by_iteration(self.directory) if number <= iteration]
            return existing[-1] if existing else None
        return None


def unsaved(run: Path) -> set[int]:
    """Iterations whose checkpoints the run in directory `run` could not write, since the last one that it could.

    Empty for runs of versions that kept no such record. Raises OSError.
    """
    try:
        record = json.loads((run / UNSAVED).read_bytes())
        return {int(number) for number in record["iterations"]}
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):  # none, or not one that a run wrote
        return set()
