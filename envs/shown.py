"""How values of a user's code are shown in a line."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_SHOWN = 80  # characters of a user's value, or of its error in a finding


def shown(value: Any) -> str:
    """A user's value in a few words: an array by its dtype and shape, the rest by its repr."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"a {value.dtype} array of shape {value.shape}"
    try:
        return clipped(" ".join(repr(value).split()))
    except Exception:  # a user's __repr__ may fail in any way
        return f"a {type(value).__name__}"


def clipped(text: str) -> str:
    """The text, its end left out where it is long."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
