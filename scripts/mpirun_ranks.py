"""The ranks on this machine, seen from outside: which there are, which are lost, what they report."""

from __future__ import annotations

import contextlib
import os
import time

from scripts import mpirun_job as job
from scripts.mpirun_messages import CONTINUE

SECONDS_TO_APPEAR = 60.0  # the ranks, after mpirun's start
SECONDS_TO_START = 600.0  # all of them, after the first here: of those elsewhere nobody tells when one is lost

# Files in the job's folder, made by mmaml/launch.py: any rank is about to join the others; rank 0 has joined them
# all; rank 0 is done, with the exit code that follows after a point, or one that mpirun knows; what a user is to do
# should rank 0 be lost; it is, or says nothing, as another rank has found.
STARTING, STARTED, ENDED, REMEDY, LOST = "starting", "started", "ended", "remedy", "lost"


class Ranks:
    """The children of Open MPI's `mpirun` that it started as ranks, reporting in `folder`."""

    def __init__(self, mpirun: int, folder: str) -> None:
        self._mpirun = mpirun
        self._folder = folder
        self._limit = time.monotonic() + SECONDS_TO_APPEAR
        self._found: dict[int, tuple[int, job.Process]] = {}  # rank → process id, what it was then
        self._here = 0  # how many there should be
        self._all_here = False  # none is on another machine
        self._starting_since: float | None = None

    def find(self) -> None:
        """Look for ranks not found yet; cheap once all are."""
        if time.monotonic() < self._limit and (not self._found or len(self._found) < self._here):
            for pid, process in job.processes().items():
                if process.parent == self._mpirun:
                    self._add(pid, process)

    def _add(self, pid: int, process: job.Process) -> None:
        values = job.environment(pid)
        with contextlib.suppress(KeyError):  # not a rank, or not yet
            rank, self._here, size = (int(values[f"OMPI_COMM_WORLD_{name}"]) for name in ("RANK", "LOCAL_SIZE", "SIZE"))
            self._found[rank] = (pid, process)
            self._all_here = self._here == size

    def lost(self) -> list[int]:
        """Those that were here, or should be, and are not."""
        expected = range(self._here) if self._all_here else self._found
        return [rank for rank in expected if rank not in self.living()]

    def living(self) -> list[int]:
        """Those that are here."""
        return [rank for rank, (pid, before) in self._found.items() if self._same(job.process(pid), before)]

    @staticmethod
    def _same(process: job.Process | None, before: job.Process) -> bool:
        return process is not None and process.started == before.started and process.state not in "ZX"

    def reports(self) -> set[str]:
        """What they have reported; nothing if the program is not one that reports."""
        with contextlib.suppress(OSError):
            return set(os.listdir(self._folder))
        return set()

    def remedy(self) -> str:
        """How to go on when the run is lost: as rank 0 has told, or in general."""
        with contextlib.suppress(OSError), open(os.path.join(self._folder, REMEDY)) as file:
            return file.read()
        return CONTINUE

    def hopeless(self) -> bool:
        """Whether the run has ended, or lost rank 0, or any rank in the start, for which the others wait for ever."""
        reports = self.reports()
        if is_over(reports) or (LOST in reports and set(self.living()) <= {0}):
            return True
        if STARTING not in reports:
            return False
        lost = self.lost()
        if STARTED in reports:
            return 0 in lost
        self._starting_since = self._starting_since or time.monotonic()
        return bool(lost) or time.monotonic() - self._starting_since > SECONDS_TO_START


def is_over(reports: set[str]) -> bool:
    """Whether rank 0 has reported the end."""
    return any(report.partition(".")[0] == ENDED for report in reports)


def exit_code(reports: set[str]) -> int | None:
    """The exit code that rank 0 has reported, the largest of several; None if there is none."""
    codes = [int(code) for name, _, code in (report.partition(".") for report in reports) if name == ENDED and code]
    return max(codes, default=None)
