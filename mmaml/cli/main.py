"""The command `mmaml`: one door to all that the toolkit does."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NamedTuple

from mmaml import __version__
from mmaml.cli.script import Parser, one_line_errors
from mmaml.errors import UsageError
from mmaml.wording import did_you_mean


class Command(NamedTuple):
    """A sub-command. module: holds `main(argv, prog)`, and is imported when it runs; usage, text: for --help."""

    module: str
    usage: str
    text: str


LISTS = {
    "algorithms": Command(
        "mmaml.cli.algorithms", "algorithms [NAME]", "the algorithms with their papers, or the keys of one"
    ),
    "envs": Command("mmaml.cli.envs", "envs [NAME]", "the task families, or all about one of them"),
    "configs": Command("mmaml.cli.configs", "configs [NAME]", "the configurations that come with the package, or one"),
}
WORK = {
    "check-env": Command("mmaml.cli.check_env", "check-env ENV", "examine an environment before anything runs"),
    "train": Command("mmaml.cli.train", "train CONFIG", "meta-train a policy, on all cores"),
    "sweep": Command("mmaml.cli.sweep", "sweep CONFIG", "train over seeds and values of keys, runs side by side"),
    "evaluate": Command("mmaml.cli.evaluate", "evaluate RUN", "measure it on tasks that training never saw"),
    "plot": Command("mmaml.cli.plot", "plot RUN…", "draw learning curves and trajectories"),
    "report": Command("mmaml.cli.report", "report RUN…", "write one HTML page about many runs"),
    "visualize": Command("mmaml.cli.visualize", "visualize RUN", "show the policy moving, as GIF and MP4"),
    "replay": Command("mmaml.cli.replay", "replay FILE", "repeat an update whose numbers ended a run"),
}
COMMANDS = LISTS | WORK

DESCRIPTION = """\
Meta-reinforcement learning: train a policy on many tasks, so that a few episodes of a new task are enough to adapt.
"""
EXAMPLES = """\
for example:
  mmaml train navigation_2d_maml --dump_path runs/first
  mmaml evaluate runs/first
  mmaml plot runs/first

mmaml COMMAND --help explains a command. The flag --version prints the version.
"""


def main(argv: list[str] | None = None) -> int:
    """Do what the words of the command line say, by default those of the process. The exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        command = importlib.import_module(COMMANDS[words[0]].module)
        return command.main(words[1:], prog=f"mmaml {words[0]}")
    return _without_command(words)


@one_line_errors
def _without_command(words: list[str]) -> int:
    """Print help or the version. Raises UsageError for anything else."""
    parser = Parser(
        "mmaml",
        usage="mmaml COMMAND …",
        description=DESCRIPTION,
        epilog=f"{_listed('what there is', LISTS)}\n{_listed('what to do with it', WORK)}\n{EXAMPLES}",
        add_help=False,
    )
    parser.add_argument("--help", "-h", action="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"mmaml {__version__}", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    words = words[:1] if words and not words[0].startswith("-") else words  # what follows is meant for the command
    command = parser.parse_args(words).command
    if command is not None:
        hint = did_you_mean(command, COMMANDS, "`mmaml --help` explains them")
        raise UsageError("COMMAND", expected=f"one of {', '.join(COMMANDS)}", got=f"'{command}'", remedy=hint)
    parser.print_help()
    return 0


def _listed(title: str, commands: dict[str, Command]) -> str:
    return "".join([f"{title}:\n", *(f"  {usage:18}{text}\n" for _, usage, text in commands.values())])
