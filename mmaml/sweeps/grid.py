"""Which runs a sweep consists of: every choice of values from a grid, with every seed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from mmaml.config.value_types import clipped
from mmaml.errors import UsageError

MAX_RUNS = 10_000
_SEEDS = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?")
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


class SweepRun(NamedTuple):
    """One run. name: its directory within the sweep's; words: the keys that it sets, KEY=VALUE."""

    name: str
    words: tuple[str, ...]


def sweep_runs(seeds: Sequence[int], grid: Mapping[str, Sequence[str]]) -> list[SweepRun]:
    """All runs, those of one choice of values one after another. Raises UsageError where two would be the same.

    grid: the values of each key, as text. Runs of one choice differ only in their seeds: they are one curve of a plot.
    """
    count = len(seeds)
    for values in grid.values():
        count *= len(values)
    if count > MAX_RUNS:
        raise UsageError("--grid", expected=f"at most {MAX_RUNS:,} runs", got=f"{count:,}", remedy="give fewer values")
    runs = []
    for choice in product(*grid.values()):
        folder = "_".join(f"{key}-{_as_file_name(value)}" for key, value in zip(grid, choice, strict=True))
        words = tuple(f"{key}={value}" for key, value in zip(grid, choice, strict=True))
        runs += [
            SweepRun(f"{folder}/seed_{seed}" if folder else f"seed_{seed}", (*words, f"seed={seed}")) for seed in seeds
        ]
    name, times = Counter(run.name for run in runs).most_common(1)[0]
    if times > 1:
        raise UsageError("--grid", f"gives the run '{name}' {times} times", "give each value once")
    return runs


def read_seeds(text: str) -> list[int]:
    """Seeds written as "1-5", "1,2,7", or both. Raises UsageError."""
    seeds: list[int] = []
    for part in text.split(","):
        found = _SEEDS.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + MAX_RUNS:
            raise UsageError("--seeds", expected="whole numbers, upwards, as 1-5 or 1,2,7", got=f"'{clipped(text)}'")
        seeds += range(first, last + 1)
    if len({*seeds}) < len(seeds):
        raise UsageError("--seeds", f"'{text}' has a seed twice", "give each seed once")
    return seeds


def read_grid(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key, of words KEY=VALUE,VALUE,…. Raises UsageError."""
    grid: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        values = [value.strip() for value in split_at_commas(text)]
        if not (key and equals and all(values)):
            raise UsageError("--grid", expected="KEY=VALUE,VALUE …", got=f"'{word}'")
        if key in grid or key == "seed":
            remedy = "give the seeds by --seeds" if key == "seed" else "give all of its values together"
            raise UsageError(
                "--grid", f"'{key}' is given twice" if key in grid else "'seed' has a flag of its own", remedy
            )
        grid[key] = values
    return grid


def split_at_commas(text: str) -> list[str]:
    """The parts of a text between commas that are in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character == "," and depth == 0:
            parts.append("")
            continue
        depth += (not quote and character in _OPENING) - (not quote and character in _CLOSING)
        parts[-1] += character
    return parts


def _as_file_name(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", value).strip("_") or "_"
