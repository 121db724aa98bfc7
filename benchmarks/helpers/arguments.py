"""What a benchmark is asked for on its command line. What is wrong ends it with one line, and exit code 2."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable
from typing import NoReturn

from mmaml.cli.script import Parser
from mmaml.errors import UsageError, to_stderr


def parsed(parser: Parser) -> Namespace:
    """The arguments that the benchmark was given."""
    try:
        return parser.parse_args()
    except UsageError as error:
        refuse(error)


def refuse(error: UsageError) -> NoReturn:
    """End the benchmark."""
    to_stderr(f"error: {error}")
    sys.exit(2)


def take_none(doc: str | None) -> None:
    """Refuse all arguments but --help. doc: the docstring of the benchmark's module, which is its help."""
    parsed(Parser(description=doc))


def chosen(doc: str | None, what: str, names: Iterable[str]) -> list[str]:
    """The names that are given as arguments, all of them without one. what: what they are names of."""
    known = [*names]
    parser = Parser(description=doc)
    help_ = f"which ones to measure; without any, all: {', '.join(known)}"
    parser.add_argument("names", nargs="*", metavar=what, help=help_)
    given: list[str] = parsed(parser).names
    if unknown := [name for name in given if name not in known]:
        refuse(UsageError(what, expected=", ".join(known), got=", ".join(unknown)))
    return given or known
