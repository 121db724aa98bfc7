"""The lock that lets one process at a time write a run: a locked file in its directory, released with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from mmaml.errors import UsageError
from mmaml.storage.files import writing
from mmaml.storage.layout import LOCK


class RunLock:
    """Holds the lock of a run's directory from `acquire` until the end of the `with` block or of the process.

    At the end of the block the lock file is deleted, and the directory too if it was made here and nothing was written
    in it. A killed process leaves the file behind, but unlocked. File systems without locks exclude nobody.
    """

    def __init__(self) -> None:
        self._made: list[Path] = []
        self._file: Path | None = None
        self._descriptor = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()
            os.close(self._descriptor)
        for folder in self._made:
            with suppress(OSError):  # not empty: it contains the run
                folder.rmdir()

    def acquire(self, folder: Path, new: bool) -> bool:
        """Make the directory if need be, and lock it. False, and nothing is done, if `new` and the path exists.

        Raises UsageError if another process holds the lock, or the directory cannot be written.
        """
        with writing("dump_path", folder):
            self._made = [path for path in (folder, *folder.parents) if not path.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=not new)
            except FileExistsError:
                self._made = []
                if new:
                    return False
                raise
            self._lock(folder)
        return True

    def _lock(self, folder: Path) -> None:
        path = folder / LOCK
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a POSIX lock: children do not inherit it
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                    os.close(descriptor)
                    raise UsageError(
                        "dump_path",
                        expected="a run that no other process is writing",
                        got=f"'{folder}', which {holder} is writing",
                        remedy="wait until it ends, or choose another",
                    ) from error
            if _is_at(path, descriptor):
                break
            os.close(descriptor)  # its holder has just deleted the file
        self._file, self._descriptor = path, descriptor
        with suppress(OSError):  # on a full disk the name of the holder is missing, but the lock holds
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
