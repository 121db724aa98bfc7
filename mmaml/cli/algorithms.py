"""`mmaml algorithms`: what can be trained, as the algorithms' own files say, read without importing torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

from mmaml.cli.script import Parser, one_line_errors
from mmaml.cli.table import table
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.declaration_file import declaration_of
from mmaml.config.value_types import shown
from mmaml.errors import UsageError
from mmaml.wording import did_you_mean

DESCRIPTION = """\
List the algorithms: the name that a configuration's key "algorithm" takes, what it is, its paper, its page. With a
NAME, or "package.module:ClassName" of your own: the keys of the configuration that it adds.
"""
MAX_MEANING = 60  # characters of a key's meaning in a row; the documentation has all of it


class Summary(NamedTuple):
    """The first line of an algorithm's file, "what (paper)."; page: its documentation, "" for a user's own."""

    what: str
    paper: str
    page: str


def summary(name: str) -> Summary:
    """What the file of an algorithm says of it. name: as a configuration names it, and of an algorithm that exists."""
    spec = importlib.util.find_spec(ALGORITHMS.get(name, name).partition(":")[0])
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    found = re.match(r"(.*?) \(([^()]+ \d{4}[^()]*)\)", line)
    what, paper = found.groups() if found else (line, "")
    return Summary(what, paper, f"docs/algorithms/{name}.md" if name in ALGORITHMS else "")


def listing() -> str:
    """Two lines for each algorithm."""
    width = max(map(len, ALGORITHMS))
    lines = []
    for name in ALGORITHMS:
        what, *reading = summary(name)
        lines += [f"{name:{width}}  {what}", f"{'':{width}}  {' · '.join(filter(None, reading))}"]
    hint = '`mmaml algorithms NAME` shows its keys; "package.module:ClassName" names one of your own.'
    return "\n".join([*lines, "", hint])


def details(name: str) -> str:
    """What an algorithm is, and its own keys. Raises UsageError if there is none of that name."""
    if name not in ALGORITHMS and ":" not in name:
        hint = did_you_mean(name, ALGORITHMS, "`mmaml algorithms` lists them")
        raise UsageError("NAME", expected="an algorithm or package.module:ClassName", got=f"'{name}'", remedy=hint)
    keys = declaration_of(name).keys
    what, *reading = summary(name)
    rows = [("key", "value", "default", "meaning")]
    rows += [(key, one.kind.expected, shown(one.default), _shortened(one.text)) for key, one in keys.items()]
    below = table(rows) if keys else "It has no keys of its own."
    return "\n".join([what, *filter(None, reading), "", below])


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_MEANING else f"{text[: MAX_MEANING - 1]}…"


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Print the list, or one algorithm. The exit code."""
    parser = Parser(prog, description=DESCRIPTION)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of an algorithm, or package.module:ClassName")
    name = parser.parse_args(argv).name
    print(listing() if name is None else details(name))
    return 0
