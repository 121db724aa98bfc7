"""What all figures share: colours, style, and writing to a file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmaml.storage.files import atomic_file
from mmaml.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


# The colours of Okabe and Ito, which colour-blind readers can tell apart, and six more.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#8C6D31", "#6A3D9A", "#B5BD00", "#9B2335", "#7F8FA9"),
)
# Of the curves that have a colour a second time, a third, a fourth: Matplotlib's name of a mark, and how text shows it.
MARKS = (("", ""), ("o", "●"), ("^", "▲"), ("s", "■"))
INK = "#333333"
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
}


@contextmanager
def page(path: Path, width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in the common style, without a screen; written to `path` at the end.

    The end of the path's name says in which format: ".png" or ".svg".
    """
    import matplotlib  # slow, and not needed to read tables

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the box drawn in place of the letter shows it
        figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)
        try:
            yield figure, axes if rows * columns > 1 else axes[0, 0]
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                figure.savefig(file, format=path.suffix[1:], bbox_inches="tight")
        finally:
            pyplot.close(figure)


def style_of(index: int) -> tuple[str, str, str]:
    """The style of a curve: its colour, Matplotlib's name of its mark, and the mark as text; "" for no mark.

    48 curves have different styles.
    """
    return COLOURS[index % len(COLOURS)], *MARKS[index // len(COLOURS) % len(MARKS)]


def legend_below(figure: Figure, lines: Sequence[Line2D], distance: float) -> None:
    """Say under the panels what lines or marks mean, by their labels. distance: from the panels, in inches."""
    edges = figure.subplotpars
    corner = (edges.right, edges.bottom - distance / figure.get_figheight())
    figure.legend(handles=lines, loc="upper right", bbox_to_anchor=corner, ncols=len(lines), fontsize=9, labelcolor=INK)


def stage_name(stage: int, stages: int, by_episode: bool) -> str:
    """How one of the stages of learning a task is called: after a number of adaptation steps, or an episode of a trial.

    stages: how many there are. One alone may be that of an algorithm that does not adapt.
    """
    if by_episode:
        return f"episode {stage + 1}"
    if stages == 1:
        return "without adaptation"
    return f"after {counted(stage, 'step')}" if stage else "before adaptation"


def return_text(value: float) -> str:
    """A return, with one decimal if it is below 100."""
    return f"return {signed(value, 0 if abs(value) >= 100 else 1)}"


def signed(value: float, digits: int) -> str:
    """A number with a minus sign in place of a hyphen."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "−")  # "-0" becomes "0"
