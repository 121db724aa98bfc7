"""`mmaml report`: one page about many runs, as HTML or Markdown."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from mmaml import __version__
from mmaml.cli.arguments import check_integers, check_text, whole_number
from mmaml.cli.options import labelled_run, output_argument
from mmaml.cli.script import Parser, one_line_errors
from mmaml.config.value_types import MAX_INTEGER
from mmaml.errors import UsageError
from mmaml.paths import absolute
from mmaml.storage.files import atomic_file, writing
from mmaml.storage.writable import check_file
from mmaml.written_paths import as_written

DESCRIPTION = """\
Write one HTML page about runs: learning curves, returns with 95% intervals, how likely one is better than another, what
differs between their configurations, what they cost.

Runs that differ only in their seeds are one experiment. The returns are those of evaluation.json where all runs of an
experiment have one, else those at the end of training. The page needs no other file, no script and no network.

With an --output that ends in .md, only the returns and what a run costs, as tables in Markdown.
"""
EXAMPLES = """\
examples:
  mmaml report data/navigation_2d_maml_sweep
  mmaml report out/run1 out/run2 --output report.html --title "Two runs"
  mmaml report First=out/run1 Second=out/run2
  mmaml report out/sweep --output returns.md
"""
ENDINGS = (".html", ".htm", ".md")
MAX_START = 2000  # within which an earlier report says that it is one


def parse(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError."""
    parser = Parser(prog, description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run's or a sweep's directory, or LABEL=directory")
    add("--output", metavar="FILE", help="default: report.html; Markdown if it ends in .md")
    add("--title", help="of the page (default: the environments)")
    add("--smooth", type=whole_number, default=1, metavar="N", help="moving average of curves over N iterations")
    arguments = parser.parse_args(argv)
    check_integers(arguments, {"smooth": (1, MAX_INTEGER)})
    if arguments.title is not None:
        check_text("--title", arguments.title)
    arguments.output = output_argument(arguments) or Path(absolute("report.html"))
    if arguments.output.suffix.lower() not in ENDINGS:
        expected = f"a file that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise UsageError("--output", expected=expected, got=f"'{arguments.output}'")
    return arguments


def check_output(path: Path) -> None:
    """Raise UsageError unless `path` can be written and is new, or an earlier report, which is replaced."""
    from mmaml.report import markdown, page

    check_file("--output", path)
    marks = [written.GENERATOR.encode() for written in (page, markdown)]
    with writing("--output", path):
        if path.exists() and not any(mark in path.read_bytes()[:MAX_START] for mark in marks):
            raise UsageError("--output", f"'{path}' exists and is not an earlier report", "choose another file")


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Write the page and print its path. The exit code."""
    arguments = parse(argv, prog)
    runs = [labelled_run(text) for text in arguments.runs]
    from mmaml.report.gather import gather
    from mmaml.report.markdown import markdown
    from mmaml.report.page import page

    check_output(arguments.output)
    gathered = gather(runs)
    environments = dict.fromkeys(experiment.env for experiment in gathered.experiments)
    title = arguments.title or f"Runs on {', '.join(environments)}"
    written = f"on {datetime.date.today().isoformat()} by mmaml {__version__}"
    as_markdown = arguments.output.suffix.lower() == ".md"
    text = markdown(gathered, title, written) if as_markdown else page(gathered, title, written, arguments.smooth)
    with writing("--output", arguments.output):
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(arguments.output) as file:
            file.write(text.encode())
    for notice in gathered.notices:
        print(f"notice: {notice}", file=sys.stderr)
    print(as_written(arguments.output))
    return 0
