"""`mmaml evaluate`: what a trained run is worth on held-out tasks."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import Any

from mmaml.cli.arguments import whole_number
from mmaml.cli.options import adapted, output_argument, parse_run, run_parser
from mmaml.cli.script import one_line_errors
from mmaml.config.value_types import MAX_INTEGER
from mmaml.errors import UsageError
from mmaml.launcher.protocol import ended
from mmaml.storage.files import writing
from mmaml.storage.writable import check_file
from mmaml.wording import counted
from mmaml.written_paths import as_written

DESCRIPTION = """\
Measure a trained run on held-out tasks: the return before and after each adaptation step, per mode and overall.

Prints a table, and writes it with every task's returns as JSON into the run's directory.
"""
EXAMPLES = """\
examples:
  mmaml evaluate data/run1
  mmaml evaluate data/run1 --num_adapt_steps 3 --inner_lr 0.1 0.05
  mmaml evaluate data/run1 --split train
  mpirun -n 4 mmaml evaluate data/run1 --num_tasks 400
"""
# An earlier evaluation is recognised by a key that no other file has, near its start.
MARK, MAX_START = b'"num_adapt_steps"', 20_000
SIZES = ("--num_tasks", "--rollouts_per_task", "max_path_length", "--num_adapt_steps")


def parse(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError."""
    parser = run_parser(prog, DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--num_tasks", type=whole_number, default=100, metavar="M", help="held-out tasks (default: 100)"
    )
    parser.add_argument("--output", metavar="FILE", help="default: evaluation.json in the run's directory")
    arguments = parse_run(parser, argv, {"num_tasks": (1, MAX_INTEGER)})
    arguments.output = output_argument(arguments)
    if arguments.output is not None:
        check_output(arguments.output)
    return arguments


def check_output(path: Path) -> None:
    """Raise UsageError unless `path` can be written and is new, or an earlier evaluation, which is replaced."""
    check_file("--output", path)
    with writing("--output", path):
        start = path.read_bytes()[:MAX_START] if path.exists() else MARK
    if MARK not in start:
        raise UsageError("--output", f"'{path}' exists and is not an earlier evaluation", "choose another file")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Evaluate on all ranks; rank 0 reports. The exit code."""
    return ended(_main(argv, prog))


@one_line_errors
def _main(argv: list[str] | None, prog: str | None) -> int:
    arguments = parse(argv, prog)
    from mmaml.config.keys import Config
    from mmaml.evaluation.held_out import check_memory, check_split, evaluate, in_a_line, restore
    from mmaml.parallel.launch import check_launcher
    from mmaml.parallel.ranks import connect  # these load torch: after the arguments are known to be good
    from mmaml.storage.layout import EVALUATION, STAGES, run_directory
    from mmaml.worker import Worker

    ranks = connect()
    check_launcher(ranks.size)
    with in_a_line(), ranks:  # which ends every rank if one fails

        def prepare() -> tuple[Config, dict[str, Any], int, Path]:
            config, state = restore(arguments.restore_path)
            check_split(config, arguments.split)
            config, steps = adapted(config, arguments)
            check_memory(config, arguments.num_tasks, steps, SIZES)
            output = arguments.output or run_directory(arguments.restore_path) / EVALUATION
            check_output(output)
            return config, state, steps, output

        config, state, steps, output = ranks.agree(prepare)
        ranks.set_timeout(config.rank_timeout, remedy="evaluate again")
        ranks.meet()
        with closing(Worker(config)) as worker:
            if not ranks.serve(worker):
                return 0
            by_episode = worker.algorithm.credit == "trial"
            summary = evaluate(ranks, worker, state, arguments.num_tasks, steps, arguments.split)
    about = {
        "algorithm": config.algorithm,
        "env": config.env,
        "iteration": state["iteration"],
        "env_steps": state["env_steps"],
        "restore_path": str(arguments.restore_path),
        "split": arguments.split,
        "seed": config.seed,
        "rollouts_per_task": config.rollouts_per_meta_task,
        "max_path_length": config.max_path_length,
        "num_adapt_steps": steps,
        "inner_lr": config.inner_lr,
        "stage": STAGES[by_episode],
    }
    report(about, summary, by_episode, output)
    return 0


def report(about: dict[str, Any], summary: dict[str, Any], by_episode: bool, output: Path) -> None:
    """Write the JSON file and print the table."""
    from mmaml.evaluation.summary import table
    from mmaml.storage.files import atomic_file

    when = "in each episode of a trial" if by_episode else "before and after each adaptation step"
    if not by_episode and len(summary["overall"]["return"]) == 1:
        when = "without adaptation"
    with writing("--output", output):  # before anything is printed: the reader of a pipe may be gone
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as file:
            file.write((json.dumps({**about, **summary}, indent=2) + "\n").encode())
    print(
        f"{about['algorithm']} on {about['env']} after {counted(about['iteration'], 'iteration')}, "
        f"{about['env_steps']:,} env steps\n"
        f"return per episode {when}, over {about['split']} tasks\n"
        f"{counted(about['rollouts_per_task'], 'rollout')} a collection, "
        f"episodes of at most {counted(about['max_path_length'], 'step')}\n\n"
        f"{table(summary, by_episode)}\n\n{as_written(output)}"
    )
