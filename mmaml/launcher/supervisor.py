"""Supervises Open MPI's mpirun, as its parent: passes signals on, sees how the run ends, removes what is left.

A run has ended when rank 0 has reported so; from then on it cannot be lost. What its processes still do, such as the
exit handlers of rank 0, takes the time that it takes. Only ranks that hang are killed, one by one, so that Open MPI's
mpirun ends by itself and its exit code is that of rank 0.
"""

from __future__ import annotations

import os
import signal
import time

from mmaml.launcher import job
from mmaml.launcher.local_ranks import SECONDS_TO_START, LocalRanks
from mmaml.launcher.messages import say
from mmaml.launcher.protocol import (
    ENDED,
    EXIT_CODES_ARE_LOSSES,
    SECONDS_OF_ONE_SIGNAL,
    SENT_AS,
    STARTED,
    STARTING,
    STOPS,
    exit_code,
    is_over,
)

PASSED_ON = (*SENT_AS.values(), signal.SIGTSTP, signal.SIGCONT)
TAKEN = (*STOPS, signal.SIGQUIT, *PASSED_ON)

SECONDS_AFTER_LOSS = 5.0  # for the rest of a run after a loss that it cannot survive
SECONDS_TICK = 0.5  # between two looks at the run

# When a process hangs after the run's end, in seconds of its own: the time in which it waits for a processor or a disk
# does not count.
SECONDS_STOPPED = 5.0  # stopped by a signal that was not meant for the run
SECONDS_TO_END = 20.0  # other ranks than 0 once rank 0 waits for them or has ended; mpirun, once no rank is left here
SECONDS_OF_RANK_0 = 600.0  # its exit handlers may have much to do, such as sending a log elsewhere
SECONDS_OF_ORPHANS = 5.0  # processes that ranks have left behind


