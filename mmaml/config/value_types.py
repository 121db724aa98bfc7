"""What values the keys of the configuration take: the check of each kind, and its words."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmaml.errors import UNPRINTABLE


@dataclass(frozen=True)
class Kind:
    """What values a key takes.

    expected: in words. accepts: the check. convert: from JSON's value to ours. is_path: whether a text is a path.
    """

    expected: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    is_path: bool = False


MAX_NUMBER = 1e30  # far beyond what trains, and within single precision even when divided by a small number
MAX_INTEGER = 2**63 - 1
MAX_NESTED = 50  # objects and lists within each other
MAX_SHOWN = 80  # characters of a value in an error


def _is_int(value: Any) -> bool:
    """Whether a value is a whole number, which JSON may write as 2.0 or 1e3."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return abs(value) <= MAX_NUMBER
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_text(value: Any) -> bool:
    """Whether a value is one line of text without control characters."""
    return isinstance(value, str) and not any(unicodedata.category(character) in UNPRINTABLE for character in value)


def _is_json(value: Any, depth: int = 0) -> bool:
    if isinstance(value, dict | list | tuple):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        keys_fit = not isinstance(value, dict) or all(isinstance(key, str) for key in value)
        return depth < MAX_NESTED and keys_fit and all(_is_json(item, depth + 1) for item in inner)
    return value is None or isinstance(value, bool | str) or _is_number(value)


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON would hold it: with Python's own numbers, texts and lists in place of others that equal them.

    Others are NumPy's and torch's scalars, enumerations, tuples, ranges, and the mappings and sequences of other
    programs. Arrays stay as they are, since nobody says whether their owner wants a list instead.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration's own gives its name
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if depth > MAX_NESTED or isinstance(value, bytes | bytearray | memoryview):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(inner, depth + 1) for key, inner in value.items()}
    return [plain(inner, depth + 1) for inner in value] if isinstance(value, Sequence) else value


def integer(least: int, most: int = MAX_INTEGER) -> Kind:
    """A whole number from `least` to `most`."""
    words = f"a whole number ≥ {least}" + (f" and ≤ {most}" if most < MAX_INTEGER else "")
    return Kind(words, lambda v: _is_int(v) and least <= v <= most, int)


def number(low: float = -math.inf, high: float = math.inf, open_low: bool = False, open_high: bool = False) -> Kind:
    """A finite number from `low` (itself excluded with open_low) to `high` (itself excluded with open_high)."""
    words = "a number" + (f" {'>' if open_low else '≥'} {low:g}" if low > -math.inf else "")
    words += f" and {'<' if open_high else '≤'} {high:g}" if high < math.inf else ""
    excluded = {low} if open_low else set()
    excluded |= {high} if open_high else set()
    return Kind(words, lambda v: _is_number(v) and low <= v <= high and v not in excluded, float)


def choice(*options: str) -> Kind:
    """One of some words."""
    return Kind("one of " + ", ".join(f'"{option}"' for option in options), lambda v: v in options)


def optional(kind: Kind) -> Kind:
    """null, or another kind."""
    return Kind(
        f"{kind.expected} or null",
        lambda v: v is None or kind.accepts(v),
        lambda v: None if v is None else kind.convert(v),
        kind.is_path,
    )


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("a non-empty string of printable characters", lambda v: _is_text(v) and bool(v.strip()))
PATH = Kind("a path, as a non-empty string of printable characters", TEXT.accepts, is_path=True)
OBJECT = Kind(
    f"a JSON object of texts, numbers up to {MAX_NUMBER:g}, lists and the like, nested at most {MAX_NESTED} deep",
    lambda v: isinstance(v, dict) and _is_json(v),
)
# Far beyond what trains.
MAX_LAYERS = 100
MAX_STEPS = 10_000
MAX_SECONDS = 1e9
MAX_THREADS = 1024
SIZES = Kind(
    f"a list of 1 to {MAX_LAYERS} whole numbers ≥ 1",
    lambda v: (
        isinstance(v, list | tuple) and 1 <= len(v) <= MAX_LAYERS and all(_is_int(n) and 1 <= n < 2**31 for n in v)
    ),
    lambda v: tuple(map(int, v)),
)
RATES = Kind(
    "a number > 0, or a non-empty list of numbers > 0",
    lambda v: (
        all(_is_number(rate) and rate > 0 for rate in v) and len(v) > 0
        if isinstance(v, list | tuple)
        else _is_number(v) and v > 0
    ),
    lambda v: tuple(map(float, v)) if isinstance(v, list | tuple) else float(v),
)
SCALE = Kind(
    '"family", a number > 0 or null',
    lambda v: v is None or v == "family" or (_is_number(v) and v > 0),
    lambda v: v if v is None or v == "family" else float(v),
)
THREADS = Kind(
    f'"auto", or {integer(1, MAX_THREADS).expected}',
    lambda v: v == "auto" or integer(1, MAX_THREADS).accepts(v),
    lambda v: v if v == "auto" else int(v),
)
DEVICE = Kind(
    '"auto", "cpu", "cuda" or "cuda:0", "cuda:1", …',
    lambda v: (
        isinstance(v, str) and (v in ("auto", "cpu", "cuda") or re.fullmatch(r"cuda:\d{1,3}", v, re.ASCII) is not None)
    ),
)


def remedy_for(value: Any) -> str:
    """What to do about a value that is a class, or an array or holds some; "" for others."""
    if isinstance(value, type):
        return f'give its name: "{value.__module__}:{value.__qualname__}"'
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
    arrays = any(getattr(one, "ndim", 0) for one in inner)
    return "give lists of numbers, as an array's tolist() returns" if arrays else ""


def shown(value: Any) -> str:
    """A value as errors show it: JSON, cut where it is long."""
    try:
        return clipped(json.dumps(value, default=repr))
    except (ValueError, TypeError, RecursionError):  # what JSON cannot hold, and only a caller in Python can give
        return f"a {type(value).__name__}"


def clipped(text: str) -> str:
    """A text as errors show it, cut where it is long."""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
