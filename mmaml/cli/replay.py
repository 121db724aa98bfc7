"""`mmaml replay`: repeat the iteration whose numbers went bad and ended a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmaml.cli.script import Parser, one_line_errors
from mmaml.paths import located

DESCRIPTION = """\
Repeat the iteration whose NaN or infinite numbers ended a run, and say what was wrong in it.

Prints each number that is NaN or infinite, by task and tensor, and the largest of the others. Exit code 0: the
iteration met such numbers again; 1: this time all were finite.
"""
EXAMPLES = """\
example:
  mmaml replay data/run1/bad_update_000123.pt
"""


def parse(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError."""
    parser = Parser(prog, description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("path", metavar="FILE", help="bad_update_*.pt in a run's directory")
    arguments = parser.parse_args(argv)
    arguments.path = Path(located(arguments.path, "FILE"))
    return arguments


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Repeat the iteration in this process, and print what was found. The exit code."""
    path = parse(argv, prog).path
    from mmaml.evaluation.bad_update import (  # loads torch: after the arguments are known to be good
        load_dump,
        repeat_update,
    )
    from mmaml.evaluation.held_out import in_a_line
    from mmaml.storage.bad_update_file import FINDING

    config, state = load_dump(path)
    with in_a_line("FILE"):
        report = repeat_update(path, config, state)
    print(f"iteration {state['iteration']} of {config.algorithm} on {config.env}; the run met\n  {state[FINDING]}")
    if report.stored:
        print("repeated on the stored rollouts, since the environment did not do the same again,")
    print("\n  ".join(["it meets" if report.findings else "all is finite this time", *report.findings]))
    print("\n".join(["", *report.largest]))
    return 0 if report.findings else 1
