"""Learning curves of runs and of other programs' CSV files."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmaml.config.loading import read_config, values_with_effect
from mmaml.config.value_types import MAX_NUMBER
from mmaml.errors import ConfigError, UsageError
from mmaml.storage.layout import PROGRESS
from mmaml.storage.params_file import read_params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from mmaml.figures.page import page, style_of

_RETURNS = r"Step_(\d{1,6})-AverageReturn"  # columns of a log
# Keys that say nothing of what a run learns, beside those that may change when it continues.
_NOT_AN_EXPERIMENT = ("seed", "step_size", "exploration")
MARKS_OF_A_CURVE = 8
MAX_NAMED = 3  # keys that differ and are all in a label

# What the lines of a curve show: by adaptation steps, and by the episodes of a trial.
LAST_STAGE = ("after adaptation", "last episode")
FIRST_STAGE = ("before adaptation", "first episode")
HELD_OUT = ("after, held-out tasks", "last, held-out tasks")


@dataclass(frozen=True)
class Curve:
    """Returns over training: of one run, of one CSV file, or of runs that differ only in their seed.

    env_steps: [I]. returns: [S, I, K+1] for S seeds, I iterations, K adaptation steps, or K later episodes of a
    trial if by_episode. held_out: the same on held-out tasks, NaN where not measured, or None. unread: number of rows
    that could not be read. first: the iteration of the first row, not 0 where a log goes on from another.
    """

    label: str
    env_steps: np.ndarray
    returns: np.ndarray
    held_out: np.ndarray | None = None
    external: bool = False
    unread: int = 0
    by_episode: bool = False
    first: int = 0


def read_table(path: Path, argument: str = "RUN") -> tuple[dict[str, np.ndarray], int]:
    """The columns of a CSV file of numbers, NaN where a number is not finite, and how many rows could not be read.

    A row that was cut short, contains text, or has no iteration or step count is left out and counted. argument: the
    one that gave the file. Raises UsageError if the file is missing or has no row of numbers.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "not a regular file")  # reading a pipe or a device may never end
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            names, *lines = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(argument, f"'{path}' cannot be read as a CSV file ({reason})", "check the path") from error
    column = {name: index for index, name in enumerate(names)}
    progress = column.get("n_timesteps", column.get("Itr"))
    whole = [row for line in lines if (row := _numbers(line)) is not None and len(row) == len(names)]
    rows = [row for row in whole if progress is None or not math.isnan(row[progress])]
    if not rows:
        expected = f"a header and rows of numbers in '{path}'"
        raise UsageError(argument, expected=expected, got="none", remedy="check the file")
    return dict(zip(names, np.array(rows).T, strict=True)), len(lines) - len(rows)


