"""Figures with a column for each task: above, which choices are made at each stage; below, what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmaml.figures.page import COLOURS, INK, legend_below, page

UNKNOWN = "#E2E2E2"  # cells of a map without a share
MAX_NAMED_ROWS = 12
# Of the references, in their order: Matplotlib's style and the colour.
REFERENCES = (("--", "#999999"), ("-.", "#333333"))


@dataclass(frozen=True)
class ShareMaps:
    """For each of M tasks a map of shares, with R rows and a column for each of S stages, and curves over the stages.

    shares: from 0 to 1, or NaN, [M, S, R]. rows: what the rows are. row_names: of the rows of each task, [M][R].
    stage: what a stage is; the first has the number `first`. quantity: what the curves show, [M, S] each: that of the
    policy, and one or two references by their names. names: of the tasks. scale: what a share is, written beside a
    scale of colours; "" for no scale. nothing: what NaN means.
    """

    shares: np.ndarray
    rows: str
    row_names: Sequence[Sequence[str]]
    stage: str
    first: int
    quantity: str
    policy: np.ndarray
    references: dict[str, np.ndarray]
    names: Sequence[str]
    scale: str = ""
    nothing: str = ""


def plot_share_maps(maps: ShareMaps, path: Path, *, title: str = "") -> None:
    """Draw a PNG with the map of each task above its curve. More than twelve rows are numbered."""
    from matplotlib.cm import ScalarMappable

    tasks, stages, rows = maps.shares.shape
    stage = np.arange(stages) + maps.first
    extent = (stage[0] - 0.5, stage[-1] + 0.5, -0.5, rows - 0.5)
    with page(path, 2.7 * tasks + 0.8, 4.4, 2, tasks) as (figure, panels):
        panels = np.asarray(panels).reshape(2, tasks)
        for task in range(tasks):
            above, below = panels[:, task]
            above.set_facecolor(UNKNOWN)
            image = maps.shares[task].T
            above.imshow(image, origin="lower", aspect="auto", extent=extent, cmap="Blues", vmin=0, vmax=1)
            above.set_title(maps.names[task], fontsize=11)
            above.grid(visible=False)
            if rows <= MAX_NAMED_ROWS:
                above.set_yticks(range(rows), maps.row_names[task], fontsize=8)
            marker = "o-" if stages < 16 else "-"
            below.plot(stage, maps.policy[task], marker, color=COLOURS[0], markersize=3.5, label="the policy")
            for (name, values), (line, colour) in zip(maps.references.items(), REFERENCES, strict=False):
                below.plot(stage, values[task], line, color=colour, linewidth=1, label=name)
            shown = np.concatenate([maps.policy[task], *(values[task] for values in maps.references.values())])
            low, high = min(shown.min(), 0), max(shown.max(), 0)
            bottom = 1.1 * low - 0.1 * high if low < 0 else 0
            below.set(xlabel=maps.stage, xlim=extent[:2], ylim=(bottom, 1.1 * high - 0.1 * low + 1e-9))
            for axes in (above, below):
                axes.locator_params(axis="x", integer=True, nbins=6)
        panels[0, 0].set_ylabel(maps.rows, fontsize=11)
        panels[1, 0].set_ylabel(maps.quantity, fontsize=11)
        figure.subplots_adjust(wspace=0.28, hspace=0.18)
        lines = panels[1, 0].get_lines()
        if np.isnan(maps.shares).any():
            lines += panels[1, 0].plot([], [], "s", color=UNKNOWN, markersize=8, label=maps.nothing)
        legend_below(figure, lines, 0.5)
        if maps.scale:
            corner = panels[0, -1].get_position()
            scale = figure.add_axes((corner.x1 + 0.12 / figure.get_figwidth(), corner.y0, 0.012, corner.height))
            figure.colorbar(ScalarMappable(cmap="Blues"), cax=scale).set_label(maps.scale, fontsize=9)
        if title:
            figure.suptitle(title, x=0.125, y=0.97, ha="left", va="bottom", fontsize=12, color=INK)
