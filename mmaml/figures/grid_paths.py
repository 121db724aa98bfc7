"""Figures of walks on boards: where an agent goes in each episode of a trial, or after each adaptation step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from mmaml.envs.discrete import DEATH, ENERGY, GOAL, ICE, TRANSPORTER, GridFamily
from mmaml.figures.page import INK, page, return_text, stage_name
from mmaml.figures.recording import SampledStages
from mmaml.figures.trajectories import time_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of tiles: the colour of the cell, and the letter in it.
TILE_STYLES = {
    GOAL: ("#FBE3D2", ""),
    TRANSPORTER: ("#E3D3EC", "T"),
    DEATH: ("#4A4A4A", "×"),
    ICE: ("#D6EEF8", "ice"),
    ENERGY: ("#CDEBC5", "+"),
}
BELIEF, ALPHA = (0.243, 0.608, 0.839), 0.6  # colour of the most that is expected in a cell
DRIFT = 0.3  # how far a line moves from its first to its last step, so that ways back do not cover ways there


@dataclass(frozen=True)
class GridPaths:
    """The walk of one rollout of each of M tasks at each of K+1 stages of learning it, on boards of S · S cells.

    tiles: of each cell at the start of an episode, [M, S, S] by x and y. cells[m][k]: where the agent was before each
    of the L steps of the first episode, [L, 2]. returns: of the episodes shown, [M, K+1]. names: of the tasks.
    by_episode: stages are the episodes of a trial, not numbers of adaptation steps.
    """

    tiles: np.ndarray
    cells: Sequence[Sequence[np.ndarray]]
    returns: np.ndarray
    names: Sequence[str]
    by_episode: bool = False


def grid_paths(sampled: SampledStages) -> GridPaths:
    """The walks of the first rollout of every task."""
    family = cast(GridFamily, sampled.family)
    episodes = [data.episode(0, data.rewards.shape[-1]) for data in sampled.rollouts]
    lengths = [data.mask[:, 0].sum(-1).int().tolist() for data in episodes]
    first = [data.episode_start[:, 0].int().argmax(-1).tolist() for data in sampled.rollouts]
    cells = [
        [
            family.cells(observed[task, 0, start[task] : start[task] + length[task]])
            for observed, start, length in zip(sampled.observations, first, lengths, strict=True)
        ]
        for task in range(len(sampled.tasks))
    ]
    returns = [np.where(data.mask[:, 0] > 0, data.rewards[:, 0], 0).sum(-1) for data in episodes]
    tiles = np.stack([family.tiles(task) for task in sampled.tasks])
    return GridPaths(tiles, cells, np.stack(returns, axis=1), sampled.names, sampled.by_episode)


def beliefs_about_cells(sampled: SampledStages) -> np.ndarray | None:
    """What reward the policy expects in a cell, as it believes at the end of each stage's episode: [M, K+1, S, S].

    In words, it is `sampled.expectation`. None where it holds no such belief.
    """
    observations = cast(GridFamily, sampled.family).cell_observations()
    if observations is None:
        return None
    expected = sampled.expected_rewards(observations.reshape(-1, observations.shape[-1]))
    return None if expected is None else expected.reshape(*expected.shape[:2], *observations.shape[:2])


def plot_grid_paths(
    paths: GridPaths,
    path: Path,
    *,
    beliefs: np.ndarray | None = None,
    expectation: str = "expected reward",
    title: str = "",
) -> None:
    """Draw a PNG with a column for each task and a row for each stage: the board, and on it the walk.

    Lines darken with time, and a dot is where the last step began. beliefs: as of `beliefs_about_cells`; cells are blue
    then, the darker, the more the policy expects there, by one scale for all boards. expectation: of what.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    low, high = (0.0, 1.0) if beliefs is None else (float(beliefs.min()), float(beliefs.max()))
    # The root of the scale, so that what is spread over many cells is seen too.
    norm = PowerNorm(0.5, low, max(high, low + 1e-12))
    tasks, stages = paths.returns.shape
    with page(path, 2.3 * tasks + 0.6, 2.5 * stages + 0.5, stages, tasks) as (figure, panels):
        for (stage, task), axes in np.ndenumerate(np.atleast_2d(panels).reshape(stages, tasks)):
            _draw_board(axes, paths.tiles[task], None if beliefs is None else norm(beliefs[task, stage]))
            _draw_walk(axes, paths.cells[task][stage])
            if stage == 0:
                axes.set_title(paths.names[task], fontsize=11)
            if task == 0:
                axes.set_ylabel(stage_name(stage, stages, paths.by_episode), fontsize=11)
            axes.set_xlabel(return_text(float(paths.returns[task, stage])), fontsize=9, color=INK, labelpad=3)
        figure.subplots_adjust(wspace=0.06, hspace=0.16)
        if beliefs is not None:
            blues = LinearSegmentedColormap.from_list("beliefs", [(*BELIEF, 0.0), (*BELIEF, ALPHA)])
            bar = figure.colorbar(ScalarMappable(norm, blues), ax=np.ravel(panels).tolist(), shrink=0.4, pad=0.02)
            bar.set_label(f"{expectation} in a cell, after the episode", fontsize=9)
        if title:
            figure.suptitle(title, x=0.125, y=0.91 + 0.05 / stages, ha="left", va="bottom", fontsize=12, color=INK)


def _draw_board(axes: Axes, tiles: np.ndarray, belief: np.ndarray | None) -> None:
    """belief: of each cell, from 0 to 1."""
    from matplotlib.patches import Rectangle

    size = len(tiles)
    for x, y in np.ndindex(size, size):
        colour, letter = TILE_STYLES.get(int(tiles[x, y]), ("white", ""))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#DDDDDD", linewidth=0.6))
        if belief is not None:
            alpha = ALPHA * float(belief[x, y])
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=BELIEF, alpha=alpha, linewidth=0))
        pale = "white" if tiles[x, y] == DEATH else "#888888"
        axes.text(x, y, letter, ha="center", va="center", fontsize=42 / max(size, 5), color=pale)
        if tiles[x, y] == GOAL:
            axes.plot(x, y, "*", markersize=80 / max(size, 5), color="#D55E00", markeredgewidth=0, zorder=2)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(-0.5, size - 0.5), aspect="equal", xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#CCCCCC")


def _draw_walk(axes: Axes, cells: np.ndarray) -> None:
    """cells: before each step, [L, 2]. A jump of a transporter is dotted."""
    steps = len(cells)
    colours = time_colours()
    places = drifted(cells)
    for t in range(steps - 1):
        jumps = (cells[t] != cells[t + 1]).all()
        line = ":" if jumps else "-"
        axes.plot(*places[t : t + 2].T, line, color=colours(t / max(steps - 1, 1)), linewidth=1.6, zorder=3)
    axes.plot(*places[-1], "o", markersize=4.5, color=colours(1.0), markeredgecolor="white", zorder=5)


def drifted(cells: np.ndarray) -> np.ndarray:
    """Cells [L, 2] moved by a little that grows with time."""
    steps = len(cells)
    return cells + DRIFT * (np.arange(steps)[:, None] / max(steps - 1, 1) - 0.5)
