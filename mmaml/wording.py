"""Words that several messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """A number of things: "1 iteration", "2 iterations"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def did_you_mean(text: str, names: Iterable[str], otherwise: str, likeness: float = 0.6) -> str:
    """A remedy for a name that there is none of: the one of `names` that is most like it, else `otherwise`.

    likeness: how like it that one has to be, from 0 to 1, as `difflib.get_close_matches` measures it.
    """
    near = difflib.get_close_matches(text, list(names), n=1, cutoff=likeness)
    return f"did you mean '{near[0]}'?" if near else otherwise
