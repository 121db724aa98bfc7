"""Which runs a sweep consists of: every choice of values from a grid, with every seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from mmaml.config.value_types import clipped
from mmaml.errors import UsageError

MAX_RUNS = 10_000
MAX_NAME_BYTES = 255  # of a directory's name
DIGEST_LETTERS = 8
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
        folder = _shortened("_".join(f"{key}-{_as_file_name(value)}" for key, value in zip(grid, choice, strict=True)))
        words = tuple(f"{key}={value}" for key, value in zip(grid, choice, strict=True))
        runs += [
            SweepRun(f"{folder}/seed_{seed}" if folder else f"seed_{seed}", (*words, f"seed={seed}")) for seed in seeds
        ]
    _check_names(runs)
    return runs


def _check_names(runs: Sequence[SweepRun]) -> None:
    """Raise UsageError where two runs would have the same directory."""
    named: dict[str, SweepRun] = {}
    for run in runs:
        other = named.setdefault(run.name, run)
        if other.words == run.words and other is not run:
            raise UsageError("--grid", f"gives the run '{run.name}' twice", "give each value once")
        if other is not run:
            ours, theirs = (" ".join(one.words) for one in (other, run))
            problem = f"'{clipped(ours)}' and '{clipped(theirs)}' would have the same directory, '{run.name}'"
            raise UsageError("--grid", problem, "sweep these values one by one, each with a --dump_path of its own")


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
        _check_is_new(key, grid)
        grid[key] = values
    return grid


def _check_is_new(key: str, grid: Collection[str]) -> None:
    """Raise UsageError for a key that a grid has already, as a whole or in part, and for that of the seeds."""
    if key == "seed":
        raise UsageError("--grid", "'seed' has a flag of its own", "give the seeds by --seeds")
    if key in grid:
        raise UsageError("--grid", f"'{key}' is given twice", "give all of its values together")
    for other in grid:
        if other.startswith(f"{key}.") or key.startswith(f"{other}."):
            raise UsageError(
                "--grid", f"'{min(key, other, key=len)}' is given as a whole and in part", "keep one of them"
            )


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


def _shortened(name: str) -> str:
    """A directory's name, whose end is a digest where it would be longer than a directory's name can be."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_LETTERS]
    return name.encode()[: MAX_NAME_BYTES - DIGEST_LETTERS - 1].decode(errors="ignore") + f"-{digest}"


def _as_file_name(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", value).strip("_") or "_"
