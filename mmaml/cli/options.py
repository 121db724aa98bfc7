"""Flags and arguments that several commands have."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmaml.cli.arguments import check_integers, check_text, whole_number
from mmaml.cli.script import Parser
from mmaml.config.value_types import MAX_INTEGER, MAX_NUMBER, MAX_STEPS
from mmaml.errors import UsageError
from mmaml.paths import located
from mmaml.storage.writable import check_folder, check_path

if TYPE_CHECKING:
    from mmaml.config.keys import Config

SPLITS = ("test", "ood", "train")
_PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".gif", ".mp4")
# Of the flags that `run_parser` adds: name -> smallest and largest value.
ADAPTATION_RANGES = {
    "num_adapt_steps": (0, MAX_STEPS),
    "rollouts_per_task": (1, MAX_INTEGER),
    "seed": (0, MAX_INTEGER),
}


def run_parser(prog: str | None, description: str, epilog: str) -> Parser:
    """The parser of a command that adapts the policy of a run to held-out tasks; `parse_run` parses by it.

    RUN may also be given as --restore_path RUN.
    """
    parser = Parser(prog, usage="%(prog)s RUN [options]", description=description, epilog=epilog)
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a run's directory, for its newest checkpoint, or a checkpoint"
    )
    parser.add_argument("--restore_path", metavar="RUN", help="another way to give RUN")
    _add_adaptation(parser)
    return parser


def parse_run(parser: Parser, argv: list[str] | None, ranges: Mapping[str, tuple[int, int]]) -> argparse.Namespace:
    """The arguments, with the absolute path of the run or checkpoint that is named as `restore_path`.

    ranges: of the command's own flags, as `check_integers` takes them. Raises UsageError.
    """
    arguments = parser.parse_args(argv)
    expected = "a run's directory"
    given = one_of_two("RUN", arguments.run, "--restore_path", arguments.restore_path, expected)
    arguments.restore_path = located(given, "RUN")
    check_integers(arguments, {**ADAPTATION_RANGES, **ranges})
    return arguments


def one_of_two(name: str, positional: str | None, flag: str, by_flag: str | None, expected: str) -> str:
    """What is given either as an argument or by a flag. Raises UsageError if it is missing, or given by both."""
    if positional is not None and by_flag is not None:
        raise UsageError(flag, f"is another way to give {name}, which is given too", "keep one of them")
    given = by_flag if positional is None else positional
    if given is None:
        raise UsageError(name, expected=expected, got="nothing", remedy="--help lists the arguments")
    return given


def _add_adaptation(parser: argparse.ArgumentParser) -> None:
    """How a trained policy is adapted to held-out tasks: steps, rollouts, step sizes, tasks, seed."""
    parser.add_argument(
        "--num_adapt_steps",
        type=whole_number,
        metavar="K",
        help="inner steps, or later episodes of a trial where the policy has a memory (default: as in training)",
    )
    parser.add_argument(
        "--rollouts_per_task", type=whole_number, metavar="N", help="per collection (default: as in training)"
    )
    parser.add_argument(
        "--inner_lr",
        type=_rate,
        nargs="+",
        metavar="R",
        help="step size of the first, the second, … inner step; the last one holds for all later steps (default: as in "
        "training). Where step sizes are learned, only their ratios to the first count",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="which tasks: held out, out of the distribution, or drawn like those of training (default: test)",
    )
    parser.add_argument("--seed", type=whole_number, help="of tasks and randomness (default: the run's)")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"expected a number > 0 and ≤ {MAX_NUMBER:g}, got '{text}'")
    return rate


def adapted(config: Config, arguments: argparse.Namespace) -> tuple[Config, int]:
    """A run's configuration with what the flags of `run_parser` change; how many inner steps, or later episodes."""
    if arguments.inner_lr is not None and config.declaration.is_idle("inner_lr"):
        raise UsageError("--inner_lr", f'has no effect on a run of algorithm "{config.algorithm}"', "leave it out")
    steps = config.stages - 1 if arguments.num_adapt_steps is None else arguments.num_adapt_steps
    if steps and not config.declaration.adapts:
        expected = f'0 with algorithm "{config.algorithm}", which does not adapt to a task'
        raise UsageError("--num_adapt_steps", expected=expected, got=str(steps))
    config = config.replace(
        seed=config.seed if arguments.seed is None else arguments.seed,
        rollouts_per_meta_task=arguments.rollouts_per_task or config.rollouts_per_meta_task,
        inner_lr=config.inner_lr if arguments.inner_lr is None else tuple(arguments.inner_lr),
    )
    return config, steps


def add_output_folder(parser: argparse.ArgumentParser) -> None:
    """The flag --output of a command that writes several files; `output_folder` reads it."""
    parser.add_argument("--output", metavar="DIRECTORY", help="where to write (default: the run's own)")


def output_folder(arguments: argparse.Namespace) -> Path | None:
    """As `output_argument`. Raises UsageError for a picture's name, and a directory that cannot be written, too."""
    folder = output_argument(arguments)
    if folder is not None:
        if folder.suffix.lower() in _PICTURES and not folder.is_dir():
            expected, remedy = "a directory", f"leave '{folder.suffix}' out; each file in it has a name of its own"
            raise UsageError("--output", expected=expected, got=f"'{arguments.output}'", remedy=remedy)
        check_folder("--output", folder)
    return folder


def output_argument(arguments: argparse.Namespace) -> Path | None:
    """The absolute path that --output names, None if it is not given. Raises UsageError."""
    return None if arguments.output is None else Path(located(arguments.output, "--output"))


def labelled(name: str, text: str) -> tuple[str, str]:
    """LABEL=VALUE -> (label, value). Raises UsageError, which names the argument."""
    label, separator, value = text.partition("=")
    if not (label and separator and value):
        raise UsageError(name, expected="LABEL=VALUE", got=f"'{text}'")
    return label, value


def labelled_run(text: str) -> tuple[str, Path]:
    """A run's label, empty unless given, and directory, from RUN or LABEL=RUN. Raises UsageError."""
    if "=" in text and not os.path.lexists(text):
        label, path = labelled("RUN", text)
        check_text("RUN", label)
    else:
        label, path = "", text
    check_path("RUN", path)
    return label, Path(located(path, "RUN"))
