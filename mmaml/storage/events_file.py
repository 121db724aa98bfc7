"""TensorBoard's event files, with one record for each iteration."""

from __future__ import annotations

import itertools
import math
import os
import socket
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from mmaml.extras import not_installed
from mmaml.storage.files import AppendedFile
from mmaml.storage.progress_file import Row

_event_files = itertools.count()


def open_events_file(folder: Path, resume_iteration: int | None) -> EventsFile | None:
    """The event file of a run; None, with a notice on stderr, if TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        if (missing := not_installed(error)) is None:
            raise
        print(f"notice: no event file is written ({missing})", file=sys.stderr)
        return None
    return EventsFile(folder, resume_iteration)


class EventsFile:
    """TensorBoard's events.out.tfevents.*, one file for each start of the run.

    TensorBoard's own writer is not used: on a full disk its thread ends in the middle of a record.
    """

    def __init__(self, folder: Path, resume_iteration: int | None) -> None:
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_event_files)}"
        self._path = folder / name
        self._resume_iteration = resume_iteration
        self._file: AppendedFile | None = None

    def encoded(self, row: Row) -> bytes:
        """An iteration's numbers as a record, stamped with the present time."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name.replace("-", "/", 1), simple_value=value)
            for name, value in row.items()
            if name != "Itr" and not math.isnan(value)
        ]
        return _record(step=int(row["Itr"]), summary=Summary(value=values))

    def write(self, records: list[bytes]) -> None:
        """Add records; raises OSError, and then none of them is in the file."""
        if self._file is None:
            self._file = AppendedFile(self._path)
        start = self._start() if self._file.size == 0 else b""
        self._file.append(start + b"".join(records))

    def _start(self) -> bytes:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        step = self._resume_iteration
        start = _record(file_version="brain.Event:2", step=step or 0)
        # SessionLog.START hides what earlier files have of this step and later ones.
        return start if step is None else start + _record(step=step, session_log=SessionLog(status=SessionLog.START))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _record(**content: Any) -> bytes:
    # Slow imports, here so that the first iteration does not wait for them.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    record = BytesIO()
    RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
    return record.getvalue()
