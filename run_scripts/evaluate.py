"""Measure a trained run on held-out tasks: the return after 0 … K adaptation steps, per mode and overall.

    python run_scripts/evaluate.py --restore_path data/run1
    mpirun -n 4 python run_scripts/evaluate.py --restore_path data/run1 --num_tasks 400 --num_adapt_steps 5
    python run_scripts/evaluate.py --restore_path data/run1 --num_adapt_steps 3 --inner_lr 0.1 0.05

Prints a table and writes it, with every task's returns, as JSON into the run's directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.cli.arguments import check_file, check_integers
from mmaml.cli.script import Parser, add_inner_lr, one_line_errors
from mmaml.config.value_types import LARGEST_INTEGER, MOST_STEPS
from mmaml.errors import UsageError
from mmaml.launcher.protocol import ended
from mmaml.storage.files import writing

# How an evaluation's file is told from others: within what it starts with, a key that no other has.
EVALUATION, MOST_ABOUT = b'"num_adapt_steps"', 20_000
SIZES = ("--num_tasks", "--rollouts_per_task", "max_path_length", "--num_adapt_steps")
RANGES = {
    "num_tasks": (1, LARGEST_INTEGER),
    "rollouts_per_task": (1, LARGEST_INTEGER),
    "num_adapt_steps": (0, MOST_STEPS),
    "seed": (0, LARGEST_INTEGER),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; raises UsageError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--restore_path",
        required=True,
        metavar="RUN",
        help="a run's directory (its newest checkpoint) or a checkpoint",
    )
    parser.add_argument("--num_tasks", type=int, default=100, metavar="M", help="held-out tasks (default: 100)")
    parser.add_argument("--rollouts_per_task", type=int, metavar="N", help="per collection (default: as in training)")
    parser.add_argument("--num_adapt_steps", type=int, metavar="K", help="inner steps (default: as in training)")
    add_inner_lr(parser)
    parser.add_argument("--split", choices=("test", "ood"), default="test", help="which held-out tasks (default: test)")
    parser.add_argument("--seed", type=int, help="of tasks and randomness (default: the run's)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: evaluation.json in the run's directory")
    arguments = parser.parse_args(argv)
    check_integers(arguments, RANGES)
    if arguments.output is not None:
        check_output(arguments.output)
    return arguments


def check_output(path: Path) -> None:
    """Raise UsageError unless `path` can be written and is new, or an earlier evaluation, which is replaced."""
    check_file("--output", path)
    with writing("--output", path):
        start = path.read_bytes()[:MOST_ABOUT] if path.exists() else EVALUATION
    if EVALUATION not in start:
        raise UsageError(f"--output: expected a new file or an earlier evaluation, got '{path}', which is another")


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Evaluate on all ranks; rank 0 reports."""
    arguments = parse(argv)
    from mmaml.config.keys import Config
    from mmaml.evaluation.held_out import check_memory, check_split, evaluate, in_a_line, restore
    from mmaml.evaluation.summary import table
    from mmaml.parallel.launch import check_launcher
    from mmaml.parallel.ranks import connect  # these load torch: after the arguments are known to be good
    from mmaml.storage.layout import run_directory
    from mmaml.worker import Worker

    ranks = connect()
    check_launcher(ranks.size)
    with in_a_line(), ranks:  # which ends every rank if one fails

        def prepare() -> tuple[Config, dict[str, Any], int, Path]:
            config, state = restore(arguments.restore_path)
            check_split(config, arguments.split)
            config = config.replace(
                seed=config.seed if arguments.seed is None else arguments.seed,
                rollouts_per_meta_task=arguments.rollouts_per_task or config.rollouts_per_meta_task,
                inner_lr=config.inner_lr if arguments.inner_lr is None else tuple(arguments.inner_lr),
            )
            steps = config.num_inner_grad_steps if arguments.num_adapt_steps is None else arguments.num_adapt_steps
            check_memory(config, arguments.num_tasks, steps, SIZES)
            output = arguments.output or run_directory(arguments.restore_path) / "evaluation.json"
            check_output(output)
            return config, state, steps, output

        config, state, steps, output = ranks.agree(prepare)
        ranks.patience(config.rank_timeout, remedy="evaluate again")
        with closing(Worker(config)) as worker:
            if not ranks.serve(worker):
                return 0
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
    }
    report(about, summary, table(summary), output)
    return 0


def report(about: dict[str, Any], summary: dict[str, Any], text: str, output: Path) -> None:
    """Write the JSON file and print the table."""
    from mmaml.storage.files import atomic_file

    with writing("--output", output):  # first: what is printed may find no reader
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as file:
            file.write((json.dumps({**about, **summary}, indent=2) + "\n").encode())
    print(
        f"{about['algorithm']} on {about['env']} after {about['iteration']} iterations, "
        f"{about['env_steps']:,} env steps\n"
        f"return per episode on {about['split']} tasks before and after each adaptation step, over tasks;\n"
        f"rollouts a collection: {about['rollouts_per_task']}, steps at most: {about['max_path_length']}\n\n"
        f"{text}\n\n{output}"
    )


if __name__ == "__main__":
    sys.exit(ended(main()))
