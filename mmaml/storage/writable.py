"""Whether a file or folder can be written, found out before any work is done."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from mmaml.config.value_types import PATH
from mmaml.errors import UsageError
from mmaml.storage.files import unfinished, writing


def check_path(name: str, path: Path | str) -> None:
    """Raise UsageError, naming the argument, for a path that no file could have."""
    if not PATH.accepts(str(path)):
        raise UsageError(name, expected=PATH.expected, got=repr(str(path)))


def check_file(name: str, path: Path) -> None:
    """Raise UsageError unless a file can be written at `path`, over an earlier one or in a folder yet to be made."""
    check_path(name, path)
    with writing(name, path):
        if path.is_dir():
            raise UsageError(name, expected="a file", got=f"the directory '{path}'")
        if path.exists() and not path.is_file():
            raise UsageError(name, expected="a regular file", got=f"'{path}', which is a device or a pipe")
        _probe(path.parent, unfinished(path).name)


def check_folder(name: str, path: Path) -> None:
    """Raise UsageError unless files can be written in the directory `path`, which exists or is yet to be made."""
    check_path(name, path)
    with writing(name, path):
        if path.exists() and not path.is_dir():
            raise UsageError(name, expected="a directory", got=f"the file '{path}'")
        _probe(path)


def _probe(folder: Path, *names: str) -> None:
    """Make a file without a name where the folder is or will be. Raises OSError if that, or a name, is impossible."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"'{existing}' is not a directory")
    longest = os.statvfs(existing).f_namemax
    if any(len(os.fsencode(name)) > longest for name in (*folder.parts, *names)):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    # Permission bits do not show a read-only file system. The file has no name where the system allows it.
    with tempfile.TemporaryFile(dir=existing):
        pass
