"""What the ranks of a run and their launcher both know: signals, names of variables and of files in the job's folder.

A rank reports how far the run is by making a file of that name in the folder that the launcher made. On other machines
there is no such folder, and nothing is reported.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

# Where a rank finds the job's folder.
FOLDER_VARIABLE = "MMAML_LAUNCHER"

# A job of one task is how a machine is asked for: nothing has been launched.
SLURM_SIZE = "SLURM_NTASKS"
# Where launchers say how many processes they started: Open MPI's mpirun, MPICH's and its kin, Slurm's srun.
# The first one set is that of the innermost launcher: our mpirun inside a Slurm job, not the reverse.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", SLURM_SIZE)
# Where a launcher says how its processes meet, by PMIx: Open MPI's mpirun, srun --mpi=pmix. Versions are appended.
MEETING_VARIABLE = "PMIX_SERVER_URI"
# Where they say which rank a process is: Open MPI 5, its predecessors, MPICH, Slurm.
RANK_VARIABLES = ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")

# Any rank is about to join the others; rank 0 has joined them all.
STARTING, STARTED = "starting", "started"
# "ended.<exit code>": rank 0 has ended the run. "ended": rank 0 ends MPI, for which it waits for the other ranks, and
# then its process, whose exit code is the run's if none was reported.
ENDED = "ended"
# Its text says how the user continues the run if rank 0 is lost. Another rank has found rank 0 gone or silent.
REMEDY, LOST = "remedy", "lost"
# A rank that ends with an exit code is lost like any other. Open MPI would end the job at the second such rank, and
# show no more output where it was the last beside the master. With this option its own exit code is 0, whatever those
# of the ranks are: a run reports its own, other programs do not, so that our mpirun does not give it by itself.
EXIT_CODES_ARE_LOSSES = ("--prtemca", "state_base_error_non_zero_exit", "0")

# Signals by which a run is asked to stop, and what each asks for.
STOPS = {signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM, signal.SIGINT: signal.SIGINT}
# What the launcher sends instead: at a signal to stop, Open MPI's mpirun would kill the ranks at once.
SENT_AS = {signal.SIGTERM: signal.SIGUSR1, signal.SIGINT: signal.SIGUSR2}
# All that a rank may receive, and what it asks for.
MEANING = STOPS | {sent: meaning for meaning, sent in SENT_AS.items()}
# A terminal, a shell, a scheduler and a launcher may each send the same signal: within this time they count as one.
SECONDS_OF_ONE_SIGNAL = 1.0


def announced_ranks() -> int | None:
    """How many processes a launcher says it started; None if no launcher started this one."""
    for variable in SIZE_VARIABLES:
        size = os.environ.get(variable, "")
        if size.isdecimal():
            return None if variable == SLURM_SIZE and int(size) <= 1 else int(size)
    return None


def meets_others() -> bool:
    """Whether Open MPI's processes can find each other here; each would make a job of its own where they cannot."""
    return any(name.startswith(MEETING_VARIABLE) for name in os.environ)


def is_first_rank() -> bool:
    """Whether this process is rank 0, or alone, by what its launcher says: before MPI has started."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


def report(state: str, text: str = "") -> bool:
    """Report to the launcher how far the run is; whether the launcher is there, on this machine."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return False
    try:
        with open(os.path.join(folder, state), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return False  # on another machine
    return True


def ended(code: int) -> int:
    """Report, as rank 0's last act, that the run has ended with this exit code, which is returned."""
    if is_first_rank():
        report(f"{ENDED}.{code}")
    return code


def is_over(reports: Iterable[str]) -> bool:
    """Whether rank 0 has reported the end."""
    return any(report.partition(".")[0] == ENDED for report in reports)


def exit_code(reports: Iterable[str]) -> int | None:
    """The exit code that rank 0 has reported, the largest of several; None if it has reported none."""
    codes = [int(code) for name, _, code in (report.partition(".") for report in reports) if name == ENDED and code]
    return max(codes, default=None)
