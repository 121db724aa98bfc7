"""How the user wrote the paths that are absolute within the program, for what is printed."""

from __future__ import annotations

import re
from pathlib import PurePath

MAX_REMEMBERED = 100
_written: dict[str, str] = {}  # absolute path -> as written; the latest last


def remember(path: str, written: str) -> None:
    """From now on have `as_written` show the absolute `path` as the user wrote it."""
    _written.pop(path, None)
    if path == written:
        return
    _written[path] = written
    if len(_written) > MAX_REMEMBERED:
        del _written[next(iter(_written))]


def remembered() -> dict[str, str]:
    """Absolute paths, each with how the user wrote it."""
    return dict(_written)


def as_written(text: str | PurePath) -> str:
    """A line of text, or a path, in which the user's paths, and what is below them, stand as they were written."""
    text = str(text)
    if not _written:
        return text
    paths = "|".join(re.escape(path) for path in sorted(_written, key=len, reverse=True))
    return re.sub(rf"(?<![\w./~$-])(?:{paths})(?![\w.~$-])", lambda match: _written[match[0]], text)
