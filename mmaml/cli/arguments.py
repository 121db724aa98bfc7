"""Checks of what a script is given on its command line, made before any work is done."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mmaml.config.value_types import PATH, TEXT
from mmaml.errors import UsageError
from mmaml.storage.files import unfinished, writing

MOST_LETTERS = 200  # on a line of a figure


def check_integers(arguments: argparse.Namespace, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Raise UsageError for an argument, by name, that is given and not from the least to the most it may be."""
    for name, (least, most) in ranges.items():
        value = getattr(arguments, name)
        if value is not None and not least <= value <= most:
            expected = f"of at least {least}" if value < least else f"of at most {most}"
            raise UsageError(f"--{name}: expected an integer {expected}, got {value}")


def check_text(name: str, text: str) -> None:
    """Raise UsageError for a text that cannot be written on a figure."""
    if not TEXT.accepts(text) or len(text) > MOST_LETTERS:
        shown = text if len(text) <= MOST_LETTERS else f"{len(text)} characters"
        raise UsageError(f"{name}: expected {TEXT.expected}, at most {MOST_LETTERS}, got {shown!r}")


def check_path(name: str, path: Path | str) -> None:
    """Raise UsageError, naming the argument, for a path that no file could have."""
    if not PATH.accepts(str(path)):
        raise UsageError(f"{name}: expected {PATH.expected}, got {str(path)!r}")


def check_file(name: str, path: Path) -> None:
    """Raise UsageError unless a file can be written at `path`, in place of one or in a folder still to be made."""
    check_path(name, path)
    with writing(name, path):
        if path.is_dir():
            raise UsageError(f"{name}: expected a file, got the directory '{path}'")
        if path.exists() and not path.is_file():
            raise UsageError(f"{name}: expected a file, got '{path}', which is none")
        _probe(path.parent, unfinished(path).name)


def check_folder(name: str, path: Path) -> None:
    """Raise UsageError unless files can be written in the directory `path`, there or still to be made."""
    check_path(name, path)
    with writing(name, path):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{name}: expected a directory, got the file '{path}'")
        _probe(path)


def _probe(folder: Path, *names: str) -> None:
    """Make a nameless file where a folder is or will be; raises OSError where that, or a name, is not possible."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"'{existing}' is not a directory")
    longest = os.statvfs(existing).f_namemax
    if any(len(os.fsencode(name)) > longest for name in (*folder.parts, *names)):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    # Permission bits do not tell of a file system that takes no files. The probe has no name where that can be.
    with tempfile.TemporaryFile(dir=existing):
        pass