class Supervisor:
    """Runs `command`, a call of Open MPI's mpirun.

    folder: the job's. signals: those that are for it to take, which are blocked. ulfm: whether the run survives the
    loss of a rank.
    """

    def __init__(self, command: list[str], folder: str, signals: set[signal.Signals], ulfm: bool) -> None:
        self._command = command
        self._folder = folder
        self._signals = signals
        self._ulfm = ulfm
        self._asked: signal.Signals | None = None  # the first signal to stop
        self._asked_at = 0.0
        self._suspended = False  # by the user, at the keyboard
        self._own_time = job.OwnTime()
        self._hung: list[int] = []  # ranks that were killed after the run's end

    def run(self) -> int:
        """Run the command to its end, and remove what is left of it; the run's exit code."""
        self._mpirun = self._start()
        self._ranks = LocalRanks(self._mpirun, self._folder)
        job.remove_dead()
        code, at_once = self._wait()
        if code is not None and code >= 0:  # ended by itself: so may what it started
            job.wait_for_children(SECONDS_OF_ORPHANS)
        lost = self._ranks.lost()
        job.kill_descendants()
        reports, self._remedy = self._ranks.reports(), self._ranks.remedy()
        job.remove(self._folder)
        end = self._exit_code(code, reports)
        if self._asked is not None and (at_once or exit_code(reports) is None):
            return 128 + self._asked  # without a report, it is not known that the run has finished nevertheless
        if end is None:
            return self._explain(code, reports, lost)
        if hung := self._hung[: self._hung.index(0) + 1] if 0 in self._hung else self._hung:
            # Those killed after rank 0 only waited for it.
            say(f"warning: {named(sorted(hung))} did not end with the run; killed")
        return end

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
        """Wait for mpirun to end or to have to be killed.

        Returns its exit code, None while it lives, and whether a signal is to end everything at once.
        """
        lost_since = None
        while lost_since is None or time.monotonic() - lost_since < SECONDS_AFTER_LOSS:
            arrived = signal.sigtimedwait({*self._signals, signal.SIGCHLD}, SECONDS_TICK)
            if (code := job.reap().get(self._mpirun)) is not None:
                self._note_late(arrived)
                return code, False
            if arrived is not None and self._take(signal.Signals(arrived.si_signo)):
                return None, True
            self._ranks.find()
            if self._end_hung():
                break
            lost_since = (lost_since or time.monotonic()) if self._ranks.hopeless() else None
        return None, False

    def _end_hung(self) -> bool:
        """Once the run has ended, kill the ranks that hang; whether mpirun hangs too."""
        reports = self._ranks.reports()
        if not is_over(reports):
            return False
        living = {rank: pid for rank, pid in self._ranks.living().items() if rank not in self._hung}
        self._own_time.look(self._watched(living, reports), paused=self._suspended)
        for rank, pid in living.items():
            spent = self._own_time.of(pid)
            longest = SECONDS_TO_END if rank else SECONDS_OF_RANK_0
            if spent.seconds > longest or spent.stopped > SECONDS_STOPPED:
                self._hung.append(rank)
                job.kill_tree(pid)
        return self._own_time.of(self._mpirun).seconds > SECONDS_TO_END

    def _watched(self, living: dict[int, int], reports: set[str]) -> list[int]:
        """The processes that should end now.

        Rank 0 is one if it has reported the run's exit code, which would else be lost with it, or once another was
        killed: Open MPI may never let it out of its end then. The other ranks wait for it there, mpirun for them all.
        """
        if 0 in living and ENDED not in reports:
            return [living[0]]
        with_rank_0 = exit_code(reports) is not None or bool(self._hung)
        others = [pid for rank, pid in living.items() if rank or with_rank_0]
        return others if living else [self._mpirun]

    def _take(self, number: signal.Signals) -> bool:
        """Act on a signal; whether it is to end everything at once."""
        if number in PASSED_ON:
            os.kill(self._mpirun, number)
            if number in (signal.SIGTSTP, signal.SIGCONT):
                self._suspended = number == signal.SIGTSTP
        elif number in STOPS and self._asked is None:
            self._asked, self._asked_at = STOPS[number], time.monotonic()
            os.kill(self._mpirun, SENT_AS[self._asked])
        elif number in STOPS:
            return time.monotonic() - self._asked_at > SECONDS_OF_ONE_SIGNAL
        elif number == signal.SIGQUIT:
            self._asked = self._asked or number
            return True
        return False

    def _note_late(self, arrived: signal.struct_siginfo | None) -> None:
        """Take note of signals to stop that came while mpirun ended, perhaps by them."""
        while arrived is not None and self._asked is None:
            self._asked = STOPS.get(signal.Signals(arrived.si_signo))
            arrived = signal.sigtimedwait(self._signals, 0)

    def _exit_code(self, code: int | None, reports: set[str]) -> int | None:
        """The exit code of a run that rank 0 has ended; None if it has not.

        code: mpirun's, None if it had to be killed. That is rank 0's, for failures end mpirun at once and a rank that
        is killed after the end counts for nothing; without ULFM it counts. With `EXIT_CODES_ARE_LOSSES` it is 0.
        """
        reported = exit_code(reports)
        if reported is not None or not is_over(reports):
            return reported
        if code is None or 0 in self._hung or (self._hung and not self._ulfm):
            return 0  # rank 0 has ended, and not failed
        return code if code >= 0 else None

    def _explain(self, code: int | None, reports: set[str], lost: list[int]) -> int:
        """The exit code of a run that rank 0 has not ended, and a line on what the ranks have not said themselves.

        code: mpirun's, None if it had to be killed, possibly 0 where ranks were lost. lost: the ranks that were lost
        before anything was killed here.
        """
        if code is not None and code < 0:
            say(f"error: Open MPI's mpirun was killed, and the run with it; {self._remedy}")
            return 128 - code
        if STARTED in reports:
            say(f"error: {self._lost(seen=code is None)}; {self._remedy}")
        elif STARTING in reports:
            what = f"lost {named(lost)}" if lost else f"{SECONDS_TO_START:g} s went by"
            say(f"error: {what if code is None else 'the ranks ended'} before all had started; start the run again")
        elif code == 0 and EXIT_CODES_ARE_LOSSES[1] in self._command:
            say("error: the ranks ended before the run began")
        elif code is not None:
            return code  # of another program
        return code or 1

    def _lost(self, seen: bool) -> str:
        """What a run that had started has lost. seen: mpirun lived on without rank 0, and had to be killed.

        It ends by itself where it has lost the connection to a daemon, and kills rank 0 then: which was first cannot be
        seen from here.
        """
        machine = " or a machine" if self._ranks.elsewhere and not seen else ""
        if not self._ulfm:
            return f"a rank{machine} was lost, and without ULFM the run"
        return f"rank 0, the master,{machine} was lost"


def named(ranks: list[int]) -> str:
    """Ranks, as in a sentence."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
