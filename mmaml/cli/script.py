"""Command lines whose errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn

from mmaml.cli import streams
from mmaml.config.value_types import LARGEST
from mmaml.errors import UsageError
from mmaml.launcher.protocol import is_first_rank
from mmaml.process_settings import prepare_process


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the arguments)")


def one_line_errors(main: Callable[..., int]) -> Callable[..., int]:
    """`main` with UsageError turned into one line on stderr, from one rank only, and exit code 2.

    So is an interrupt, with 130. Ends quietly when nobody reads its output any more, as programs of a pipe do.
    """

    @wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        prepare_process()
        streams.prepare()
        try:
            _check_working_directory()
            code = main(argv)
        except OSError as error:
            if not streams.is_of_stdout(error):
                raise
            code = streams.refused(error)
        except UsageError as error:
            if is_first_rank():
                print(f"error: {error}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt:
            if is_first_rank():
                print("stopped by SIGINT", file=sys.stderr)
            code = 128 + signal.SIGINT
        finally:
            unread = streams.finish()
        return code or unread

    return guarded


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "working directory: expected one that exists, got one that was removed; change to another"
        ) from error


def add_inner_lr(parser: argparse.ArgumentParser) -> None:
    """The flag --inner_lr of scripts that adapt a trained policy: None, or a list of step sizes."""
    parser.add_argument(
        "--inner_lr",
        type=_rate,
        nargs="+",
        metavar="R",
        help="step size of the first, the second, … inner step, the last of all later (default: as in training); where "
        "step sizes are learned, only the ratios to the first count",
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= LARGEST:
        raise argparse.ArgumentTypeError(f"expected a number > 0 and ≤ {LARGEST:g}, got '{text}'")
    return rate


def labelled(name: str, text: str) -> tuple[str, str]:
    """LABEL=VALUE -> (label, value); raises UsageError naming the argument."""
    label, separator, value = text.partition("=")
    if not (label and separator and value):
        raise UsageError(f"{name}: expected LABEL=VALUE, got '{text}'")
    return label, value
