"""Command lines whose errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

from mmaml.cli import streams
from mmaml.errors import UsageError, to_stderr
from mmaml.extras import not_installed
from mmaml.launcher.protocol import is_first_rank
from mmaml.paths import working_directory
from mmaml.process_settings import end_without_collection, prepare_process

MANY = -1  # words that follow a flag: all up to the next one


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError where argparse prints its usage and exits; texts keep their lines."""

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, formatter_class=formatter, exit_on_error=False, **options)

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().parse_known_args(*arguments, **options)
        except argparse.ArgumentError as error:
            self.error(error.message, error.argument_name)

    def flags(self) -> dict[str, int]:
        """All flags, and how many words follow each, `MANY` for all up to the next flag."""
        words: dict[int | str | None, int] = {0: 0, None: 1}
        return {name: words.get(action.nargs, MANY) for action in self._actions for name in action.option_strings}

    def error(self, message: str, argument: str | None = None) -> NoReturn:
        raise UsageError(argument or "command line", message, "--help lists the arguments")


def one_line_errors(main: Callable[..., int]) -> Callable[..., int]:
    """`main` with UsageError turned into one line on stderr, from rank 0 only, and exit code 2.

    The same for an optional package that is not installed. An interrupt gives one line and exit code 130. If the reader
    of the output has gone (a pipe), the program ends without a word, as others do.
    """

    @wraps(main)
    def guarded(*arguments: object, **options: object) -> int:
        prepare_process()
        end_without_collection()
        streams.prepare()
        try:
            look_in_current_directory()
            code = main(*arguments, **options)
        except OSError as error:
            if not streams.is_of_stdout(error):
                raise
            code = streams.refused(error)
        except UsageError as error:
            code = _refused(error)
        except ImportError as error:
            if (missing := not_installed(error)) is None:
                raise
            code = _refused(missing)
        except KeyboardInterrupt:
            if is_first_rank():
                to_stderr("stopped by SIGINT")
            code = 128 + signal.SIGINT
        finally:
            unread = streams.finish()
        return code or unread

    return guarded


def _refused(error: UsageError) -> int:
    if is_first_rank():
        to_stderr(f"error: {error}")
    return 2


def look_in_current_directory() -> None:
    """Find a user's "package.module:ClassName" in the current directory too, as under `python -m`.

    By its path, so that it is still found once code of the user's has changed the directory. Raises UsageError if the
    directory has been removed.
    """
    here = working_directory()
    if not sys.flags.safe_path:
        sys.path[:] = [here, *(path for path in sys.path if path not in ("", here))]


def restart_words() -> list[str]:
    """The words that start this program again, between the interpreter and the program's arguments."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", "mmaml"] if spec is not None and spec.name == "mmaml.__main__" else [sys.argv[0]]
