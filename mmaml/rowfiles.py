"""Files to which every iteration adds a row: progress.csv and TensorBoard's events. A full disk cuts none in two."""

from __future__ import annotations

import itertools
import math
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, TypeVar

from mmaml.checkpoint import atomic_file
from mmaml.display import Row
from mmaml.usage import disk_reason

Item = TypeVar("Item")

_event_files = itertools.count()
_ITERATION = re.compile("[0-9]{1,18}")


class AppendedFile:
    """A file at whose end bytes are written whole or not at all. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.size = os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> None:
        """Write `data`; raises OSError, and then the file is as it was."""
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.size + written)
        except OSError:
            with suppress(OSError):  # then the next attempt writes over what is there
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)

    def sync(self) -> None:
        """Have the disk hold what was written; raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)


class Backlog(Generic[Item]):
    """What is to be written to a file, and waits, all of it, until the disk has room for it.

    write: raises OSError, and then has written nothing. warn: told when writing fails, when it works again, and of
    what is lost in the end.
    """

    def __init__(self, name: str, write: Callable[[list[Item]], None], warn: Callable[[str], None]) -> None:
        self.name, self._write, self._warn = name, write, warn
        self._waiting: list[Item] = []
        self._failing = False

    def add(self, item: Item) -> None:
        self._waiting.append(item)
        self.flush()

    def flush(self) -> str:
        """Write what waits; why that failed, "" when nothing waits any more."""
        if not self._waiting:
            return ""
        try:
            self._write(self._waiting)
        except OSError as error:
            why = disk_reason(error)
            if not self._failing:
                self._warn(
                    f"warning: {self.name} cannot be written ({why}); what is to go there is kept until there is room"
                )
            self._failing = True
            return why
        if self._failing:
            self._warn(f"warning: {self.name} is written again, with {len(self._waiting)} entries that waited")
        self._waiting, self._failing = [], False
        return ""

    def close(self) -> None:
        """Try a last time."""
        if why := self.flush():
            self._warn(
                f"warning: {self.name} lacks its last {len(self._waiting)} entries, which could not be written ({why})"
            )


class ProgressFile:
    """progress.csv: on the disk row by row; a column that first appears later is added to the header.

    resume_iteration: the next iteration of a run that is restored; rows of it and later ones are dropped. damaged:
    where the file is kept as it was, if it held what is neither a row nor one that was cut short.
    """

    def __init__(self, path: Path, resume_iteration: int | None) -> None:
        self._path = path
        self._columns: list[str] = []
        self._file: AppendedFile | None = None
        self.damaged: Path | None = None
        if resume_iteration is not None and path.exists():
            columns, rows, strays = read_rows(path)
            if strays:
                self.damaged = _kept(path)
            self._rewrite(columns, [row for row in rows if int(row["Itr"]) < resume_iteration])

    def write(self, rows: list[Row]) -> None:
        """Add rows; raises OSError, and then none of them is there."""
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]
        columns = self._columns + new
        cells = [{name: _cell(row.get(name, math.nan)) for name in columns} for row in rows]
        if new:
            self._rewrite(columns, (read_rows(self._path)[1] if self._file else []) + cells)
        else:
            assert self._file is not None
            self._file.append(_lines([list(row.values()) for row in cells]))

    def sync(self) -> None:
        """Have the disk hold the rows, so that a power cut takes none; raises OSError."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        with atomic_file(self._path) as file:
            file.write(_lines([columns, *([row.get(name, "") for name in columns] for row in rows)]))
        self.close()
        self._columns, self._file = columns, AppendedFile(self._path)


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], int]:
    """Columns and rows of a progress.csv, and how many lines are none; raises OSError.

    A row that a crash has cut short, in the middle or before the end of its line, is left out. Lines may end as
    editors leave them: in "\\n" too.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    *lines, cut = (line.removesuffix("\r") for line in text.split("\n"))
    columns, *cells = [line.split(",") for line in lines if line] or [[]]
    if "Itr" not in columns:
        return [], [], sum(map(bool, [*lines, cut]))
    rows = [dict(zip(columns, row, strict=True)) for row in cells if len(row) == len(columns)]
    rows = [row for row in rows if _ITERATION.fullmatch(row["Itr"])]
    return columns, rows, len(cells) - len(rows)


def _kept(path: Path) -> Path:
    """A copy of a file, under a name beside it that is free."""
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    copy = next(free for name in names if not os.path.lexists(free := path.with_name(f"{path.name}.damaged{name}")))
    with atomic_file(copy) as file:
        file.write(path.read_bytes())
    return copy


def _lines(rows: list[list[str]]) -> bytes:
    return "".join(",".join(row) + "\r\n" for row in rows).encode()


def _cell(value: float) -> str:
    """The shortest text that reads back as the same number; nothing for NaN."""
    return "" if math.isnan(value) else repr(value if isinstance(value, int) else float(value))


class EventsFile:
    """TensorBoard's events.out.tfevents.*, a file for each start of the run.

    TensorBoard's own writer has a thread, which dies on a full disk in the middle of a record.
    """

    def __init__(self, folder: Path, resume_iteration: int | None) -> None:
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_event_files)}"
        self._path = folder / name
        self._resume_iteration = resume_iteration
        self._file: AppendedFile | None = None

    def encoded(self, row: Row) -> bytes:
        """An iteration's numbers, at the present time, as a record of such a file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name.replace("-", "/", 1), simple_value=value)
            for name, value in row.items()
            if name != "Itr" and not math.isnan(value)
        ]
        return _record(step=int(row["Itr"]), summary=Summary(value=values))

    def write(self, records: list[bytes]) -> None:
        """Add records; raises OSError, and then none of them is there."""
        if self._file is None:
            self._file = AppendedFile(self._path)
        start = self._start() if self._file.size == 0 else b""
        self._file.append(start + b"".join(records))

    def _start(self) -> bytes:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        step = self._resume_iteration
        start = _record(file_version="brain.Event:2", step=step or 0)
        # What other files have of this step and later ones is not to be shown.
        return start if step is None else start + _record(step=step, session_log=SessionLog(status=SessionLog.START))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _record(**content: Any) -> bytes:
    # Slow imports: after the first iteration, which is not to wait for them.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    record = BytesIO()
    RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
    return record.getvalue()
