"""Words that several messages share."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number of things: "1 iteration", "2 iterations"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
