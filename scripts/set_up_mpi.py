"""Make the Open MPI that pip installed ready for this project: run once by `make setup`, in the environment.

Replaces `mpirun` and `mpiexec` in the environment by a call of mpirun.py, beside this file, and writes Open
MPI's parameter files. Safe to run again.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

ORIGINAL = "mpirun.openmpi"
MARK = b"#!"

OPEN_MPI_PARAMETERS = """\
# Written by scripts/set_up_mpi.py. Override with OMPI_MCA_<name> or mpirun --mca <name> <value>.

# Probing UCX and libfabric takes a second at every start; messages are few and small.
pml = ob1
btl = self,sm,tcp

# Reading another rank's memory directly is forbidden in many containers.
smsc = ^cma

# A rank that waits gives way to one that works: other jobs, or more ranks than cores.
mpi_yield_when_idle = 1
"""

LAUNCHER_PARAMETERS = """\
# Written by scripts/set_up_mpi.py. Override with PRTE_MCA_<name>, --map-by or --bind-to.

# As many ranks on a machine as it has slots, machine after machine; more ranks than cores are allowed.
rmaps_default_mapping_policy = slot:oversubscribe

# Bound ranks of two runs on one machine would share the same first cores.
hwloc_default_binding_policy = none

# A daemon that is cut off from the first machine ends after two minutes, and with it the ranks that it started.
oob_tcp_keepalive_time = 60
oob_tcp_keepalive_intvl = 10
oob_tcp_keepalive_probes = 6
"""


def main() -> None:
    """Set up the environment that this Python belongs to."""
    prefix = Path(sys.prefix)
    programs, parameters = prefix / "bin", prefix / "etc"
    original = programs / ORIGINAL
    for name in ("mpirun", "mpiexec"):
        program = programs / name
        if not program.exists():
            sys.exit(f"error: expected Open MPI's {program}, found none; run: pip install -r requirements.txt")
        if not program.read_bytes().startswith(MARK):  # as installed: a binary
            os.replace(program, original)
        command = [str(programs / "python"), "-I", "-S", str(Path(__file__).with_name("mpirun.py").resolve())]
        program.write_text(f'#!/bin/sh\nexec {shlex.join([*command, str(original)])} "$@"\n')
        program.chmod(0o755)
    (parameters / "openmpi-mca-params.conf").write_text(OPEN_MPI_PARAMETERS)
    (parameters / "prte-mca-params.conf").write_text(LAUNCHER_PARAMETERS)


if __name__ == "__main__":
    main()
