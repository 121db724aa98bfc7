"""The HTML page of a report: it stands alone, without scripts and without other files."""

from __future__ import annotations

import base64
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mmaml.figures.curves import Curve, plot_curves
from mmaml.figures.page import stage_name, style_of
from mmaml.report.gather import LAST_ITERATIONS, Experiment, Gathered, ReportRun, differing_keys
from mmaml.report.statistics import (
    DRAWS,
    all_modes,
    interval95,
    measured,
    probability_of_improvement,
    resampled,
)
from mmaml.report.summary import UNKNOWN, by_tasks, duration, estimates, mean, percentage
from mmaml.wording import counted

GENERATOR = '<meta name="generator" content="mmaml report">'  # by which an earlier report is known

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5a626b; --line: #d9dde2; --ground: #ffffff;
  --shade: #f4f6f8; --warn: #fff5dc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a4adb7; --line: #3a4149; --ground: #15181c;
  --shade: #1e2329; --warn: #3a3118; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption { color: var(--soft); }
.notice { background: var(--warn); border-radius: .4rem; padding: .6rem 1rem; }
.notice ul { margin: 0; padding-left: 1.1rem; }
figure { margin: 1rem 0; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: .4rem; padding: .5rem; }
.scroll { overflow-x: auto; margin: 1rem 0 1.5rem; max-width: 100%; }
.side { display: flex; flex-wrap: wrap; column-gap: 3rem; }
table { min-width: 26rem; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .35rem; overflow-wrap: anywhere; }
caption b { font-size: 1rem; }
th, td { padding: .3rem .8rem; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; padding-left: .3rem; }
tbody th { font-weight: 500; text-align: left; }
tbody tr:nth-child(even) { background: var(--shade); }
.text td, .text th { text-align: left; }
td { white-space: nowrap; }
.text td { white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }
.interval { color: var(--soft); font-size: .85em; white-space: nowrap; }
.swatch { display: inline-block; width: .75em; height: .75em; border-radius: .15em; margin-right: .45em;
  border: 1px solid var(--line); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.text th code { white-space: nowrap; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
@media print { :root { --ink: #000000; --soft: #444444; --line: #bbbbbb; --ground: #ffffff; --shade: #f4f4f4;
  --warn: #ffffff; } body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; }
  figure, tr, caption { break-inside: avoid; } .scroll { overflow: visible; } table { font-size: 8.5pt; }
  th, td { padding: .2rem .5rem; } }
"""


class Markup(str):
    """Text that is HTML already; any other is escaped."""


def page(gathered: Gathered, title: str, written: str, smooth: int = 1) -> str:
    """The whole page. written: when and by what. smooth: window of a moving average of the curves, in iterations."""
    experiments = gathered.experiments
    groups = by_tasks(experiments)
    runs = gathered.runs
    counts = f"{counted(len(experiments), 'experiment')}, {counted(len(runs), 'run')}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(counts)} · written {escape(written)}</p>',
        _notices(gathered.notices),
        "<h2>At a glance</h2>",
        *(_glance(group) for group in groups),
        "<h2>Learning curves</h2>",
        *(_curves(group, smooth) for group in groups),
        "<h2>Returns</h2>",
        _explained(experiments),
        '<div class="side">',
        *(table for experiment in experiments for table in (_returns(experiment), _success(experiment))),
        "</div>",
        *_improvement(groups),
        "<h2>What differs</h2>",
        _differences(experiments),
        "<h2>Runs</h2>",
        _runs(experiments),
        "<h2>Versions</h2>",
        _versions(runs),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{GENERATOR}\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


# Sections.


def _notices(notices: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in notices)
    return f'<div class="notice"><ul>{items}</ul></div>' if notices else ""


def _glance(group: Sequence[Experiment]) -> str:
    """Of each experiment the first and the last return, and what a run cost."""
    differ = len({experiment.described_tasks for experiment in group}) > 1  # where returns are of different tasks
    rows = []
    for index, experiment in enumerate(group):
        cells = _overall(experiment)[: experiment.seeds[0].returns.shape[1]]  # without the sum over a trial
        runs = experiment.runs
        which = f" ({experiment.described_tasks or 'held-out tasks'})" if differ else ""
        rows.append(
            [
                Markup(_swatch(index) + escape(experiment.label + which)),
                str(len(runs)),
                cells[0],
                cells[-1] if len(cells) > 1 else "",
                f"{mean(run.curve.env_steps[-1] for run in runs):,.0f}",
                duration(mean(run.seconds for run in runs)),
            ]
        )
    stages = sorted({_last_stage(experiment) for experiment in group})
    header = ["experiment", "seeds", "first return", f"last return ({', '.join(stages)})"]
    return _table(Markup(f"<b>{escape(group[0].env)}</b>"), [*header, "env steps a run", "wall time a run"], rows)


def _overall(experiment: Experiment) -> list[str]:
    """The return over all tasks at each stage, with its interval."""
    means, intervals = estimates(experiment)
    return [_with_interval(means[-1, stage], intervals[:, -1, stage]) for stage in range(means.shape[1])]


def _last_stage(experiment: Experiment) -> str:
    stages = experiment.seeds[0].returns.shape[1]
    return stage_name(stages - 1, stages, experiment.by_episode)


def _curves(group: Sequence[Experiment], smooth: int) -> str:
    """The learning curves as an image within the page."""
    curves: list[Curve] = [experiment.curve for experiment in group]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.svg"
        plot_curves(curves, path, title=group[0].env, smooth=smooth)
        picture = base64.b64encode(path.read_bytes()).decode()
    names = "; ".join(curve.label for curve in curves)
    alt = f"Learning curves, return per episode over environment steps, on {group[0].env}: {names}"
    several = any(len(experiment.runs) > 1 for experiment in group)
    band = " Bands: one standard deviation over seeds." if several else ""
    average = f" Moving average over {smooth} iterations." if smooth > 1 else ""
    return (
        f'<figure><img src="data:image/svg+xml;base64,{picture}" alt="{escape(alt)}">'
        f"<figcaption>Returns of training tasks.{band}{average}</figcaption></figure>"
    )


def _explained(experiments: Sequence[Experiment]) -> str:
    """What the numbers of the tables are."""
    text = [
        "Return per episode, the mean over seeds, with 95% intervals by a stratified bootstrap of "
        f"{DRAWS:,} samples: seeds are drawn again and, for each, its tasks within their mode."
    ]
    if any(len(one.runs) == 1 for one in experiments):
        text.append("With one seed, an interval is over tasks alone and says nothing of other seeds.")
    if any(not one.evaluated for one in experiments):
        text.append(
            f"Returns of training are means of the last {LAST_ITERATIONS} iterations of progress.csv, over all tasks, "
            "and their intervals are over seeds alone."
        )
    return f'<p class="soft">{escape(" ".join(text))}</p>'


def _returns(experiment: Experiment) -> str:
    """An experiment's returns: stages down, all tasks and each mode across."""
    means, intervals = estimates(experiment)
    modes, names = all_modes(experiment.seeds), experiment.mode_names
    shown = range(len(modes)) if len(modes) > 1 else ()
    success = experiment.success if any(rate is not None for rate in experiment.success) else ()
    header = ["stage", "all tasks", *(["success"] if success else [])]
    header += [names.get(modes[group], f"mode {modes[group]}") for group in shown]
    stages = experiment.seeds[0].returns.shape[1]
    rows = []
    for stage in range(means.shape[1]):
        name = stage_name(stage, stages, experiment.by_episode) if stage < stages else "whole trial"
        cells = [_with_interval(means[group, stage], intervals[:, group, stage]) for group in (-1, *shown)]
        rates = [percentage(success[stage] if stage < stages else None)] if success else []
        rows.append([name, cells[0], *rates, *cells[1:]])
    caption = f"<b>{escape(experiment.label)}</b><br>{escape(_source(experiment))}"
    return _table(Markup(caption), header, rows)


def _success(experiment: Experiment) -> str:
    """The share of episodes with success in each of several modes: stages down, modes across."""
    by_mode = experiment.mode_success
    if len(by_mode) < 2 or all(rate is None for rates in by_mode.values() for rate in rates):
        return ""
    header = ["stage", *(experiment.mode_names.get(mode, f"mode {mode}") for mode in by_mode)]
    stages = [*zip(*by_mode.values(), strict=True)]
    rows = [
        [stage_name(stage, len(stages), experiment.by_episode), *map(percentage, rates)]
        for stage, rates in enumerate(stages)
    ]
    return _table(Markup(f"<b>{escape(experiment.label)}</b><br>success"), header, rows)


def _source(experiment: Experiment) -> str:
    """Where the numbers come from."""
    seeds = counted(len(experiment.runs), "seed")
    if not experiment.evaluated:
        return f"{seeds}; training tasks, the last {LAST_ITERATIONS} iterations of progress.csv"
    numbers = sorted({len(seed.modes) for seed in experiment.seeds})
    tasks = " or ".join(str(number) for number in numbers)
    evaluations = [run.evaluation for run in experiment.runs if run.evaluation is not None]
    iterations = sorted({str(one.iteration) for one in evaluations}, key=lambda text: (len(text), text))
    return (
        f"{seeds}; {tasks} {evaluations[0].split} tasks each, evaluation.json after iteration {', '.join(iterations)}"
    )


def _improvement(groups: Iterable[Sequence[Experiment]]) -> list[str]:
    """For each pair of experiments that may be compared, how often one is better."""
    tables = []
    for group in groups:
        alike: dict[tuple[str, ...], list[Experiment]] = {}
        for one in group:
            alike.setdefault((one.split, *map(str, all_modes(one.seeds))), []).append(one)
        for (split, *_), members in alike.items():
            if len(members) > 1:
                tables.append(_improvement_table(members, f"{split} tasks" if split else "training"))
    if not tables:
        return []
    text = (
        "How often a run of the row's experiment has a higher return, at its last stage, than a run of the column's, "
        "over all pairs of seeds and averaged over modes; 0.5 is no difference. Intervals by the same bootstrap, where "
        "both have two or more seeds."
    )
    return ["<h2>Probability of improvement</h2>", f'<p class="soft">{text}</p>', *tables]


def _improvement_table(members: Sequence[Experiment], tasks: str) -> str:
    found = [measured(one.seeds)[:, :-1, -1] for one in members]
    drawn = [resampled(one.seeds, key)[:, :, :-1, -1] for key, one in enumerate(members)]
    rows = []
    for ours, experiment in enumerate(members):
        cells: list[str] = []
        for theirs in range(len(members)):
            if ours == theirs:
                cells.append("")
                continue
            value = float(probability_of_improvement(found[ours], found[theirs]))
            interval = np.full(2, np.nan)
            if min(len(found[ours]), len(found[theirs])) > 1:
                interval = interval95(probability_of_improvement(drawn[ours], drawn[theirs]))
            cells.append(_with_interval(value, interval))
        rows.append([experiment.label, *cells])
    caption = Markup(f"<b>{escape(members[0].env)}</b>, {tasks}")
    return _table(caption, ["better than →", *(one.label for one in members)], rows)


def _differences(experiments: Sequence[Experiment]) -> str:
    """The keys whose values are not the same in all runs."""
    runs = [run for experiment in experiments for run in experiment.runs]
    keys = differing_keys(runs)
    if not keys:
        return "<p>The configurations differ in nothing but their seeds.</p>"
    rows = [[Markup(f"<code>{escape(key)}</code>"), *(_values(one.runs, key) for one in experiments)] for key in keys]
    caption = "Keys whose values are not the same in all runs, beside seeds and paths; – where a key has no effect."
    return _table(caption, ["key", *(one.label for one in experiments)], rows, "text")


def _values(runs: Sequence[ReportRun], key: str) -> str:
    shown = (json.dumps(run.config[key], ensure_ascii=False) if key in run.config else UNKNOWN for run in runs)
    return ", ".join(dict.fromkeys(shown))


def _runs(experiments: Sequence[Experiment]) -> str:
    """Every run, and what it took."""
    rows = [
        [
            Markup(f"<code>{escape(run.path)}</code>"),
            experiment.label,
            str(run.config.get("seed", UNKNOWN)),
            f"{run.iterations:,}",
            f"{run.curve.env_steps[-1]:,.0f}",
            UNKNOWN if run.ranks is None else str(run.ranks),
            duration(run.seconds),
            duration(run.cpu_seconds),
        ]
        for experiment in experiments
        for run in experiment.runs
    ]
    header = ["run", "experiment", "seed", "iterations", "env steps", "ranks", "wall time", "CPU time"]
    caption = (
        "Times are h:mm:ss, of training; CPU time is that of all ranks together, – where the log does not have it."
    )
    return _table(caption, header, rows)


def _versions(runs: Sequence[ReportRun]) -> str:
    """Packages and commit of every set of runs that share them."""
    sets: dict[Any, list[ReportRun]] = {}
    for run in runs:
        sets.setdefault((run.versions, run.commit), []).append(run)
    rows = []
    for (versions, commit), members in sets.items():
        which = "all" if len(sets) == 1 else ", ".join(run.path for run in members)
        rows.append([which, Markup(f"<code>{escape(commit)}</code>"), ", ".join(map(" ".join, versions)) or UNKNOWN])
    return _table("As recorded in params.json when the runs began.", ["runs", "git commit", "packages"], rows, "text")


# Pieces.


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table whose first row and column are headers."""
    top = "".join(f'<th scope="col">{_html(text)}</th>' for text in header)
    lines = "\n".join(
        f'<tr><th scope="row">{_html(first)}</th>{"".join(f"<td>{_html(text)}</td>" for text in cells)}</tr>'
        for first, *cells in rows
    )
    attribute = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll"><table{attribute}>\n<caption>{_html(caption)}</caption>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def _html(text: str) -> str:
    return text if isinstance(text, Markup) else escape(text)


def _with_interval(value: float, interval: np.ndarray) -> str:
    if math.isnan(value):
        return UNKNOWN
    if np.isnan(interval).any():
        return f"{value:,.2f}"
    low, high = interval
    return Markup(f'{value:,.2f} <span class="interval">[{low:,.2f}, {high:,.2f}]</span>')


def _swatch(index: int) -> str:
    """A patch in the colour of the experiment's curve, and the curve's mark."""
    colour, _, mark = style_of(index)
    return f'<span class="swatch" style="background:{colour}"></span>{mark and mark + " "}'
