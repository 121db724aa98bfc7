"""`mmaml configs`: the configurations that come with the package."""

from __future__ import annotations

import json

from mmaml.cli.script import Parser, one_line_errors
from mmaml.cli.table import table
from mmaml.config.keys import Config
from mmaml.config.loading import read_config_file
from mmaml.config.shipped import find_config, shipped_configs
from mmaml.written_paths import as_written

DESCRIPTION = """\
List the configurations that come with the package; `mmaml train NAME` uses one. With a NAME, or the path of a JSON
or YAML file: what it sets, with what it extends.
"""


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Print the list, or one configuration. The exit code."""
    parser = Parser(prog, description=DESCRIPTION)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a configuration, or the path of a file")
    name = parser.parse_args(argv).name
    if name is not None:
        path = find_config("NAME", name)
        print(as_written(json.dumps(read_config_file(path), indent=4)))
        return 0
    rows = [("name", "algorithm", "env", "iterations")]
    for name, path in shipped_configs().items():
        values = read_config_file(path)
        algorithm = values.get("algorithm", "any")
        rows.append((name, algorithm, values.get("env", Config.env), str(values.get("n_itr", Config.n_itr))))
    print(table(rows))
    print(
        '\n"any": it names no algorithm; `mmaml train NAME --algorithm …` chooses one, else the one in brackets trains.'
    )
    return 0
