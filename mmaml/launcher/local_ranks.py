"""The ranks on this machine, seen from outside: which ones there are, which are lost, what they report."""

from __future__ import annotations

import contextlib
import os
import time

from mmaml.launcher import job
from mmaml.launcher.messages import CONTINUE
from mmaml.launcher.protocol import LOST, REMEDY, STARTED, STARTING, is_over

SECONDS_TO_APPEAR = 60.0  # the ranks, after mpirun's start
SECONDS_TO_START = 600.0  # all of them, after the first one here: a loss on another machine is not seen


class LocalRanks:
    """The children of Open MPI's `mpirun` that it started as ranks, reporting in `folder`.

    elsewhere: whether some are known to be on other machines.
    """

    def __init__(self, mpirun: int, folder: str) -> None:
        self._mpirun = mpirun
        self._folder = folder
        self._limit = time.monotonic() + SECONDS_TO_APPEAR
        self._found: dict[int, tuple[int, int]] = {}  # rank → process id, when it started
        self._here = 0  # how many there should be on this machine
        self._all_here = False  # none is on another machine
        self.elsewhere = False
        self._starting_since: float | None = None

    def find(self) -> None:
        """Look for ranks not found yet; cheap once all are, or once it is clear that the program is another one."""
        expected = time.monotonic() < self._limit or STARTING in self.reports()
        if expected and (not self._found or len(self._found) < self._here):
            for pid, process in job.processes().items():
                if process.parent == self._mpirun:
                    self._add(pid, process.started)

    def _add(self, pid: int, started: int) -> None:
        values = job.environment(pid)
        with contextlib.suppress(KeyError):  # not a rank, or one that has not started its program yet
            rank, self._here, size = (int(values[f"OMPI_COMM_WORLD_{name}"]) for name in ("RANK", "LOCAL_SIZE", "SIZE"))
            self._found[rank] = (pid, started)
            self._all_here, self.elsewhere = self._here == size, self._here < size

    def lost(self) -> list[int]:
        """The ranks whose processes have ended, or that have not appeared though they should be here."""
        living = self.living()
        return [rank for rank in (range(self._here) if self._all_here else self._found) if rank not in living]

    def living(self) -> dict[int, int]:
        """The ranks whose processes live here: rank → process id."""
        return {rank: pid for rank, (pid, started) in self._found.items() if job.lives(pid, started)}

    def reports(self) -> set[str]:
        """What the ranks have reported; nothing if their program is not one of this project."""
        with contextlib.suppress(OSError):
            return set(os.listdir(self._folder))
        return set()

    def remedy(self) -> str:
        """How the user continues a run that was lost: as rank 0 has reported, or in general."""
        with contextlib.suppress(OSError), open(os.path.join(self._folder, REMEDY), encoding="utf-8") as file:
            return file.read()
        return CONTINUE

    def hopeless(self) -> bool:
        """Whether the run has lost rank 0 or, before all have started, any rank: the others would wait for ever."""
        reports = self.reports()
        if is_over(reports):
            return False
        if LOST in reports and self.living().keys() <= {0}:
            return True
        if STARTING not in reports:
            return False
        lost = self.lost()
        if STARTED in reports:
            return 0 in lost
        self._starting_since = self._starting_since or time.monotonic()
        return bool(lost) or time.monotonic() - self._starting_since > SECONDS_TO_START
