"""Files that are always whole: written atomically, or appended to by complete entries only."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from mmaml.errors import UsageError, disk_reason
from mmaml.fault_points import reached


def unfinished(path: Path) -> Path:
    """The path of the temporary file that becomes the file at `path` once it is complete."""
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name only once it is complete and on the disk; after an error nothing is left."""
    temporary = unfinished(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        reached("half written", file=path.name)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents, so that they survive a power failure."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


Entry = TypeVar("Entry")


class AppendedFile:
    """A file to whose end data are written whole or not at all. Raises OSError if it cannot be opened."""

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
            with suppress(OSError):  # otherwise the next attempt overwrites the partial data
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)

    def sync(self) -> None:
        """Wait until the data are on the disk; raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)


class Backlog(Generic[Entry]):
    """Entries to be written to a file, kept in memory while the disk refuses them.

    write: writes entries, or raises OSError and has written none. warn: called when writing fails, when it works again,
    and at the end if entries are lost.
    """

    def __init__(self, name: str, write: Callable[[list[Entry]], None], warn: Callable[[str], None]) -> None:
        self.name, self._write, self._warn = name, write, warn
        self._waiting: list[Entry] = []
        self._failing = False

    def add(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self.flush()

    def flush(self) -> str:
        """Write the waiting entries. Returns why that failed, "" if none is waiting any more."""
        if not self._waiting:
            return ""
        try:
            self._write(self._waiting)
        except OSError as error:
            why = disk_reason(error)
            if not self._failing:
                self._warn(f"warning: {self.name} cannot be written ({why}); its entries are kept until it can")
            self._failing = True
            return why
        if self._failing:
            self._warn(f"warning: {self.name} is written again, with {len(self._waiting)} entries that were kept")
        self._waiting, self._failing = [], False
        return ""

    def close(self) -> None:
        """Try one last time; warn if entries are lost."""
        if why := self.flush():
            self._warn(f"warning: the last {len(self._waiting)} entries of {self.name} could not be written ({why})")


@contextmanager
def writing(name: str, path: Path) -> Iterator[None]:
    """Turn OSError about a path or a disk into UsageError. name: of the argument that gave the path."""
    try:
        yield
    except OSError as error:
        got = f"'{path}' ({disk_reason(error)})"
        raise UsageError(name, expected="a path that can be written", got=got, remedy="choose another") from error
