"""The files that a run writes beside its checkpoints, and its display.

params.json     the resolved configuration, key by key as in a config file, plus "placement" (ranks, machines, where the
                meta-gradient is computed), "versions" and "git_commit"
progress.csv    one row for each iteration; an empty cell is a value that was not measured in that iteration
events.out.*    the same numbers for TensorBoard
messages.log    warnings, with time and iteration; absent if there were none

If a run continues a progress.csv with lines that are not rows, a copy of it is kept as progress.csv.damaged.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mmaml.errors import UsageError
from mmaml.parallel.placement import ALONE, Placement
from mmaml.reporting.display import make_display
from mmaml.storage.events_file import open_events_file
from mmaml.storage.files import AppendedFile, Backlog, writing
from mmaml.storage.layout import MESSAGES, PARAMS, PROGRESS
from mmaml.storage.params_file import write_params
from mmaml.storage.progress_file import ProgressFile, Row
from mmaml.written_paths import as_written

if TYPE_CHECKING:
    from mmaml.config.keys import Config


class RunLogger:
    """All outputs of a run except its checkpoints; only rank 0 has one.

    resume_iteration: None for a new run. For a restored one, the next iteration: rows of it and later ones are dropped,
    earlier ones are kept; where it is n_itr or more there is nothing left to do, and the files stay as they are.
    0: the run in the directory starts over.

    A disk that is full or gone does not end a run: what cannot be written is kept in memory until it can.

    Raises UsageError if the directory of a new run contains another run, or cannot be written.
    """

    def __init__(
        self,
        config: Config,
        dump_path: Path,
        resume_iteration: int | None,
        stream: TextIO | None = None,
        placement: Placement = ALONE,
    ) -> None:
        if resume_iteration is None and (dump_path / PROGRESS).exists():
            raise UsageError("dump_path", f"'{dump_path}' already contains a run", "choose another directory")
        is_new = not dump_path.exists()
        is_over = resume_iteration is not None and resume_iteration >= config.n_itr
        with writing("dump_path", dump_path):
            try:
                dump_path.mkdir(parents=True, exist_ok=True)
                if not (is_over and (dump_path / PARAMS).exists()):
                    write_params(config.to_dict(), dump_path, placement.record())
                self._progress = ProgressFile(dump_path / PROGRESS, None if is_over else resume_iteration)
            except OSError:
                if is_new:
                    with suppress(OSError):
                        dump_path.rmdir()
                raise
        self._events = open_events_file(dump_path, resume_iteration)
        self._rows = Backlog(PROGRESS, self._progress.write, self.warn)
        self._records = Backlog("TensorBoard's event file", self._write_events, self.warn)
        self._messages_path = dump_path / MESSAGES
        self._messages = Backlog(MESSAGES, self._write_messages, lambda _: None)
        self._display = make_display(config, dump_path, resume_iteration or 0, stream or sys.stdout, placement)
        if kept := self._progress.damaged:
            self.warn(f"warning: {PROGRESS} had lines that are not rows of a run; a copy of it is kept as '{kept}'")

    def log(self, row: Row) -> None:
        """Record one iteration.

        row: at least Itr, n_timesteps, ItrTime, EnvStepsPerSecond, Step_0- … Step_K-AverageReturn.
        """
        self._rows.add(row)
        self._display.show(row)
        if self._events is not None:
            self._records.add(self._events.encoded(row))

    def warn(self, text: str) -> None:
        """Report what went wrong: above the live display or on stderr, and in messages.log with the time."""
        text = as_written(text)
        self._display.warn(text)
        self._messages.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} iteration {self._display.done}: {text}\n")

    def sync(self) -> None:
        """Wait until the rows so far are on the disk, before a checkpoint that follows them."""
        with suppress(OSError):  # writing the checkpoint will fail too, and report it
            self._progress.sync()

    def close(self) -> None:
        """Write what is still waiting, if that is possible now, and close the files."""
        for backlog in (self._rows, self._records, self._messages):
            backlog.close()
        self._progress.close()
        if self._events is not None:
            self._events.close()
        self._display.close()

    def _write_events(self, records: list[bytes]) -> None:
        assert self._events is not None  # where there are records
        self._events.write(records)

    def _write_messages(self, lines: list[str]) -> None:
        file = AppendedFile(self._messages_path)
        try:
            # An environment's error may contain a file name that is not valid text.
            file.append("".join(lines).encode(errors="backslashreplace"))
        finally:
            file.close()
