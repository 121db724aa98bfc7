"""`mmaml plot`: the learning curves of runs, and trajectories."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmaml.cli.arguments import check_integers, check_text, whole_number
from mmaml.cli.options import add_output_folder, labelled, labelled_run, output_folder
from mmaml.cli.script import Parser, one_line_errors
from mmaml.config.value_types import MAX_INTEGER, MAX_NUMBER
from mmaml.errors import UsageError
from mmaml.paths import located
from mmaml.storage.files import writing
from mmaml.storage.writable import check_folder, check_path
from mmaml.written_paths import as_written

if TYPE_CHECKING:
    from mmaml.figures.curves import Curve

DESCRIPTION = """\
Draw the learning curves of runs and, of point masses, grids, bandits and chains, how the policy learns a task.

Runs that differ only in their seed become one line, their mean, with a band of one standard deviation.
Writes learning_curves.png into the first run's directory and trajectories.png into every run's, or all of
them into the directory of --output.
"""
EXAMPLES = """\
examples:
  mmaml plot data/run1 data/run2
  mmaml plot "tuned=data/run1" --overlay "published=published.csv" --output figures
"""
MAX_ROLLOUTS = 1000  # in a panel, where more cannot be distinguished


def parse(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError."""
    parser = Parser(prog, description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run, or LABEL=directory")
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="LABEL=FILE",
        help="a CSV file with columns n_timesteps or Itr, and Step_k-AverageReturn or Step_k; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--env_steps_per_iteration", type=float, metavar="N",
        help="of overlays that count iterations only (default: that of the first run)",
    )  # fmt: skip
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="LABEL=RETURN",
        help="a horizontal line; may be repeated",
    )
    parser.add_argument("--smooth", type=whole_number, default=1, metavar="N", help="moving average over N iterations")
    parser.add_argument("--limits", type=float, nargs=2, metavar=("LOW", "HIGH"), help="range of returns shown")
    parser.add_argument("--title", help="of the learning curves (default: the environment)")
    add_output_folder(parser)
    parser.add_argument("--no_trajectories", action="store_true", help="learning curves only")
    parser.add_argument(
        "--rollouts_per_task", type=whole_number, default=20, metavar="N", help="trajectories drawn in a panel"
    )
    arguments = parser.parse_args(argv)
    check_integers(arguments, {"smooth": (1, MAX_INTEGER), "rollouts_per_task": (1, MAX_ROLLOUTS)})
    if arguments.env_steps_per_iteration is not None and not 0 < arguments.env_steps_per_iteration <= MAX_NUMBER:
        got = str(arguments.env_steps_per_iteration)
        raise UsageError("--env_steps_per_iteration", expected="a number > 0", got=got)
    low, high = arguments.limits or (0, 1)
    if not -MAX_NUMBER <= low < high <= MAX_NUMBER:
        raise UsageError("--limits", expected="two numbers, LOW < HIGH", got=f"{low} {high}")
    if arguments.title is not None:
        check_text("--title", arguments.title)
    arguments.output = output_folder(arguments)
    return arguments


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Write the figures and print their paths. The exit code."""
    arguments = parse(argv, prog)
    runs = [labelled_run(text) for text in arguments.runs]
    for curve in draw_curves(arguments, runs):
        if curve.unread:
            print(f"notice: {curve.label}: unreadable rows left out: {curve.unread}", file=sys.stderr)
    if not arguments.no_trajectories:
        draw_all_trajectories(arguments, [run for _, run in runs])
    return 0


def draw_all_trajectories(arguments: argparse.Namespace, runs: list[Path]) -> None:
    """Write the trajectories of every run that has some."""
    from mmaml.figures.run_figures import TRAJECTORIES, draw_trajectories

    names = [run.resolve().name for run in runs]
    if len({*names}) < len(names):  # all are numbered: "run_2" may be the name of another
        names = [f"{name}_{number}" for number, name in enumerate(names, 1)]
    for run, name in zip(runs, names, strict=True):
        file = f"trajectories_{name}.png" if arguments.output and len(runs) > 1 else TRAJECTORIES
        folder = arguments.output or run
        check_folder("--output", folder)
        with writing("--output", folder):
            draw_trajectories(run, folder / file, arguments.rollouts_per_task)


def draw_curves(arguments: argparse.Namespace, runs: list[tuple[str, Path]]) -> list[Curve]:
    """Write the learning curves; returns them."""
    from mmaml.figures import curves
    from mmaml.figures.run_figures import CURVES

    read = [curves.read_run(path, label) for label, path in runs]
    first = read[0][1].env_steps
    per_iteration = arguments.env_steps_per_iteration or float(first[-1] / len(first))
    kept, repeats = curves.without_repeats(read)
    for repeat, longest in repeats:
        seed, (same, other) = read[longest][0]["seed"], (as_written(runs[index][1]) for index in (repeat, longest))
        print(f"notice: {same} repeats seed {seed} of {other}, and is left out", file=sys.stderr)
    drawn = curves.group_runs([read[index] for index in kept])
    for text in arguments.overlay:
        label, file = labelled("--overlay", text)
        check_text("--overlay", label)
        check_path("--overlay", file)
        drawn.append(curves.read_external(label, Path(located(file, "--overlay")), per_iteration))
    references = []
    for text in arguments.reference:
        label, value = labelled("--reference", text)
        check_text("--reference", label)
        references.append((label, _number("--reference", value)))
    title = arguments.title
    if title is None:
        title = ", ".join(dict.fromkeys(str(config.get("env")) for config, _ in read))
    folder = arguments.output or runs[0][1]
    check_folder("--output", folder)
    path = folder / CURVES
    with writing("--output", path):
        curves.plot_curves(
            drawn, path, title=title, smooth=arguments.smooth, references=references, limits=arguments.limits
        )
    print(as_written(path))
    return drawn


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= MAX_NUMBER:
        raise UsageError(name, expected="LABEL=NUMBER", got=f"'{text}' after the =")
    return number
