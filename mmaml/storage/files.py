"""Files that are whole or absent: written atomically, or appended to without being cut in two."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from mmaml.errors import UsageError, disk_reason


def unfinished(path: Path) -> Path:
    """What the file at `path` is called while it is written."""
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only once it is complete and on the disk; after an error it is gone."""
    while_written = unfinished(path)
    try:
        with open(while_written, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(while_written, path)
        sync_folder(path.parent)
    finally:
        while_written.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it that are missing; they too survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


Item = TypeVar("Item")


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


@contextmanager
def writing(name: str, path: Path) -> Iterator[None]:
    """Turns what the system says of a path or a disk into UsageError, naming the argument."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{name}: expected a place that can be written, got '{path}' ({disk_reason(error)}); give another"
        ) from error
