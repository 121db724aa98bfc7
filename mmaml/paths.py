"""Paths as users write them, made absolute before code of theirs can change the working directory."""

from __future__ import annotations

import os
import re
from pathlib import PurePath

from mmaml import written_paths
from mmaml.errors import UsageError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^{}]*)\})", re.ASCII)


def located(path: str | os.PathLike[str], argument: str) -> str:
    """The absolute path that a user's `path` stands for: ~, ~user, $NAME and ${NAME} are expanded.

    What is printed goes on showing it as it was written. argument: what an error calls it. Raises UsageError for a
    variable that is not set, or a user that does not exist.
    """
    written = os.fspath(path)
    return absolute(expanded(written, argument), written)


def absolute(path: str, written: str | None = None) -> str:
    """A path from the working directory as an absolute one. written: how it is shown, if not as it is given.

    Raises UsageError if the working directory has been removed.
    """
    if not path.strip() or (written is None and os.path.isabs(path)):
        return path  # none, as its check will say; or done before
    try:
        found = str(PurePath(path if os.path.isabs(path) else os.path.join(os.getcwd(), path)))
    except OSError as error:
        raise UsageError("working directory", "has been removed", "change to another directory") from error
    written_paths.remember(found, str(PurePath(path if written is None else written)))
    return found


def expanded(path: str, argument: str) -> str:
    """A path with ~, ~user, $NAME and ${NAME} replaced. Raises UsageError as `located` does."""
    home = os.path.expanduser(path)
    if path.startswith("~") and home == path:
        name = path.partition("/")[0]
        problem = f"there is no user '{name[1:]}'" if name[1:] else "there is no home directory, since HOME is not set"
        raise UsageError(argument, f"'{path}': {problem}", "write the path without ~")

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2] or ""
        if name == "HOME" and not os.environ.get(name):
            return os.path.expanduser("~")
        if not os.environ.get(name):  # an empty one would lead to the root
            raise UsageError(
                argument, f"the variable {name} in '{path}' is not set", "set it, or write the path without it"
            )
        return os.environ[name]

    return _VARIABLE.sub(value, home)
