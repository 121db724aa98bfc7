"""The returns of a report as Markdown: one table for each family of tasks, to be put into a text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmaml.figures.page import stage_name
from mmaml.report.gather import Experiment, Gathered
from mmaml.report.summary import UNKNOWN, by_tasks, duration, estimates, mean, percentage
from mmaml.wording import counted

GENERATOR = "<!-- by mmaml report -->"  # by which an earlier report is known
MEANING = "Returns are means per episode, with 95% intervals where they are known; costs are means of a run."


def markdown(gathered: Gathered, title: str, written: str) -> str:
    """The whole text. written: when and by what."""
    counts = f"{counted(len(gathered.experiments), 'experiment')}, {counted(len(gathered.runs), 'run')}"
    parts = [GENERATOR, f"# {title}", f"{counts}; written {written}. {MEANING}"]
    parts += [f"- {notice}" for notice in gathered.notices]
    for group in by_tasks(gathered.experiments):
        parts += [f"## {group[0].env}", returns_table(group)]
    return "\n\n".join(parts) + "\n"


def returns_table(group: Sequence[Experiment]) -> str:
    """A row for each experiment: the return over all tasks at each stage, with its interval, and what a run costs.

    Also the share of episodes with success at the last stage, where the task family reports it.
    """
    stages = max(experiment.seeds[0].returns.shape[1] for experiment in group)
    success = any(rate is not None for experiment in group for rate in experiment.success)
    header = ["", "seeds", *(_stage(group, stage) for stage in range(stages))]
    header += [*(["success"] if success else []), "env steps", "CPU time"]
    rows = [_row(experiment, stages, success) for experiment in group]
    return "\n".join(_line(cells) for cells in (header, ["---"] * len(header), *rows))


def _row(experiment: Experiment, stages: int, success: bool) -> list[str]:
    means, intervals = estimates(experiment)
    own = experiment.seeds[0].returns.shape[1]
    cells = [_with_interval(means[-1, stage], intervals[:, -1, stage]) for stage in range(own)]
    runs = experiment.runs
    return [
        experiment.label + (f" ({tasks})" if (tasks := experiment.described_tasks) else ""),
        str(len(runs)),
        *cells,
        *[""] * (stages - own),
        *([percentage(experiment.success[-1] if experiment.success else None)] if success else []),
        f"{mean(run.curve.env_steps[-1] for run in runs):,.0f}",
        duration(mean(run.cpu_seconds for run in runs)),
    ]


def _stage(group: Sequence[Experiment], stage: int) -> str:
    """The name of a column, which in a mixed group serves steps and episodes."""
    having = [(one, stages) for one in group if (stages := one.seeds[0].returns.shape[1]) > stage]
    return ", or ".join(dict.fromkeys(stage_name(stage, stages, one.by_episode) for one, stages in having))


def _with_interval(value: float, interval: np.ndarray) -> str:
    """With as many decimals as an interval of that width calls for."""
    if math.isnan(value):
        return UNKNOWN
    low, high = interval
    decimals = max(0, min(2, 1 - math.floor(math.log10(high - low)))) if high > low else 2
    shown = f"{value:,.{decimals}f}"
    return shown if np.isnan(interval).any() else f"{shown} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
