"""Learning curves of runs and of other programs' CSV files, and point-mass trajectories."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmaml.checkpoint import atomic_file
from mmaml.keys import FIELDS
from mmaml.kinds import LARGEST
from mmaml.logging import PROGRESS, read_params
from mmaml.usage import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart also by the colour-blind.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#8C6D31", "#6A3D9A", "#B5BD00", "#9B2335", "#7F8FA9"),
)
_INK = "#333333"
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in a label is one
}
# Keys that say where a run is kept, how it is watched or how long it lasts, not what it learns.
_NOT_AN_EXPERIMENT = {name for name, field in FIELDS.items() if field.metadata["resumable"]} | {
    *("seed", "device", "meta_gradient", "step_size", "exploration")
}


@dataclass(frozen=True)
class Curve:
    """Returns over training: of one run, of one CSV file, or of runs that differ only in their seed.

    `env_steps` [I]; `returns` [S, I, K+1], S seeds, I iterations, K adaptation steps; `held_out` the same
    on evaluation tasks, NaN where not measured, or None; `unread` rows of the file that could not be read.
    """

    label: str
    env_steps: np.ndarray
    returns: np.ndarray
    held_out: np.ndarray | None = None
    external: bool = False
    unread: int = 0


def read_table(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """The columns of a CSV file of numbers, NaN for what is no finite one, and how many rows could not be read.

    A row that was cut short, holds text or does not say how far training was has no place on a curve: it is left out
    and counted. Raises UsageError if the file is missing or has no row of numbers.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "not a regular file")  # a pipe or a device may never end
        with open(path, newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
            names, *lines = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"'{path}': expected a CSV file with a header, got an unreadable one ({reason})") from error
    column = {name: index for index, name in enumerate(names)}
    place = column.get("n_timesteps", column.get("Itr"))
    whole = [row for line in lines if (row := _numbers(line)) is not None and len(row) == len(names)]
    rows = [row for row in whole if place is None or not math.isnan(row[place])]
    if not rows:
        raise UsageError(f"'{path}': expected a CSV file with a header and rows of numbers, got none")
    return dict(zip(names, np.array(rows).T, strict=True)), len(lines) - len(rows)


