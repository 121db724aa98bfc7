"""Command lines whose errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn

# Where launchers tell a process its rank: of Open MPI 5, of its predecessors, of MPICH, of Slurm.
_RANK_VARIABLES = ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


class UsageError(ValueError):
    """What the user asked for cannot be done. Its text is one line: what, expected, given, remedy."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the arguments)")


def one_line_errors(main: Callable[..., int]) -> Callable[..., int]:
    """`main` with UsageError turned into one line on stderr, from one rank only, and exit code 2."""

    @wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except UsageError as error:
            if all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES):
                print(f"error: {error}", file=sys.stderr)
            return 2

    return guarded


def labelled(name: str, text: str) -> tuple[str, str]:
    """LABEL=VALUE -> (label, value); raises UsageError naming the argument."""
    label, separator, value = text.partition("=")
    if not (label and separator and value):
        raise UsageError(f"{name}: expected LABEL=VALUE, got '{text}'")
    return label, value
