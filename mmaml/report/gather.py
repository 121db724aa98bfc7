"""What a report needs of runs, read from their folders."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmaml.config.loading import read_config, values_with_effect
from mmaml.errors import ConfigError, UsageError
from mmaml.figures.curves import (
    Curve,
    experiments_of,
    group_runs,
    measures_no_returns,
    read_run,
    read_table,
    without_repeats,
)
from mmaml.storage.layout import EVALUATION, PARAMS, PROGRESS, STAGES
from mmaml.storage.params_file import read_record
from mmaml.storage.progress_file import read_rows
from mmaml.written_paths import as_written

LAST_ITERATIONS = 10  # over which returns of training are averaged
# Keys that runs of one experiment differ in, or that only say where files are.
_NOT_COMPARED = ("seed", "dump_path", "restore_path", "resume", "te_save_path")
# Keys by which returns per episode are comparable, those of steps of adaptation with those of episodes of a trial too.
_TASKS = ("env", "env_kwargs", "max_path_length")
# What an evaluation says of how it was made, where flags may have changed it.
_MADE_BY = ("rollouts_per_task", "max_path_length", "inner_lr")


@dataclass(frozen=True)
class Evaluation:
    """A run's evaluation.json. returns: [M, C], NaN where not measured. modes: [M]. success: for each stage, or none.

    mode_names: of those of the modes that have a name. mode_success: as success, of each mode.
    by_episode: the C stages are the episodes of a trial, else numbers of adaptation steps, from 0. made_by: rollouts,
    horizon and step sizes.
    """

    returns: np.ndarray
    modes: np.ndarray
    success: tuple[float | None, ...]
    by_episode: bool
    split: str
    iteration: int | None
    made_by: Mapping[str, Any]
    mode_names: Mapping[int, str]
    mode_success: Mapping[int, tuple[float | None, ...]]


@dataclass(frozen=True)
class ReportRun:
    """A run. config: every key that has an effect. seconds, cpu_seconds: None where the log does not say.

    iterations: how many it has had, with those of the run that it goes on from, whose rows are in another log.
    """

    path: str
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    curve: Curve
    versions: tuple[tuple[str, str], ...]
    commit: str
    ranks: int | None
    iterations: int
    seconds: float | None
    cpu_seconds: float | None
    evaluation: Evaluation | None


@dataclass(frozen=True)
class Seed:
    """Returns of one run: [M, C] for M tasks, and their modes [M]. M = 1 stands for all tasks of training together."""

    returns: np.ndarray
    modes: np.ndarray


@dataclass(frozen=True)
class Experiment:
    """Runs that differ only in their seeds.

    evaluated: `seeds` are held-out tasks, of evaluation.json, else means of the last iterations of training. success:
    the mean over seeds for each stage, or none.
    """

    label: str
    runs: tuple[ReportRun, ...]
    curve: Curve
    seeds: tuple[Seed, ...]
    evaluated: bool
    by_episode: bool
    success: tuple[float | None, ...]

    @property
    def env(self) -> str:
        return str(self.runs[0].config.get("env", ""))

    @property
    def mode_names(self) -> dict[int, str]:
        """Of those of the modes that have a name."""
        return {mode: name for run in self.runs if run.evaluation for mode, name in run.evaluation.mode_names.items()}

    @property
    def mode_success(self) -> dict[int, tuple[float | None, ...]]:
        """Of each mode, the mean share of episodes with success over the seeds that have it, at each stage; or none."""
        found: dict[int, list[tuple[float | None, ...]]] = {}
        for run in self.runs:
            for mode, rates in run.evaluation.mode_success.items() if self.evaluated and run.evaluation else ():
                found.setdefault(mode, []).append(rates)
        return {mode: tuple(map(_mean, zip(*seeds, strict=True))) for mode, seeds in sorted(found.items())}

    @property
    def split(self) -> str:
        """Of which tasks the returns are: that of the evaluations; "" for those of training's iterations."""
        evaluation = self.runs[0].evaluation
        return evaluation.split if self.evaluated and evaluation else ""

    @property
    def described_tasks(self) -> str:
        """In words, what sets its returns apart from those of held-out tasks; "" if nothing does."""
        return "" if self.split == "test" else f"{self.split} tasks" if self.split else "in training"

    @property
    def tasks(self) -> str:
        """What is the same in two experiments whose returns may be compared."""
        return json.dumps([self.runs[0].config.get(key) for key in _TASKS], sort_keys=True)


@dataclass(frozen=True)
class Gathered:
    """All that a report shows. notices: what a reader has to know of runs that were left out, and the like."""

    experiments: tuple[Experiment, ...]
    notices: tuple[str, ...]

    @property
    def runs(self) -> list[ReportRun]:
        return [run for experiment in self.experiments for run in experiment.runs]


