"""What a benchmark is asked for on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def parser(doc: str | None) -> argparse.ArgumentParser:
    """One whose help is the docstring of the benchmark's module."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def chosen(doc: str | None, what: str, names: Iterable[str]) -> list[str]:
    """The names that are given as arguments, all of them without one; another name ends the benchmark with exit code 2.

    what: what they are names of, as the help calls them.
    """
    known = [*names]
    own = parser(doc)
    own.add_argument(what, nargs="*", metavar=what, help="which ones to measure; without any, all: " + ", ".join(known))
    given = getattr(own.parse_args(), what)
    for name in given:
        if name not in known:
            own.error(f"{what}: expected {', '.join(known)}, got {name!r}")
    return given or known
