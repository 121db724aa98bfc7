"""The numbers that a report shows of experiments, whatever it is written in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from mmaml.report.gather import Experiment, Seed
from mmaml.report.statistics import interval95, mean_over_seeds, measured, resampled

UNKNOWN = "–"


def by_tasks(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Experiments whose returns may be compared are in one group."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(experiment.tasks, []).append(experiment)
    return [*groups.values()]


def estimates(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Means [G, C], and intervals [2, G, C], NaN where nothing can be drawn; the trial is the last stage, if any.

    With one seed that is a mode of one task: it would be drawn each time. So would all tasks, if no mode has more.
    """
    seeds = [_with_sum(seed) for seed in experiment.seeds] if has_trial(experiment) else experiment.seeds
    means = mean_over_seeds(measured(seeds))
    intervals = interval95(mean_over_seeds(resampled(seeds)))
    if len(seeds) == 1:
        tasks = np.unique(seeds[0].modes, return_counts=True)[1]
        intervals[:, np.append(tasks, tasks.max()) == 1] = np.nan
    return means, intervals


def has_trial(experiment: Experiment) -> bool:
    """Whether stages are the episodes of a trial whose return is worth a column of its own."""
    return experiment.by_episode and experiment.seeds[0].returns.shape[1] > 1


def _with_sum(seed: Seed) -> Seed:
    """With the return of the whole trial as one more stage."""
    return Seed(np.concatenate([seed.returns, seed.returns.sum(1, keepdims=True)], axis=1), seed.modes)


def mean(values: Iterable[float | None]) -> float:
    """The mean; NaN if a value is not known."""
    known = [math.nan if value is None else float(value) for value in values]
    return sum(known) / len(known)


def percentage(share: float | None) -> str:
    """A share as per cent."""
    return UNKNOWN if share is None else f"{100 * share:.1f}%"


def duration(seconds: float | None) -> str:
    """As h:mm:ss."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