def _numbers(cells: list[str]) -> list[float] | None:
    """A row, NaN for what is too large to be drawn, or None if it holds text."""
    try:
        values = [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return None
    return [value if abs(value) <= LARGEST else math.nan for value in values]


def _steps(table: Mapping[str, np.ndarray], pattern: str) -> np.ndarray | None:
    """The columns of the returns after 0 … K adaptation steps, [I, K+1], or None if there are none."""
    found = {int(match[1]): column for name, column in table.items() if (match := re.fullmatch(pattern, name))}
    return np.stack([found[step] for step in sorted(found)], axis=1) if found else None


def read_run(run: Path, label: str = "") -> tuple[dict[str, Any], Curve]:
    """A run's configuration and its curve (one seed, S = 1).

    Raises UsageError if `run` is not the directory of a run with finished iterations.
    """
    config = read_params(run, "RUN")
    table, unread = read_table(run / PROGRESS)
    returns = _steps(table, r"Step_(\d{1,6})-AverageReturn")
    if returns is None or "n_timesteps" not in table:
        raise UsageError(
            f"'{run / PROGRESS}': expected columns n_timesteps and Step_k-AverageReturn, got {list(table)}"
        )
    held_out = _steps(table, r"Eval-Step_(\d{1,6})-AverageReturn")
    held_out = held_out[None] if held_out is not None and held_out.shape == returns.shape else None
    return config, Curve(label, table["n_timesteps"], returns[None], held_out, unread=unread)


def read_external(label: str, path: Path, env_steps_per_iteration: float | None) -> Curve:
    """A curve from another program's CSV file.

    Columns: n_timesteps, or Itr together with `env_steps_per_iteration`; Step_k-AverageReturn, or Step_k.
    Iterations are taken as counted from where the file starts, 0 or 1. Raises UsageError.
    """
    table, unread = read_table(path)
    returns = _steps(table, r"Step_(\d{1,6})-AverageReturn")
    if returns is None:
        returns = _steps(table, r"Step_(\d{1,6})")
    if returns is None:
        raise UsageError(f"'{path}': expected columns Step_k-AverageReturn or Step_k, got {list(table)}")
    if "n_timesteps" in table:
        env_steps = table["n_timesteps"]
    elif "Itr" not in table:
        raise UsageError(f"'{path}': expected a column n_timesteps or Itr, got {list(table)}")
    elif env_steps_per_iteration is None:
        raise UsageError(f"'{path}' counts iterations only: say --env_steps_per_iteration N")
    else:
        env_steps = (table["Itr"] + (table["Itr"][0] == 0)) * env_steps_per_iteration
    return Curve(label, env_steps, returns[None], external=True, unread=unread)


def group_runs(runs: Sequence[tuple[dict[str, Any], Curve]]) -> list[Curve]:
    """Runs that differ only in seed become one curve; without a label, it is named by how it differs."""
    groups: dict[tuple[str, int], list[tuple[dict[str, Any], Curve]]] = {}
    for config, curve in runs:
        identity = {key: value for key, value in sorted(config.items()) if key not in _NOT_AN_EXPERIMENT}
        groups.setdefault((repr(identity), curve.returns.shape[2]), []).append((config, curve))
    configs = [members[0][0] for members in groups.values()]
    curves = [[curve for _, curve in members] for members in groups.values()]
    given = [next((curve.label for curve in members if curve.label), "") for members in curves]
    return [
        _merge(label or description, members)
        for label, description, members in zip(given, _labels(configs), curves, strict=True)
    ]


def _labels(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The algorithm, then each key whose value is not the same in all configurations."""
    keys = sorted({key for config in configs for key in config} - _NOT_AN_EXPERIMENT - {"algorithm"})
    differing = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    labels = []
    for config in configs:
        values = (f"{key} {_short(config.get(key))}" for key in differing)
        labels.append(", ".join([str(config.get("algorithm", "run")), *values]))
    return labels


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _merge(label: str, curves: Sequence[Curve]) -> Curve:
    """Seeds on one axis of env steps, as far as the shortest run goes."""
    axis = min((curve.env_steps for curve in curves), key=lambda env_steps: env_steps[-1])
    returns = np.stack([_at(axis, curve.env_steps, curve.returns[0]) for curve in curves])
    held_out = None
    if all(curve.held_out is not None and len(curve.env_steps) >= len(axis) for curve in curves):
        held_out = np.stack([curve.held_out[0, : len(axis)] for curve in curves])  # type: ignore[index]
    return Curve(label, axis, returns, held_out, unread=sum(curve.unread for curve in curves))


def _at(axis: np.ndarray, env_steps: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(axis, env_steps, column) for column in returns.T], axis=1)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average over `window` iterations, fewer at the ends, without NaN; [S, I] -> [S, I]."""
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
    """Write the returns before (dashed) and after adaptation (solid) over env steps as a PNG.

    Curves of several seeds show their mean and a band of one standard deviation over seeds; `smooth` is a
    moving average in iterations; `references` are labelled horizontal lines; `limits` the range of returns.
    """
    from matplotlib.patheffects import withStroke

    unit, name = _unit(max(curve.env_steps[-1] for curve in curves))
    with _page(path, 9.0, 5.2) as (_, axes):
        for colour, curve in zip(_cycle(len(curves)), curves, strict=True):
            _draw_curve(axes, curve, colour, unit, smooth)
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


def _draw_curve(axes: Axes, curve: Curve, colour: str, unit: float, smooth: int) -> None:
    after = _smooth(curve.returns[:, :, -1], smooth)
    before = _smooth(curve.returns[:, :, 0], smooth)
    x = curve.env_steps / unit
    width = 1.3 if curve.external else 2.0
    axes.plot(x, before.mean(0), color=colour, linewidth=0.7 * width, linestyle=(0, (4, 2)), alpha=0.75)
    axes.plot(x, after.mean(0), color=colour, linewidth=width)
    if len(after) > 1:
        for values, alpha in ((before, 0.10), (after, 0.20)):
            mean, deviation = values.mean(0), values.std(0, ddof=1)
            axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=alpha, linewidth=0)
    if curve.held_out is not None:
        measured = ~np.isnan(curve.held_out[:, :, -1]).any(0)
        points = curve.held_out[:, measured, -1].mean(0)
        axes.plot(x[measured], points, "o", markersize=4.5, color=colour, markeredgecolor="white", zorder=3)


def _legend(axes: Axes, curves: Sequence[Curve]) -> None:
    """Curves from the highest final return to the lowest, as they lie; then what the line styles mean."""
    from matplotlib.lines import Line2D

    final = [_last_return(curve) for curve in curves]
    entries = []
    for index in np.argsort(final)[::-1]:
        curve = curves[index]
        seeds = f" ({len(curve.returns)} seeds)" if len(curve.returns) > 1 else ""
        colour = _cycle(len(curves))[index]
        entries.append(Line2D([], [], color=colour, linewidth=2.5, label=curve.label + seeds))
    grey = "#777777"
    entries.append(Line2D([], [], linewidth=0, label=" "))
    entries.append(Line2D([], [], color=grey, linewidth=2.0, label="after adaptation"))
    entries.append(Line2D([], [], color=grey, linewidth=1.4, linestyle=(0, (4, 2)), label="before adaptation"))
    if any(curve.held_out is not None for curve in curves):
        entries.append(Line2D([], [], color=grey, marker="o", linewidth=0, label="after, held-out tasks"))
    axes.legend(handles=entries, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=1.8, fontsize=10)


def _last_return(curve: Curve) -> float:
    """The mean of what is known of the last iterations."""
    values = curve.returns[:, -10:, -1]
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else -math.inf


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _unit(largest: float) -> tuple[float, str]:
    """In what to count env steps, and how to say it."""
    for size, name in ((1e6, " (millions)"), (1e3, " (thousands)")):
        if largest >= 2 * size:
            return size, name
    return 1.0, ""


@dataclass(frozen=True)
class Trajectories:
    """Rollouts of one task per mode, M tasks, after 0 … K adaptation steps.

    `positions` [M, K+1, N, T, 2], the position before each step; `connected` bool [M, K+1, N, T-1], whether
    a position and the next belong to one episode; `goals` [M, 2]; `returns` [M, K+1]; `names` of the tasks;
    `gaps` [M, W, 2] of circular walls about the origin that are open as far as 1 from the gap, or None.
    """

    positions: np.ndarray
    connected: np.ndarray
    goals: np.ndarray
    returns: np.ndarray
    names: Sequence[str]
    gaps: np.ndarray | None = None

    @property
    def reach(self) -> float:
        """Half the side of a square about the origin in which all goals and starts are well inside."""
        return 1.45 * float(max(np.abs(self.goals).max(), np.abs(self.positions[..., 0, :]).max()))


def plot_trajectories(trajectories: Trajectories, path: Path, *, title: str = "") -> None:
    """Write a PNG with a column for each task and a row for each number of adaptation steps.

    Lines darken with time; a star marks the task's goal, faint ones the other tasks' goals.
    """
    tasks, collections = trajectories.returns.shape
    reach = trajectories.reach
    with _page(path, 2.3 * tasks + 0.6, 2.3 * collections + 0.5, collections, tasks) as (figure, panels):
        for (collection, task), axes in np.ndenumerate(panels):
            _draw_paths(axes, trajectories, task, collection)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(visible=True, color="#CCCCCC")
            if collection == 0:
                axes.set_title(trajectories.names[task], fontsize=11)
            if task == 0:
                plural = "" if collection == 1 else "s"
                label = f"after {collection} step{plural}" if collection else "before adaptation"
                axes.set_ylabel(label, fontsize=11)
        figure.subplots_adjust(wspace=0.06, hspace=0.06)
        if title:
            panels[0, 0].annotate(
                title,
                (0, 1),
                (0, 24),
                xycoords="axes fraction",
                textcoords="offset points",
                fontsize=12,
                color=_INK,
            )


def _draw_paths(axes: Axes, trajectories: Trajectories, task: int, collection: int) -> None:
    from matplotlib.collections import LineCollection

    positions = trajectories.positions[task, collection]
    connected = trajectories.connected[task, collection]
    segments = np.stack([positions[:, :-1], positions[:, 1:]], axis=2)[connected]
    time = np.broadcast_to(np.arange(connected.shape[1]), connected.shape)[connected]
    lines = LineCollection(list(segments), array=time, cmap=time_colours(), linewidths=0.9, alpha=0.8)
    lines.set_clim(0, connected.shape[1])
    axes.add_collection(lines)
    for gap in [] if trajectories.gaps is None else trajectories.gaps[task]:
        axes.plot(*wall(gap).T, color="#777777", linewidth=1.6, zorder=3)
    others = np.delete(trajectories.goals, task, axis=0)
    axes.plot(*others.T, "*", markersize=9, color="#D5D5D5", markeredgewidth=0, zorder=0)
    axes.plot(*trajectories.goals[task], "*", markersize=13, color="#D55E00", markeredgecolor="white", zorder=4)
    value = f"return {trajectories.returns[task, collection]:.0f}".replace("-", "−")
    white = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}
    axes.text(0.96, 0.04, value, transform=axes.transAxes, ha="right", fontsize=9, color=_INK, bbox=white, zorder=5)


def wall(gap: np.ndarray) -> np.ndarray:
    """A circle about the origin through a gap [2], NaN where it is open: [361, 2]."""
    angle = np.linspace(0, 2 * np.pi, 361)
    circle = np.hypot(*gap) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    closed = np.hypot(*(circle - gap).T) > 1
    return np.where(closed[:, None], circle, np.nan)


def time_colours() -> Colormap:
    """From a light blue at an episode's start to a dark one at its end."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("time", ["#BFE0F5", "#3E9BD6", "#0B3C6B"])


@contextmanager
def _page(path: Path, width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in one style, without need of a screen; written to `path` at the end."""
    import matplotlib  # slow, and of no use to a reader of tables

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the box that is drawn for a letter tells it
        figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)
        yield figure, axes if rows * columns > 1 else axes[0, 0]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            figure.savefig(file, format="png", bbox_inches="tight")
        pyplot.close(figure)
