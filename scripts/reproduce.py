"""Repeat a table of docs/results: run the commands that stand beside it.

python scripts/reproduce.py                  # the tables, and how many commands each takes
python scripts/reproduce.py memory/gridnavi  # all commands of that section, or of a page: memory
python scripts/reproduce.py memory/gridnavi --print

`make reproduce TABLE=memory/gridnavi` does the same. Runs that are there already are continued, so that the same
command goes on after an interruption; those that the page gives no folder are in data/reproduced.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.cli.script import Parser, one_line_errors
from mmaml.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "results"
FOLDER = "data/reproduced"
TRAINS = re.compile(r"\bmmaml train (?P<config>\w*)|run_scripts/\S+_run\w*\.py")


def tables() -> dict[str, list[str]]:
    """The commands of each section that has some, by "page/section", and those of each page, by its name."""
    found: dict[str, list[str]] = {}
    for page in sorted(PAGES.glob("*.md")):
        for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            lines = _commands(section)
            if lines:
                title = section.splitlines()[0]
                found[f"{page.stem}/{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}"] = lines
                found.setdefault(page.stem, []).extend(lines)
    return found


def _commands(text: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [_continuing(line.strip()) for line in lines if line.strip() and not line.startswith("#")]


def _continuing(line: str) -> str:
    """The command that goes on with a run where there is one. A sweep does so by itself.

    A run without a folder gets one that depends on the command alone, so that the same command finds it again.
    """
    if not (found := TRAINS.search(line)):
        return line
    if "--dump_path" not in line:
        digest = hashlib.sha256(line.encode()).hexdigest()[:8]
        line = f"{line} --dump_path {FOLDER}/{found['config'] or 'run'}_{digest}"
    return f"{line} --resume"


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """The exit code: that of the first command that failed, 130 for Ctrl-C, 2 for a table that there is not."""
    parser = Parser("reproduce.py", description=__doc__)
    parser.add_argument("table", nargs="?", metavar="TABLE")
    parser.add_argument("--print", action="store_true", help="only print the commands")
    options = parser.parse_args(argv)
    known = tables()
    if not options.table:
        print("\n".join(f"{name:40} {len(lines)} commands" for name, lines in sorted(known.items())))
        return 0
    if options.table not in known:
        raise UsageError("TABLE", expected=f"one of {', '.join(sorted(known))}", got=f"'{options.table}'")
    if options.print:
        print("\n".join(f"$ {line}" for line in known[options.table]))
        return 0
    return run(known[options.table])


def run(lines: Sequence[str]) -> int:
    """Run commands one after the other, until one fails or Ctrl-C; the exit code.

    Ctrl-C reaches the command too, which writes a checkpoint and ends: it is waited for.
    """
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for line in lines:
        print(f"$ {line}", flush=True)
        command = ["bash", "-o", "pipefail", "-c", line]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": programs}).returncode
        if interrupts:
            print("stopped by SIGINT; the same command goes on", file=sys.stderr)
            return 128 + signal.SIGINT
        if code:
            print(f"error: exit code {code} from: {line}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
