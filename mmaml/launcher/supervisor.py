"""The supervision of Open MPI's mpirun, as its parent: which signals it gets, when a run is over, what remains."""

from __future__ import annotations

import math
import os
import signal
import time

from mmaml.launcher import job
from mmaml.launcher.messages import say
from mmaml.launcher.protocol import STARTED, STARTING, exit_code, is_over
from mmaml.launcher.ranks import SECONDS_TO_START, Ranks

# Signals to stop, at which mpirun would kill the ranks at once, and those in their place that it passes on.
STOPS = {signal.SIGTERM: signal.SIGUSR1, signal.SIGHUP: signal.SIGUSR1, signal.SIGINT: signal.SIGUSR2}
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT)
TAKEN = (*STOPS, signal.SIGQUIT, *PASSED_ON)

SECONDS_SAME_SIGNAL = 1.0  # a terminal, a shell and a scheduler may each send one and the same
SECONDS_AFTER_LOSS = 5.0  # what remains of a run after a loss that it cannot survive
# After rank 0 has reported the end: exit handlers, on a machine that has other work too.
SECONDS_AFTER_END = 120.0
SECONDS_WHILE_STOPPED = 5.0  # the same where a signal keeps a rank from ending
SECONDS_ELSEWHERE = 20.0  # the same once no rank is left on this machine: others may be cut off
SECONDS_TICK = 0.5


class Supervisor:
    """Runs `command`. folder: the job's; signals: those to take, which are blocked; ulfm: a lost rank is survived."""

    def __init__(self, command: list[str], folder: str, signals: set[signal.Signals], ulfm: bool) -> None:
        self._command = command
        self._folder = folder
        self._signals = signals
        self._ulfm = ulfm
        self._asked: signal.Signals | None = None  # the first signal to stop
        self._asked_at = 0.0

    def run(self) -> int:
        """The exit code of the run, once nothing of it is left."""
        self._mpirun = self._start()
        self._ranks = Ranks(self._mpirun, self._folder)
        job.remove_dead()
        code, at_once = self._wait()
        if code is not None and code >= 0:  # ended by itself: so may what it started
            job.wait_for_children(SECONDS_AFTER_LOSS)
        lost = self._ranks.lost()
        job.kill_descendants()
        reports, self._remedy = self._ranks.reports(), self._ranks.remedy()
        job.remove(self._folder)
        end = exit_code(reports)
        if end is None and is_over(reports) and code is not None and code >= 0:
            end = code
        if self._asked is not None:
            return 0 if end == 0 and not at_once else 128 + self._asked
        if end is None and is_over(reports):
            end = 0  # what could not end by itself was killed; rank 0 reports failures with their exit code
        return self._explain(code, reports, lost) if end is None else end

    def _start(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        supervisor = os.getpid()
        mpirun = os.fork()
        if mpirun == 0:
            # It keeps those blocked at which it would kill the ranks, and unblocks them in the ranks.
            signal.pthread_sigmask(signal.SIG_SETMASK, {*STOPS, signal.SIGQUIT})
            job.die_with_parent(supervisor, signal.SIGKILL)
            os.execv(self._command[0], self._command)
        job.note_segments(self._folder, mpirun)
        return mpirun

    def _wait(self) -> tuple[int | None, bool]:
        """(mpirun's exit code, None while it lives; whether a signal is to end everything at once)."""
        since, seconds = time.monotonic(), math.inf
        while time.monotonic() - since < seconds:
            arrived = signal.sigtimedwait({*self._signals, signal.SIGCHLD}, SECONDS_TICK)
            if (code := job.reap().get(self._mpirun)) is not None:
                return code, False
            if arrived is not None and self._take(signal.Signals(arrived.si_signo)):
                return None, True
            self._ranks.find()
            before, seconds = seconds, self._seconds_left_to_end()
            if seconds != before:
                since = time.monotonic()
        return None, False

    def _seconds_left_to_end(self) -> float:
        """How long what is left of the run may take to end by itself; infinite while the run goes on."""
        if is_over(self._ranks.reports()):
            if self._ranks.stopped():
                return SECONDS_WHILE_STOPPED
            return SECONDS_AFTER_END if self._ranks.living() else SECONDS_ELSEWHERE
        return SECONDS_AFTER_LOSS if self._ranks.hopeless() else math.inf

    def _take(self, number: signal.Signals) -> bool:
        """Act on a signal; whether it is to end everything at once."""
        if number in PASSED_ON:
            os.kill(self._mpirun, number)
        elif number in STOPS and self._asked is None:
            self._asked = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
            self._asked_at = time.monotonic()
            os.kill(self._mpirun, STOPS[number])
        elif number in STOPS:
            return time.monotonic() - self._asked_at > SECONDS_SAME_SIGNAL
        elif number == signal.SIGQUIT:
            self._asked = self._asked or number
            return True
        return False

    def _explain(self, code: int | None, reports: set[str], lost: list[int]) -> int:
        """The exit code of a run that rank 0 has not ended, and a line on what the ranks have not said themselves.

        code: mpirun's, None if it had to be killed, 0 perhaps where ranks were lost; lost: ranks, before anything was
        killed here.
        """
        if code is not None and code < 0:
            say(f"error: Open MPI's mpirun was killed, and the run with it; {self._remedy}")
            return 128 - code
        if STARTED in reports:
            cause = "rank 0, the master, was lost" if self._ulfm else "a rank was lost, and without ULFM the run"
            say(f"error: {cause}; {self._remedy}")
        elif STARTING in reports:
            what = f"lost {named(lost)}" if lost else f"{SECONDS_TO_START:g} s went by"
            say(f"error: {what if code is None else 'the ranks ended'} before all had started; start the run again")
        elif code is not None:
            return code  # of another program
        return code or 1


def named(ranks: list[int]) -> str:
    """Ranks, as in a sentence."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