def _numbers(cells: list[str]) -> list[float] | None:
    """The numbers of a row, NaN for those too large to be drawn; None if a cell contains text."""
    try:
        values = [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return None
    return [value if abs(value) <= MAX_NUMBER else math.nan for value in values]


def _steps(table: Mapping[str, np.ndarray], pattern: str) -> np.ndarray | None:
    """The columns of the returns after 0 … K adaptation steps, [I, K+1], or None if there are none."""
    found = {int(match[1]): column for name, column in table.items() if (match := re.fullmatch(pattern, name))}
    return np.stack([found[step] for step in sorted(found)], axis=1) if found else None


def read_run(run: Path, label: str = "") -> tuple[dict[str, Any], Curve]:
    """A run's configuration, and its curve with one seed (S = 1).

    Raises UsageError if `run` is not the directory of a run with finished iterations.
    """
    config = read_params(run, "RUN")
    table, unread = read_table(run / PROGRESS)
    returns = _steps(table, _RETURNS)
    if measures_no_returns(table):
        raise UsageError("RUN", f"no iteration of '{run}' has returns", "read its messages.log, and leave it out")
    if returns is None or "n_timesteps" not in table:
        expected = f"columns n_timesteps and Step_k-AverageReturn in '{run / PROGRESS}'"
        raise UsageError("RUN", expected=expected, got=", ".join(table), remedy="check the path")
    held_out = _steps(table, r"Eval-Step_(\d{1,6})-AverageReturn")
    held_out = held_out[None] if held_out is not None and held_out.shape == returns.shape else None
    by_episode = config.get("episodes_per_trial", 1) != 1
    first = int(np.nan_to_num(table["Itr"][0])) if "Itr" in table else 0
    curve = Curve(
        label, table["n_timesteps"], returns[None], held_out, unread=unread, by_episode=by_episode, first=first
    )
    return config, curve


def measures_no_returns(columns: Collection[str]) -> bool:
    """Whether a log is that of a run whose iterations so far all met NaN, infinity, or environments that fail."""
    return {"Itr", "n_timesteps"}.issubset(columns) and not any(re.fullmatch(_RETURNS, name) for name in columns)


def read_external(label: str, path: Path, env_steps_per_iteration: float | None) -> Curve:
    """A curve from another program's CSV file.

    Columns: n_timesteps, or Itr together with `env_steps_per_iteration`; Step_k-AverageReturn, or Step_k. Iterations
    may be counted from 0 or from 1. Raises UsageError.
    """
    table, unread = read_table(path, "--overlay")
    returns = _steps(table, _RETURNS)
    if returns is None:
        returns = _steps(table, r"Step_(\d{1,6})")
    if returns is None:
        expected = f"columns Step_k-AverageReturn or Step_k in '{path}'"
        raise UsageError("--overlay", expected=expected, got=", ".join(table), remedy="rename its columns")
    if "n_timesteps" in table:
        env_steps = table["n_timesteps"]
    elif "Itr" not in table:
        expected = f"a column n_timesteps or Itr in '{path}'"
        raise UsageError("--overlay", expected=expected, got=", ".join(table), remedy="rename its columns")
    elif env_steps_per_iteration is None:
        problem = f"'{path}' has iterations but no environment steps"
        raise UsageError("--overlay", problem, "give --env_steps_per_iteration N")
    else:
        env_steps = (table["Itr"] + (table["Itr"][0] == 0)) * env_steps_per_iteration
    return Curve(label, env_steps, returns[None], external=True, unread=unread)


def group_runs(runs: Sequence[tuple[dict[str, Any], Curve]]) -> list[Curve]:
    """Merge runs that differ only in their seed into one curve. Without a label, it is named by how it differs.

    Raises UsageError for seeds whose logs have no environment steps in common.
    """
    groups = experiments_of(runs)
    experiments = [_experiment(runs[members[0]][0]) for members in groups]
    curves = [[runs[index][1] for index in members] for members in groups]
    given = [next((curve.label for curve in members if curve.label), "") for members in curves]
    return [
        _merge(label or description, members)
        for label, description, members in zip(given, _labels(experiments), curves, strict=True)
    ]


def experiments_of(runs: Sequence[tuple[dict[str, Any], Curve]]) -> list[list[int]]:
    """The indices of runs that differ only in their seed, group by group, as `group_runs` merges them.

    Runs with different labels are never merged. One without a label joins the first of its kind.
    """
    kinds = [(repr(_experiment(values)), curve.returns.shape[2]) for values, curve in runs]
    first: dict[tuple[str, int], str] = {}
    for kind, (_, curve) in zip(kinds, runs, strict=True):
        if curve.label:
            first.setdefault(kind, curve.label)
    groups: dict[tuple[tuple[str, int], str], list[int]] = {}
    for index, (kind, (_, curve)) in enumerate(zip(kinds, runs, strict=True)):
        groups.setdefault((kind, curve.label or first.get(kind, "")), []).append(index)
    return list(groups.values())


def without_repeats(runs: Sequence[tuple[dict[str, Any], Curve]]) -> tuple[list[int], list[tuple[int, int]]]:
    """The indices of one run of each seed of an experiment, that with the most iterations, experiment by experiment.

    Of equally many it is the one that ends later: the continuation, where the log of a run and that of its continuation
    are both given.
    And those of the others, each with that of the run whose seed it repeats: the same numbers would count twice.
    """
    kept: list[int] = []
    repeats: list[tuple[int, int]] = []
    for members in experiments_of(runs):
        by_seed: dict[str, list[int]] = {}
        for index in members:
            by_seed.setdefault(repr(runs[index][0].get("seed", (index,))), []).append(index)
        for same in by_seed.values():
            longest = max(same, key=lambda index: (len(runs[index][1].env_steps), runs[index][1].env_steps[-1]))
            kept.append(longest)
            repeats += [(index, longest) for index in same if index != longest]
    return kept, repeats


def _experiment(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a run learns by: each key that has to do with it and has an effect, with its default if it was left out."""
    try:
        config = read_config(values)
    except ConfigError:  # of a user's algorithm that is not here, say
        return {name: value for name, value in sorted(values.items()) if name not in _NOT_AN_EXPERIMENT}
    keys = config.keys()
    left_out = {*_NOT_AN_EXPERIMENT, *(name for name, key in keys.items() if key.resumable)}
    return {name: value for name, value in sorted(values_with_effect(config).items()) if name not in left_out}


def _labels(experiments: Sequence[dict[str, Any]]) -> list[str]:
    """The algorithm, then each key whose value is not the same in all that have it; of many, as few as tell apart."""
    keys = sorted({key for experiment in experiments for key in experiment} - {"algorithm"})
    differing = [key for key in keys if len({repr(one[key]) for one in experiments if key in one}) > 1]
    if len(differing) > MAX_NAMED:
        differing = _telling_apart(experiments, differing)
    labels = []
    for experiment in experiments:
        values = (f"{key} {_short(experiment[key])}" for key in differing if key in experiment)
        labels.append(", ".join([str(experiment.get("algorithm", "run")), *values]))
    return labels


def _telling_apart(experiments: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """A few of the keys by which, with the algorithm, experiments differ: each the one that divides them most."""

    def kinds(names: Sequence[str]) -> int:
        return len({repr([one.get(name) for name in ("algorithm", *names)]) for one in experiments})

    chosen: list[str] = []
    while kinds(chosen) < kinds(keys):
        chosen.append(max(keys, key=lambda key: kinds([*chosen, key])))
    return sorted(chosen)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _merge(label: str, curves: Sequence[Curve]) -> Curve:
    """The curves of several seeds on one axis of environment steps, up to the end of the shortest run.

    Where logs go on from others, from the start of the one of them that begins last: nothing is known of it before.
    """
    axis = min((curve.env_steps for curve in curves), key=lambda env_steps: env_steps[-1])
    goes_on = [curve.env_steps[0] for curve in curves if curve.first]
    if goes_on:
        end, axis = axis[-1], axis[axis >= max(goes_on)]
        if not len(axis):
            begins, ends = f"{max(goes_on):,.0f}", f"{end:,.0f}"
            problem = f"of seeds of one experiment, a log begins after {begins} env steps, another ends at {ends}"
            raise UsageError("RUN", problem, "give one of them a label of its own, as LABEL=RUN, or leave it out")
    returns = np.stack([_at(axis, curve.env_steps, curve.returns[0]) for curve in curves])
    held_out = None
    if not goes_on and all(curve.held_out is not None and len(curve.env_steps) >= len(axis) for curve in curves):
        held_out = np.stack([curve.held_out[0, : len(axis)] for curve in curves])  # type: ignore[index]
    unread = sum(curve.unread for curve in curves)
    return Curve(label, axis, returns, held_out, unread=unread, by_episode=curves[0].by_episode)


def _at(axis: np.ndarray, env_steps: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(axis, env_steps, column) for column in returns.T], axis=1)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average over `window` iterations, fewer at the ends, ignoring NaN; [S, I] -> [S, I]."""
    kernel = np.ones(min(window, values.shape[1]))
    known = ~np.isnan(values)
    sums = np.stack([np.convolve(row, kernel, mode="same") for row in np.where(known, values, 0.0)])
    counts = np.stack([np.convolve(row, kernel, mode="same") for row in known])
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def plot_curves(
    curves: Sequence[Curve],
    path: Path,
    *,
    title: str = "",
    smooth: int = 1,
    references: Sequence[tuple[str, float]] = (),
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw the returns before (dashed) and after adaptation (solid) over environment steps, as PNG or SVG.

    Curves of several seeds show the mean and a band of one standard deviation over seeds. smooth: window of a moving
    average, in iterations. references: labelled horizontal lines. limits: the range of returns shown.
    """
    from matplotlib.patheffects import withStroke

    unit, name = _unit(max(curve.env_steps[-1] for curve in curves))
    with page(path, 9.0, 5.2) as (_, axes):
        for index, curve in enumerate(curves):
            _draw_curve(axes, curve, index, unit, smooth)
        for label, value in references:
            axes.axhline(value, color="#666666", linewidth=1.0, linestyle=(0, (1, 2)))
            axes.annotate(
                label, (0.995, value), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                annotation_clip=True, ha="right", fontsize=9, color="#666666",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
        axes.set(xlabel=f"environment steps{name}", ylabel="return per episode", xlim=(0, None), ylim=limits)
        axes.set_title(title, loc="left", fontsize=12)
        _legend(axes, curves)


def _draw_curve(axes: Axes, curve: Curve, index: int, unit: float, smooth: int) -> None:
    """Draw one of the curves. index: by which it has its style."""
    colour, mark, _ = style_of(index)
    after = _smooth(curve.returns[:, :, -1], smooth)
    before = _smooth(curve.returns[:, :, 0], smooth)
    x = curve.env_steps / unit
    width = 1.3 if curve.external else 2.0
    marker = "." if len(x) == 1 else ""  # a line through one point cannot be seen
    dashes = (0, (4, 2))
    axes.plot(x, before.mean(0), color=colour, linewidth=0.7 * width, linestyle=dashes, marker=marker, alpha=0.75)
    apart = max(1, len(x) // MARKS_OF_A_CURVE)
    axes.plot(x, after.mean(0), color=colour, linewidth=width, marker=marker or mark, markersize=5, markevery=apart)
    if len(after) > 1:
        for values, alpha in ((before, 0.10), (after, 0.20)):
            mean, deviation = values.mean(0), values.std(0, ddof=1)
            axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=alpha, linewidth=0)
    if curve.held_out is not None:
        measured = ~np.isnan(curve.held_out[:, :, -1]).any(0)
        points = curve.held_out[:, measured, -1].mean(0)
        axes.plot(x[measured], points, "o", markersize=4.5, color=colour, markeredgecolor="white", zorder=3)


def _legend(axes: Axes, curves: Sequence[Curve]) -> None:
    """Curves in the order of their final returns, the highest first; then what the line styles mean, where two are."""
    from matplotlib.lines import Line2D

    final = [_last_return(curve) for curve in curves]
    entries = []
    for index in np.argsort(final)[::-1]:
        curve = curves[index]
        seeds = f" ({len(curve.returns)} seeds)" if len(curve.returns) > 1 else ""
        colour, mark, _ = style_of(int(index))
        entries.append(Line2D([], [], color=colour, linewidth=2.5, marker=mark, label=curve.label + seeds))
    grey = "#777777"
    entries.append(Line2D([], [], linewidth=0, label=" "))
    kinds = sorted({curve.by_episode for curve in curves})
    last, first, held_out = (
        ", or ".join(words[by_episode] for by_episode in kinds) for words in (LAST_STAGE, FIRST_STAGE, HELD_OUT)
    )
    if any(curve.returns.shape[2] > 1 for curve in curves):
        entries.append(Line2D([], [], color=grey, linewidth=2.0, label=last))
        entries.append(Line2D([], [], color=grey, linewidth=1.4, linestyle=(0, (4, 2)), label=first))
    if any(curve.held_out is not None for curve in curves):
        entries.append(Line2D([], [], color=grey, marker="o", linewidth=0, label=held_out))
    axes.legend(handles=entries, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=1.8, fontsize=10)


def _last_return(curve: Curve) -> float:
    """The mean of the returns that were measured in the last iterations."""
    values = curve.returns[:, -10:, -1]
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else -math.inf


def _unit(largest: float) -> tuple[float, str]:
    """The unit in which environment steps are shown, and its name for the axis."""
    for size, name in ((1e6, " (millions)"), (1e3, " (thousands)")):
        if largest >= 2 * size:
            return size, name
    return 1.0, ""