def gather(given: Sequence[tuple[str, Path]]) -> Gathered:
    """Read runs, each given by a label, which may be empty, and a directory: of a run, or with runs somewhere below.

    Runs below a directory that have no finished iteration, or none with returns, are left out, with a notice; so are
    runs that repeat a seed of their experiment, as the same numbers would count twice. Raises UsageError for a path
    that is not a run, or one without returns, a directory without runs, and a damaged file.
    """
    runs: dict[Path, ReportRun] = {}
    notices: list[str] = []
    for label, path in given:
        for folder in _folders(path):
            if folder != path and (lacks := _lacks(folder / PROGRESS)):
                notices.append(f"{as_written(folder)} has {lacks}, and is left out.")
            elif folder.resolve() not in runs:
                runs[folder.resolve()] = _read(folder, label)
    if not runs:
        expected = f"a run with finished iterations in '{given[0][1]}'"
        raise UsageError("RUN", expected=expected, got="none", remedy="check the path")
    found = _without_repeats([*runs.values()], notices)
    for run in found:
        if run.curve.unread:
            notices.append(f"{run.path}: {run.curve.unread} unreadable rows of {PROGRESS} are left out.")
    read = [(dict(run.values), run.curve) for run in found]
    groups = [[found[index] for index in members] for members in experiments_of(read)]
    curves = _with_unequal_labels(group_runs(read))
    experiments = [_experiment(members, curve, notices) for members, curve in zip(groups, curves, strict=True)]
    notices += _steps_of_different_rollouts(experiments)
    return Gathered(tuple(experiments), tuple(notices))


def _lacks(log: Path) -> str:
    """What a log has nothing of: rows, as that of a run that starts over, or returns; "" if it has both.

    One that cannot be read may have both.
    """
    if not log.is_file():
        return "" if log.exists() else "no finished iteration"
    try:
        columns, rows, unread = read_rows(log)
    except OSError:
        return ""
    if not (rows or unread):
        return "no finished iteration"
    return "no iteration with returns" if measures_no_returns(columns) else ""


def _without_repeats(runs: Sequence[ReportRun], notices: list[str]) -> list[ReportRun]:
    """One run of each seed of an experiment, that with the most iterations."""
    kept, repeats = without_repeats([(dict(run.values), run.curve) for run in runs])
    for repeat, longest in repeats:
        seed = runs[longest].values["seed"]
        notices.append(f"{runs[repeat].path} repeats seed {seed} of {runs[longest].path}, and is left out.")
    return [runs[index] for index in kept]


def _folders(path: Path) -> list[Path]:
    """The run's own directory, or those of the runs below, behind links too, each once."""
    if (path / PARAMS).exists() or not path.is_dir():
        return [path]
    found: dict[str, Path] = {}
    for folder, below, _ in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in found else below  # a link to a folder above it has no end
        found.setdefault(real, Path(folder))
    return sorted((folder for folder in found.values() if (folder / PARAMS).exists()), key=_by_numbers)


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """Sort key by which seed_2 comes before seed_10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _read(folder: Path, label: str) -> ReportRun:
    values, curve = read_run(folder, label)
    record = read_record(folder, "RUN")
    table, _ = read_table(folder / PROGRESS)
    try:
        config = values_with_effect(read_config(values))
    except ConfigError:  # of a user's algorithm that is not here, say
        config = values
    versions, placement = (record.get(name) or {} for name in ("versions", "placement"))
    return ReportRun(
        path=as_written(folder),
        values=values,
        config=config,
        curve=curve,
        versions=tuple((str(name), str(version or "–")) for name, version in _items(versions)),
        commit=str(record.get("git_commit") or "–"),
        ranks=dict(_items(placement)).get("ranks"),
        iterations=max(len(curve.env_steps) + curve.unread, int(_last(table.get("Itr")) or 0) + 1),
        seconds=_last(table.get("Time")),
        cpu_seconds=None if _first(table.get("Itr")) else _total(table.get("Time-CPU")),
        evaluation=_evaluation(folder / EVALUATION),
    )


def _items(value: Any) -> list[tuple[str, Any]]:
    return [*value.items()] if isinstance(value, Mapping) else []


def _first(column: np.ndarray | None) -> float | None:
    return None if column is None or math.isnan(column[0]) else float(column[0])


def _last(column: np.ndarray | None) -> float | None:
    return None if column is None or math.isnan(column[-1]) else float(column[-1])


def _total(column: np.ndarray | None) -> float | None:
    """The sum; None unless it was measured in every iteration."""
    return None if column is None or np.isnan(column).any() else float(column.sum())


def _evaluation(path: Path) -> Evaluation | None:
    """The evaluation in a file; None if there is no file. Raises UsageError if it is damaged."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        tasks = found["tasks"]
        returns = np.array([[_number(value) for value in task["return"]] for task in tasks], dtype=np.float64)
        modes = np.array([int(task["mode"]) for task in tasks])
        stages = found["num_adapt_steps"] + 1
        if returns.shape != (len(modes), stages) or not len(modes):
            raise ValueError
        success = _success(found["overall"], stages)
        by_episode = found.get("stage") == STAGES[True]
        made_by = {name: found.get(name) for name in _MADE_BY}
        split, iteration = str(found.get("split", "test")), found.get("iteration")
        groups = {int(mode): group for mode, group in _items(found.get("modes"))}
        names = {mode: str(group["name"]) for mode, group in groups.items() if "name" in group}
        by_mode = {mode: _success(group, stages) for mode, group in groups.items()}
        return Evaluation(returns, modes, success, by_episode, split, iteration, made_by, names, by_mode)
    except (OSError, ValueError, TypeError, LookupError, OverflowError, AttributeError, RecursionError) as error:
        raise UsageError("RUN", f"'{path}' is not a whole evaluation", "evaluate again, or remove it") from error


