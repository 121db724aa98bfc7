"""Figures of point-mass trajectories before and after each adaptation step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.lines import Line2D

from mmaml.figures.page import INK, legend_below, page, return_text, stage_name


@dataclass(frozen=True)
class Trajectories:
    """Rollouts of M tasks, one per mode, after 0 … K adaptation steps.

    positions: before each step, [M, K+1, N, T, 2]. connected: whether a position and the next belong to the same
    episode, bool [M, K+1, N, T-1]. goals: [M, 2]. returns: [M, K+1]. names: of the tasks. gaps: centres of the gaps in
    W circular walls around the origin, which are open within a distance of 1, [M, W, 2]; or None.
    by_episode: the episodes of a trial are shown, not numbers of adaptation steps.
    """

    positions: np.ndarray
    connected: np.ndarray
    goals: np.ndarray
    returns: np.ndarray
    names: Sequence[str]
    gaps: np.ndarray | None = None
    by_episode: bool = False

    @property
    def reach(self) -> float:
        """Half the side of a square around the origin that contains all goals and starts, with a margin."""
        return 1.45 * float(max(np.abs(self.goals).max(), np.abs(self.positions[..., 0, :]).max()))


def plot_trajectories(trajectories: Trajectories, path: Path, *, title: str = "") -> None:
    """Draw a PNG with a column for each task and a row for each number of adaptation steps.

    Lines darken with time; a star marks the goal of the task, faint ones the goals of other tasks.
    """
    tasks, collections = trajectories.returns.shape
    reach = trajectories.reach
    with page(path, 2.3 * tasks + 0.6, 2.3 * collections + 0.5, collections, tasks) as (figure, panels):
        for (collection, task), axes in np.ndenumerate(panels):
            stars = _draw_paths(axes, trajectories, task, collection)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(visible=True, color="#CCCCCC")
            if collection == 0:
                axes.set_title(trajectories.names[task], fontsize=11)
            if task == 0:
                axes.set_ylabel(stage_name(collection, collections, trajectories.by_episode), fontsize=11)
        figure.subplots_adjust(wspace=0.06, hspace=0.06)
        legend_below(figure, stars, 0.05)
        if title:
            panels[0, 0].annotate(
                title,
                (0, 1),
                (0, 24),
                xycoords="axes fraction",
                textcoords="offset points",
                fontsize=12,
                color=INK,
            )


def _draw_paths(axes: Axes, trajectories: Trajectories, task: int, collection: int) -> list[Line2D]:
    """Draw the rollouts of a task; the stars, with what they mean as labels."""
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
    own: dict[str, Any] = {"color": "#D55E00", "markeredgecolor": "white", "zorder": 4, "label": "goal"}
    stars = axes.plot(*trajectories.goals[task], "*", markersize=13, **own)
    if len(others):
        pale: dict[str, Any] = {
            "color": "#D5D5D5",
            "markeredgewidth": 0,
            "zorder": 0,
            "label": "goals of the other tasks",
        }
        stars += axes.plot(*others.T, "*", markersize=9, **pale)
    value = return_text(trajectories.returns[task, collection])
    white = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}
    axes.text(0.96, 0.04, value, transform=axes.transAxes, ha="right", fontsize=9, color=INK, bbox=white, zorder=5)
    return stars


def wall(gap: np.ndarray) -> np.ndarray:
    """Points of a circle around the origin through a gap [2], NaN where it is open: [361, 2]."""
    angle = np.linspace(0, 2 * np.pi, 361)
    circle = np.hypot(*gap) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    closed = np.hypot(*(circle - gap).T) > 1
    return np.where(closed[:, None], circle, np.nan)


def time_colours() -> Colormap:
    """From light blue at the start of an episode to dark blue at its end."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("time", ["#BFE0F5", "#3E9BD6", "#0B3C6B"])
