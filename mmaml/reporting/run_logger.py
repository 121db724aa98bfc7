"""What a run leaves behind: params.json, progress.csv, TensorBoard events; and its display.

params.json     the resolved configuration, key by key as in a config file, plus "versions" and "git_commit"
progress.csv    one row an iteration; an empty cell is a value that was not measured in that iteration
events.out.*    the same numbers for TensorBoard, by iteration
messages.log    what went wrong on the way, a line each, with time and iteration; not there when nothing did

A progress.csv that holds more than rows of a run, when a run continues it, is kept as progress.csv.damaged.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mmaml.errors import UsageError, disk_reason
from mmaml.reporting.display import make_display
from mmaml.storage.events_file import EventsFile
from mmaml.storage.files import AppendedFile, Backlog
from mmaml.storage.progress_file import ProgressFile, Row

if TYPE_CHECKING:
    from mmaml.config.keys import Config

from mmaml.storage.layout import MESSAGES, PROGRESS
from mmaml.storage.params_file import write_params


class RunLogger:
    """All outputs of a run but its checkpoints; only rank 0 has one.

    `resume_iteration` is None for a new run. For a restored one it is the next iteration: what the
    directory holds of that iteration and later ones is dropped, the rest stays and is continued. 0: the run
    that is there starts over in place.

    Once it is there, a disk that is full or gone ends no run: what cannot be written is kept in memory until it can.

    Raises FileExistsError if a new run would write into the directory of another, UsageError if the directory cannot
    be written.
    """

    def __init__(
        self, config: Config, dump_path: Path, resume_iteration: int | None, stream: TextIO | None = None
    ) -> None:
        if resume_iteration is None and (dump_path / PROGRESS).exists():
            raise FileExistsError(f"dump_path: expected a new directory, '{dump_path}' holds a run")
        is_new = not dump_path.exists()
        try:
            dump_path.mkdir(parents=True, exist_ok=True)
            write_params(config.to_dict(), dump_path)
            self._progress = ProgressFile(dump_path / PROGRESS, resume_iteration)
        except OSError as error:
            if is_new:
                with suppress(OSError):
                    dump_path.rmdir()
            raise UsageError(
                f"dump_path: expected a place that can be written, got '{dump_path}' ({disk_reason(error)})"
            ) from error
        self._events = EventsFile(dump_path, resume_iteration)
        self._rows = Backlog(PROGRESS, self._progress.write, self.warn)
        self._records = Backlog("TensorBoard's events file", self._events.write, self.warn)
        self._messages_path = dump_path / MESSAGES
        self._messages = Backlog(MESSAGES, self._write_messages, lambda _: None)
        self._display = make_display(config, dump_path, resume_iteration or 0, stream or sys.stdout)
        if kept := self._progress.damaged:
            self.warn(f"warning: {PROGRESS} held lines that are no rows of a run; as it was, it is kept as '{kept}'")

    def log(self, row: Row) -> None:
        """Record one iteration.

        `row` holds at least Itr, n_timesteps, ItrTime, EnvStepsPerSecond, Step_0- … Step_K-AverageReturn.
        """
        self._rows.add(row)
        self._display.show(row)
        self._records.add(self._events.encoded(row))

    def warn(self, text: str) -> None:
        """Tell what went wrong: above the live display, or else on stderr; and in messages.log, with the time."""
        self._display.warn(text)
        self._messages.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} iteration {self._display.done}: {text}\n")

    def sync(self) -> None:
        """Have the disk hold the rows so far: for a checkpoint that counts them."""
        with suppress(OSError):  # the checkpoint will meet it too, and tell
            self._progress.sync()

    def close(self) -> None:
        """Write what waits, if that is possible now, and close the files."""
        for backlog in (self._rows, self._records, self._messages):
            backlog.close()
        self._progress.close()
        self._events.close()
        self._display.close()

    def _write_messages(self, lines: list[str]) -> None:
        file = AppendedFile(self._messages_path)
        try:
            # An environment's error may hold the name of a file that is no text.
            file.append("".join(lines).encode(errors="backslashreplace"))
        finally:
            file.close()
