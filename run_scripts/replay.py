"""Repeat the iteration whose numbers went bad and ended a run, and tell what was wrong in it.

    python run_scripts/replay.py data/run1/bad_update_000123.pt

Prints each number that is not finite, by task and tensor, and the largest of those that are. Exit code 0: the
iteration met such numbers again; 1: this time all were finite.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.cli.script import Parser, one_line_errors


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Replay in this process, and print."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="PATH", help="a file bad_update_*.pt in a run's directory")
    path = parser.parse_args(argv).path
    from mmaml.evaluation.bad_update import load_dump, replay  # loads torch: after the arguments are known to be good
    from mmaml.evaluation.held_out import in_a_line
    from mmaml.storage.bad_update_file import FINDING

    config, state = load_dump(path)
    with in_a_line():
        report = replay(path, config, state)
    print(f"iteration {state['iteration']} of {config.algorithm} on {config.env}; the run met\n  {state[FINDING]}")
    if report.stored:
        print("repeated on the stored rollouts, since the environment did not do the same again,")
    print("\n  ".join(["it meets" if report.findings else "all is finite this time", *report.findings]))
    print("\n".join(["", *report.largest]))
    return 0 if report.findings else 1


if __name__ == "__main__":
    sys.exit(main())
