"""Messages between two ranks, and noticing that the other is gone."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import mpi4py
import numpy as np

from mmaml.fault_points import reached
from mmaml.launcher.protocol import ENDED, STARTED, STARTING, announced_ranks, meets_others, report
from mmaml.parallel.process import Process

report(STARTING)

mpi4py.rc.initialize = False  # `join` does it, where there is somebody to join
mpi4py.rc.finalize = False  # `_finalize` does it, unless it would wait for ever
from mpi4py import MPI as MPI  # noqa: E402  (other modules take it from here, where it is set up)

# Seconds between two looks at a message that has not come: a rank that waits leaves its core to those that work.
PAUSE = 5e-5
# Of the time between two looks no more than this counts as waiting: this rank may have been stopped itself.
MAX_PAUSE = 1.0
# Seconds between two looks at the other's process: MPI does not notice one that exits with an error.
SECONDS_BETWEEN_CHECKS = 1.0
# How long a rank is waited for when others have taken all the time: long enough for what it has sent to arrive.
MOMENT = 1.0
PROCESS_ENDED = "its process ended"
SECURITY, NATIVE = "PMIX_SECURITY_MODE", "native"


class RankLost(Exception):
    """A rank is gone, or does not answer. waited: seconds spent waiting for it, 0 if it is known to be gone.

    ever: whether this has happened in this process.
    """

    ever = False

    def __init__(self, reason: str, waited: float = 0.0) -> None:
        super().__init__(reason)
        self.waited = waited
        RankLost.ever = True


def join() -> None:
    """Start MPI, and with it meet the other ranks, where a launcher has started some that it lets meet.

    Alone, Open MPI would make a folder and shared memory, which it never removes.
    """
    is_open_mpi = MPI.Get_library_version().startswith("Open MPI")
    if MPI.Is_initialized() or announced_ranks() is None or (is_open_mpi and not meets_others()):
        return
    choose_security()
    MPI.Init_thread()
    if MPI.COMM_WORLD.Get_rank() == 0:
        report(STARTED)


def choose_security() -> None:
    """Of the ways in which a launcher lets a process prove whose it is, choose the one that every PMIx has.

    Slurm's srun offers "munge,native". Open MPI's wheel lacks the former, and would say so in two boxes a rank.
    """
    if NATIVE in os.environ.get(SECURITY, "").split(","):
        os.environ[SECURITY] = NATIVE


@atexit.register
def _finalize() -> None:
    """End MPI, which waits for all ranks: not where some are lost."""
    if not MPI.Is_initialized():
        return
    if MPI.COMM_WORLD.Get_rank() == 0:
        if hasattr(sys, "last_value"):  # an error that ends the program
            report(f"{ENDED}.1")
        report(ENDED)
    if not RankLost.ever:
        MPI.Finalize()


class Timeout:
    """Seconds that may go by in waiting for several ranks together, `spent` of them so far.

    Each is given a moment even after that, for what it has sent already.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spent = seconds, 0.0


class Link:
    """Messages between this rank and another: an object, and arrays beside it, which are not copied.

    A link on which something was lost is not used again, but kept: MPI may still write into its buffers.
    process: of the other rank, once it is known.
    """

    def __init__(self, comm: MPI.Comm, peer: int) -> None:
        self._comm, self._peer = comm, peer
        self.process: Process | None = None
        self._sending: tuple[list[MPI.Request], list[np.ndarray]] = ([], [])
        self._receiving: tuple[list[MPI.Request], list[np.ndarray]] = ([], [])
        self._transfer = Timeout(0.0)  # of what is being received

    def send(self, content: Any, arrays: Iterable[np.ndarray] = ()) -> None:
        """Begin to send; `finish_sending` before long work, or nothing may leave. Raises RankLost."""
        reached("send")
        arrays = [np.ascontiguousarray(array) for array in arrays]
        layout = [(array.shape, array.dtype) for array in arrays]
        text = np.frombuffer(cloudpickle.dumps((content, layout)), np.uint8)
        buffers = [np.array([text.size]), text, *arrays]
        try:
            self._sending = ([self._comm.Isend(buffer, self._peer) for buffer in buffers], buffers)
        except MPI.Exception as error:
            raise self._lost(error) from error

    def finish_sending(self, timeout: Timeout) -> None:
        """Wait until all is sent. Raises RankLost."""
        reached("half sent")
        self._wait(self._sending[0], timeout)

    def receive(self, timeout: Timeout) -> tuple[Any, list[np.ndarray]]:
        """The next message, and the arrays beside it. Raises RankLost."""
        content = self.begin_receiving(timeout)
        return content, self.finish_receiving()

    def begin_receiving(self, timeout: Timeout) -> Any:
        """The next message; `finish_receiving` waits for the arrays beside it, which begin to come. Raises RankLost.

        What has begun to come takes its time: it is given the same seconds once more, and takes none of `timeout`.
        """
        reached("receive")
        length = np.empty(1, np.int64)
        self._receive_into([length])
        self._wait(self._receiving[0], timeout)
        self._transfer = Timeout(timeout.seconds)
        text = np.empty(length[0], np.uint8)
        self._receive_into([text])
        self._wait(self._receiving[0], self._transfer)
        reached("half received")
        content, layout = cloudpickle.loads(text)
        self._receive_into([np.empty(shape, dtype) for shape, dtype in layout])
        return content

    def finish_receiving(self) -> list[np.ndarray]:
        """The arrays beside the message. Raises RankLost."""
        requests, arrays = self._receiving
        self._wait(requests, self._transfer)
        return arrays

    def give_up(self) -> str:
        """Expect no more of the other rank, and end its process if it is on this machine; in words, what it did."""
        RankLost.ever = True
        return "of which nothing is known" if self.process is None else self.process.kill()

    def _receive_into(self, buffers: list[np.ndarray]) -> None:
        """Begin to receive into `buffers`, in order."""
        try:
            self._receiving = ([self._comm.Irecv(buffer, self._peer) for buffer in buffers], buffers)
        except MPI.Exception as error:
            raise self._lost(error) from error

    def _wait(self, requests: list[MPI.Request], timeout: Timeout) -> None:
        waited, last, next_check = 0.0, time.monotonic(), SECONDS_BETWEEN_CHECKS
        try:
            while not MPI.Request.Testall(requests):
                time.sleep(PAUSE)
                now = time.monotonic()
                pause, last = min(now - last, MAX_PAUSE), now
                waited, timeout.spent = waited + pause, timeout.spent + pause
                if timeout.spent > timeout.seconds and waited > min(MOMENT, timeout.seconds):
                    raise RankLost(f"no answer for {timeout.seconds:g} s", waited)
                if waited > next_check:
                    next_check += SECONDS_BETWEEN_CHECKS
                    if self.process is not None and self.process.has_ended() and not MPI.Request.Testall(requests):
                        raise RankLost(PROCESS_ENDED)
        except MPI.Exception as error:
            raise self._lost(error) from error

    def _lost(self, error: MPI.Exception) -> RankLost:
        return RankLost(PROCESS_ENDED if all_lost(self._comm, [self._peer]) else str(error))


def all_lost(comm: MPI.Comm, ranks: Iterable[int]) -> bool:
    """Whether MPI knows all of `ranks` to be gone."""
    ranks = list(ranks)
    if not ranks:
        return True
    try:
        failed = comm.Get_failed()
    except (MPI.Exception, NotImplementedError):
        return False  # an MPI that reports no losses
    return MPI.UNDEFINED not in comm.Get_group().Translate_ranks(ranks, failed)
