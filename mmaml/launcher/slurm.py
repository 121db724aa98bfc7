"""Reaching the machines of a Slurm job: through a step of the job on each, which `srun` starts.

Open MPI's own way is one step on all machines: Slurm ends it whenever it stops a job or loses a machine, and the run
with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from mmaml.launcher.job import descendants, kill, processes

SRUN = "srun"
# One daemon on the machine, which may use all that the job has there. Open MPI's own way has the same options.
STEP = ("--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--mpi=none", "--cpu-bind=none")
# Beside other steps; versions of Slurm that do not know this need not be asked.
BESIDE_OTHERS = "SLURM_OVERLAP"
# What a job asks for a task of its own: the daemon would be confined to it.
OF_ONE_TASK = ("SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK")
CHOICE = ("plm", "PRTE_MCA_plm", "OMPI_MCA_plm")  # of the user, how other machines are reached


def reaches_others(chosen: Iterable[str]) -> bool:
    """Whether this is a Slurm job on several machines, and the user has not `chosen` how to reach them.

    chosen: the names of parameters that are set, and the words of the command line.
    """
    nodes = os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES", "")
    return (
        nodes.isdecimal()
        and int(nodes) > 1
        and "SLURM_JOBID" in os.environ
        and shutil.which(SRUN) is not None
        and not any(name.startswith(CHOICE) for name in chosen)
    )


def command_of_step(words: list[str]) -> list[str] | None:
    """The command for which "srun", a machine and the words of a remote shell stand; None if `words` are no such thing.

    Changes the variables of this process to those that the command needs.
    """
    if words[0] != SRUN:
        return None
    os.environ[BESIDE_OTHERS] = "1"
    for name in OF_ONE_TASK:
        os.environ.pop(name, None)
    return [SRUN, *STEP, f"--nodelist={words[1]}", "sh", "-c", " ".join(words[2:])]


def leave_step(srun: int) -> None:
    """Kill an srun whose step goes on without it: at a signal to stop, srun would kill the step.

    Before it goes the process that srun has started to kill the step if srun is killed.
    """
    for pid in [*descendants(processes(), srun, set()), srun]:
        kill(pid)
