"""`mmaml check-env`: everything that is wrong with an environment, before anything runs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from mmaml.cli.arguments import check_integers, whole_number
from mmaml.cli.script import Parser, one_line_errors
from mmaml.config.value_types import MAX_INTEGER
from mmaml.errors import UsageError
from mmaml.wording import counted

if TYPE_CHECKING:
    from mmaml.envs.check.examination import Report

DESCRIPTION = """\
Examine an environment before anything runs, and list everything that is wrong with it. ENV is "package.module:Class",
of a gymnasium.Env with sample_tasks and set_task or of a TaskVectorEnv, or the name of a task family. An error is what
training refuses, or what makes its results wrong; a warning, what it accepts but few intend. Exit code 2 if there are
errors, 0 if there are none.
"""
RANGES = {"steps": (1, 100_000), "tasks": (1, 1000), "seed": (0, MAX_INTEGER)}


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = "mmaml check-env") -> int:
    """Print what is found, and what was seen. The exit code."""
    arguments = _parse(argv, prog)

    from mmaml.envs.check.examination import examine

    report = examine(
        arguments.env,
        _env_kwargs(arguments.env_kwargs),
        steps=arguments.steps,
        tasks=arguments.tasks,
        seed=arguments.seed,
    )
    print(arguments.env)
    print(text_of(report, arguments.verbose))
    return 0 if report.passed else 2


def _parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(prog, description=DESCRIPTION)
    parser.add_argument("env", metavar="ENV", help="package.module:Class, or the name of a family")
    parser.add_argument("--env_kwargs", metavar="JSON", default="{}", help="arguments of the class, as in a config")
    parser.add_argument(
        "--steps", type=whole_number, metavar="N", default=100, help="that a task is played (default: 100)"
    )
    parser.add_argument(
        "--tasks", type=whole_number, metavar="N", default=4, help="that are drawn and played (default: 4)"
    )
    parser.add_argument(
        "--seed", type=whole_number, metavar="N", default=0, help="of tasks, episodes and actions (default: 0)"
    )
    parser.add_argument("--verbose", action="store_true", help="add the tracebacks of what the environment raised")
    arguments = parser.parse_args(argv)
    check_integers(arguments, RANGES)
    return arguments


def _env_kwargs(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("--env_kwargs", f"is not valid JSON ({error})", "quote it for the shell") from error
    if not isinstance(value, dict):
        raise UsageError("--env_kwargs", expected='a JSON object {"argument": value, …}', got=f"'{text}'")
    return value


def text_of(report: Report, verbose: bool = False) -> str:
    """The facts, a line for each finding, and how many there are. verbose: tracebacks after their findings."""
    width = max(map(len, report.facts), default=0)
    lines = [f"  {fact:{width}}  {text}" for fact, text in report.facts.items()]
    for finding in report.findings:
        lines.append(f"{finding.level}: {finding}")
        if verbose and finding.trace:
            lines += [f"    {line}" for line in finding.trace.splitlines()]
    return "\n".join([*lines, _verdict(report)])


def _verdict(report: Report) -> str:
    levels = [finding.level for finding in report.findings]
    counts = [counted(levels.count(level), level) for level in ("error", "warning") if level in levels]
    return ("passed" if report.passed else "failed") + (f": {', '.join(counts)}" if counts else "")
