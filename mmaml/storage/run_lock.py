"""One process at a time writes a run: who does holds a lock in its directory, which ends with the process."""

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


class Claim:
    """A run's directory, from `take` until the end of the `with` block or the process.

    Then the lock's file is gone, and the directory too if it was made here and nothing else has been written in it. A
    killed process leaves the file, without its lock. Where a file system has no locks, everyone is let in.
    """

    def __init__(self) -> None:
        self._made: list[Path] = []
        self._file: Path | None = None
        self._descriptor = -1

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()
            os.close(self._descriptor)
        for folder in self._made:
            with suppress(OSError):  # it holds the run
                folder.rmdir()

    def take(self, folder: Path, new: bool) -> bool:
        """Make the directory and keep others out of it; whether that was done. Not if `new`, and there is something.

        Raises UsageError if another process has it, or it cannot be written.
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
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # POSIX's: no child of this process inherits it
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                    os.close(descriptor)
                    raise UsageError(
                        f"dump_path: expected a run that no other process writes, got '{folder}', which {holder} "
                        "writes; wait for its end, or give another"
                    ) from error
            if _is_at(path, descriptor):
                break
            os.close(descriptor)  # whoever had it has just removed it
        self._file, self._descriptor = path, descriptor
        with suppress(OSError):  # a full disk: the lock counts, not who holds it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
