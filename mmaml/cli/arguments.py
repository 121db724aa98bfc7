"""Checks of command-line arguments, made before any work is done."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import suppress

from mmaml.config.value_types import TEXT, clipped
from mmaml.errors import UsageError

MAX_LETTERS = 200  # on a line of a figure


def check_integers(arguments: argparse.Namespace, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Raise UsageError for an argument that is given and out of its range: name -> smallest and largest value."""
    for name, (smallest, largest) in ranges.items():
        value = getattr(arguments, name)
        if value is not None and not smallest <= value <= largest:
            limit = f"≥ {smallest}" if value < smallest else f"≤ {largest}"
            raise UsageError(f"--{name}", expected=f"a whole number {limit}", got=str(value))


def whole_number(text: str) -> int:
    """The value of a flag of argparse's, which may be written as 2.0 or 1e3 as well."""
    for convert in (int, float):
        with suppress(ValueError):
            value = convert(text)
            if value % 1 == 0:
                return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number, got '{clipped(text)}'")


def check_text(name: str, text: str) -> None:
    """Raise UsageError for a text that cannot be written on a figure."""
    if not TEXT.accepts(text) or len(text) > MAX_LETTERS:
        got = repr(text) if len(text) <= MAX_LETTERS else f"{len(text)} characters"
        raise UsageError(name, expected=f"{TEXT.expected}, at most {MAX_LETTERS}", got=got)
