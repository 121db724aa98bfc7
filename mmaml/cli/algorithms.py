"""`mmaml algorithms`: what can be trained, as the algorithms' own files say, read without importing torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

from mmaml.cli.script import Parser, one_line_errors
from mmaml.config.algorithms import ALGORITHMS

DESCRIPTION = """\
List the algorithms: the name that a configuration's key "algorithm" takes, what it is, its paper, its page.
"""


class Summary(NamedTuple):
    """The first line of an algorithm's file: "what (paper)."; page: its documentation."""

    what: str
    paper: str
    page: str


def summary(name: str) -> Summary:
    """What the file of a registered algorithm says of it."""
    spec = importlib.util.find_spec(ALGORITHMS[name].partition(":")[0])
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    found = re.match(r"(.*?) \(([^()]+ \d{4}[^()]*)\)", line)
    what, paper = found.groups() if found else (line, "")
    return Summary(what, paper, f"docs/algorithms/{name}.md")


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Print the list. The exit code."""
    parser = Parser(prog, description=DESCRIPTION)
    parser.parse_args(argv)
    width = max(map(len, ALGORITHMS))
    for name in ALGORITHMS:
        what, *reading = summary(name)
        print(f"{name:{width}}  {what}\n{'':{width}}  {' · '.join(filter(None, reading))}")
    print('\n`mmaml train CONFIG --algorithm NAME` trains one; "package.module:ClassName" names one of your own.')
    return 0
