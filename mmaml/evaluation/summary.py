"""Statistics of returns on held-out tasks, by mode and overall, with 95% intervals; and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from mmaml.envs.base import mode_label


def summarise(
    returns: np.ndarray,
    modes: np.ndarray,
    success: np.ndarray,
    by_episode: bool = False,
    mode_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Statistics over all tasks, and over the tasks of each mode.

    returns, success: [M, K+1]; success is NaN where the family reports none. modes: [M]. The result can be written as
    JSON: {"overall": group, "modes": {mode: group}, "tasks": the mode and returns of each task}. A group has its number
    of tasks and, for each number of adaptation steps, the mean, the sample standard deviation and the 95% interval of
    the mean; None where too few tasks were measured.

    by_episode: the columns are the episodes of a trial, not numbers of adaptation steps: a group then has the
    statistics of their sum too, "trial", which tables of bandits give. mode_names: of the family; the group of a mode
    has its "name".
    """
    groups = {}
    for mode in np.unique(modes):
        chosen = modes == mode
        name = {"name": mode_label(int(mode), mode_names)} if mode_names else {}
        groups[str(mode)] = name | _group(returns[chosen], success[chosen], by_episode)
    return {
        "overall": _group(returns, success, by_episode),
        "modes": groups,
        "tasks": [
            {"mode": int(mode), "return": [_known(value) for value in row]}
            for mode, row in zip(modes, returns, strict=True)
        ],
    }


def _group(returns: np.ndarray, success: np.ndarray, by_episode: bool) -> dict[str, Any]:
    steps = [{"adapt_steps": k, **_spread(column)} for k, column in enumerate(returns.T)]
    for step, column in zip(steps, success.T, strict=True):
        if not np.isnan(column).all():
            step["success_rate"] = float(np.nanmean(column))
    trial = {"trial": _spread(returns.sum(1))} if by_episode else {}
    return {"num_tasks": len(returns), "return": steps} | trial


def _spread(values: np.ndarray) -> dict[str, Any]:
    """Mean, sample standard deviation and Student's 95% interval of the mean, without NaN."""
    values = values[~np.isnan(values)].astype(np.float64)
    if not len(values):
        return {"mean": None, "std": None, "interval95": None}
    mean = float(values.mean())
    if len(values) == 1:
        return {"mean": mean, "std": None, "interval95": None}
    std = float(values.std(ddof=1))
    half = student_quantile(0.975, len(values) - 1) * std / math.sqrt(len(values))
    return {"mean": mean, "std": std, "interval95": [mean - half, mean + half]}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@cache
def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution with n = `degrees` degrees of freedom, by integrating its density.

    With t = √n · tan(φ), the density of φ is proportional to cos(φ)^(n-1) on a finite interval.
    """
    angle = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    density = np.cos(angle[:-1] + (angle[1] - angle[0]) / 2) ** (degrees - 1)
    cumulative = np.concatenate([[0.0], density.cumsum()])
    return math.sqrt(degrees) * math.tan(np.interp(probability, cumulative / cumulative[-1], angle))


def table(summary: Mapping[str, Any], by_episode: bool = False) -> str:
    """The statistics of `summarise` as text, one row for each group and stage of learning a task.

    by_episode: the stages are the episodes of a trial, counted from 1, in place of numbers of adaptation steps; the
    last row of a group has their sum.
    """
    stage, width = ("episode", 9) if by_episode else ("steps", 7)
    groups = {group.get("name", f"mode {mode}"): group for mode, group in summary["modes"].items()}
    groups["all tasks"] = summary["overall"]
    column = max(12, *(len(name) + 1 for name in groups))
    succeeds = any("success_rate" in step for step in summary["overall"]["return"])
    header = f"{'':{column}}{'tasks':>6}{stage:>{width}}{'mean':>12}{'std':>12}   {'95% interval':24}"
    lines = [header + ("success" if succeeds else "")]
    for name, group in groups.items():
        for index, step in enumerate(group["return"]):
            start = f"{name:{column}}{group['num_tasks']:6d}" if index == 0 else " " * (column + 6)
            success = f"{100 * step['success_rate']:6.1f}%" if "success_rate" in step else ""
            lines.append(f"{start}{step['adapt_steps'] + by_episode:{width}d}{_numbers(step)}{success}")
        if len(group["return"]) > 1 and "trial" in group:
            lines.append(f"{'':{column + 6}}{'trial':>{width}}{_numbers(group['trial'])}")
    return "\n".join(line.rstrip() for line in lines)


def _numbers(spread: Mapping[str, Any]) -> str:
    interval = "" if spread["interval95"] is None else "[{:.2f}, {:.2f}]".format(*spread["interval95"])
    return f"{_decimal(spread['mean'])}{_decimal(spread['std'])}   {interval:24}"


def _decimal(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{value:12.2f}"