def _success(group: Mapping[str, Any], stages: int) -> tuple[float | None, ...]:
    """The share of episodes with success at each stage, of a group of tasks; None where it was not measured."""
    rates = [stage.get("success_rate") for stage in group["return"]]
    if len(rates) != stages:
        raise ValueError
    return tuple(None if math.isnan(number := _number(rate)) else number for rate in rates)


def _number(value: Any) -> float:
    """NaN for what was not measured, or is infinite, which no mean or interval can be made of."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan


def _experiment(runs: Sequence[ReportRun], curve: Curve, notices: list[str]) -> Experiment:
    """What one experiment's returns are read from: evaluations if all runs have one of a kind, else training."""
    if short := [text for run in runs if (text := _left(run))]:
        notices.append(f"{curve.label}: fewer iterations than n_itr: {', '.join(short)}.")
    evaluations = [run.evaluation for run in runs if run.evaluation is not None]
    kinds = {(one.returns.shape[1], one.by_episode, one.split, json.dumps(one.made_by)) for one in evaluations}
    if len(evaluations) == len(runs) and len(kinds) == 1:
        if early := [text for run in runs if (text := _evaluated_early(run))]:
            notices.append(f"{curve.label}: evaluated before the latest iteration: {', '.join(early)}.")
        seeds = tuple(Seed(one.returns, one.modes) for one in evaluations)
        success = tuple(_mean(rates) for rates in zip(*(one.success for one in evaluations), strict=True))
        return Experiment(curve.label, tuple(runs), curve, seeds, True, evaluations[0].by_episode, success)
    if evaluations:
        why = (
            "differ in stages, tasks, rollouts or step sizes"
            if len(evaluations) == len(runs)
            else "are not there for all runs"
        )
        notices.append(f"{curve.label}: evaluations {why}; its returns are those of training.")
    last = [run.curve.returns[0, -LAST_ITERATIONS:] for run in runs]
    seeds = tuple(Seed(_known_mean(rows)[None], np.zeros(1, dtype=int)) for rows in last)
    return Experiment(curve.label, tuple(runs), curve, seeds, False, curve.by_episode, ())


def _steps_of_different_rollouts(experiments: Sequence[Experiment]) -> list[str]:
    """Notices of experiments on the same tasks, a step of which one takes from more episodes than another."""
    groups: dict[str, dict[str, Any]] = {}
    for one in experiments:
        evaluation = one.runs[0].evaluation
        if one.evaluated and evaluation and not one.by_episode:
            groups.setdefault(one.tasks, {})[one.label] = evaluation.made_by["rollouts_per_task"]
    return [
        "A step of adaptation is taken from different numbers of episodes: "
        + ", ".join(f"{label} {rollouts}" for label, rollouts in group.items())
        + "."
        for group in groups.values()
        if len(set(map(repr, group.values()))) > 1
    ]


def _evaluated_early(run: ReportRun) -> str:
    """After which iteration a run was evaluated that has gone on since; else nothing."""
    iteration = run.evaluation.iteration if run.evaluation is not None else None
    early = isinstance(iteration, int) and iteration < run.iterations
    return f"{run.path} (after {iteration} of {run.iterations})" if early else ""


def _left(run: ReportRun) -> str:
    """How many iterations a run has that has not had all of them; else nothing."""
    done, wanted = run.iterations, run.config.get("n_itr")
    return f"{run.path} ({done} of {wanted})" if isinstance(wanted, int) and done < wanted else ""


def _mean(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None


def _known_mean(rows: np.ndarray) -> np.ndarray:
    """[I, C] -> [C], NaN where no iteration was measured."""
    known = ~np.isnan(rows)
    sums = np.where(known, rows, 0.0).sum(0)
    return np.divide(sums, known.sum(0), out=np.full(rows.shape[1], np.nan), where=known.any(0))


def _with_unequal_labels(curves: Sequence[Curve]) -> list[Curve]:
    """Number the labels that several curves have."""
    total, seen = Counter(curve.label for curve in curves), Counter[str]()
    named = []
    for curve in curves:
        seen[curve.label] += 1
        number = f" ({seen[curve.label]})" if total[curve.label] > 1 else ""
        named.append(replace(curve, label=curve.label + number))
    return named


def differing_keys(runs: Sequence[ReportRun]) -> list[str]:
    """The keys, but seeds and paths, whose values are not the same in all runs."""
    keys = sorted({key for run in runs for key in run.config} - {*_NOT_COMPARED})
    return [key for key in keys if len({repr(run.config.get(key)) for run in runs}) > 1]
