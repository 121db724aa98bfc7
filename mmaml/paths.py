"""Paths as users write them, made absolute before code of theirs can change the working directory."""

from __future__ import annotations

import os
import pwd
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
    found = str(PurePath(path if os.path.isabs(path) else os.path.join(working_directory(), path)))
    written_paths.remember(found, str(PurePath(path if written is None else written)))
    return found


def working_directory() -> str:
    """The absolute path of the working directory. Raises UsageError if it has been removed."""
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError("working directory", "has been removed", "change to another directory") from error


def expanded(path: str, argument: str) -> str:
    """A path with ~, ~user, $NAME and ${NAME} replaced. Raises UsageError as `located` does."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2] or ""
        if name == "HOME" and not os.environ.get(name):
            return _home("~", path, argument)
        if not os.environ.get(name):  # an empty one would lead to the root
            problem = f"the variable {name} in '{path}' is not set"
            raise UsageError(argument, problem, "set it, or write the path without it")
        return os.environ[name]

    name, slash, rest = path.partition("/")
    if name.startswith("~"):
        name = _home(name, path, argument).rstrip("/") or ("" if slash else "/")
    return _VARIABLE.sub(value, f"{name}{slash}{rest}")


def _home(name: str, path: str, argument: str) -> str:
    """The home that "~" or "~user" stands for at the start of `path`; that of the system where HOME is not set."""
    if name == "~" and os.environ.get("HOME"):
        return os.environ["HOME"]
    try:
        return (pwd.getpwnam(name[1:]) if name[1:] else pwd.getpwuid(os.getuid())).pw_dir
    except KeyError as error:
        who = f"user '{name[1:]}'" if name[1:] else "home directory, for HOME is not set and the user has no name"
        raise UsageError(argument, f"'{path}': there is no {who}", "write the path without it") from error
