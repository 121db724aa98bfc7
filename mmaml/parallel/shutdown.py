"""SIGTERM and SIGINT: the master finishes what is worth finishing, the other ranks leave it to the master.

Which signals, and what each asks for, is in `mmaml.launcher.protocol.MEANING`. The first asks the run to stop: it
finishes its iteration or, after most of `shutdown_seconds`, abandons it. Where nothing is worth finishing, or with a
second signal, it ends at once.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from mmaml.errors import Interrupted
from mmaml.launcher.protocol import MEANING, SECONDS_OF_ONE_SIGNAL, is_first_rank

# What of `shutdown_seconds` an iteration may take; the rest is for the checkpoint.
SHARE_OF_ITERATION = 0.7
SHARE_TO_ABANDON_AGAIN = 0.05  # an environment may catch whatever is raised in it


class Shutdown:
    """Whether this process was asked to stop. requested: by which signal, None while it was not."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._asked_at = 0.0
        self._seconds: float | None = None  # to finish in; None: nothing is worth finishing
        self._abandonable = False
        self._is_guest = False

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """While this lasts, rank 0 handles the signals, but for those that are ignored already (nohup, a shell's &).

        Other ranks do nothing on them from now on, since they end when rank 0 says so or is gone. In processes that
        environments start the signals act as in any process.
        """
        if not is_first_rank():
            for number in MEANING:
                signal.signal(number, self._leave_to_master)  # SIG_IGN would be inherited by programs
                signal.siginterrupt(number, False)
            yield
            return
        with self._handlers_installed(MEANING):
            yield

    @contextmanager
    def handling_signals_as_guest(self) -> Iterator[None]:
        """The same for a run in another program's process, whose handlers of SIGINT and SIGTERM come back afterwards.

        A second signal abandons the run and does not end the process, and the process is not ended when time is over.
        Only a main thread can handle signals; they do not stop a run in another one.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._is_guest = True
        try:
            with self._handlers_installed((signal.SIGINT, signal.SIGTERM)):
                yield
        finally:
            self._is_guest = False

    @contextmanager
    def _handlers_installed(self, numbers: Iterable[signal.Signals]) -> Iterator[None]:
        handlers = {number: self._on_signal for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
        handlers[signal.SIGALRM] = self._on_alarm
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            faulthandler.cancel_dump_traceback_later()
            self.requested = None

    @contextmanager
    def finishing(self, seconds: float) -> Iterator[None]:
        """While this lasts, a signal only asks to stop, on which `check` and `abandonable` act within `seconds`.

        If that raises, what is then left to do, such as to close environments, has to end within that time too.
        """
        self._seconds = seconds
        try:
            yield
        finally:
            self._seconds = None
            signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()  # not where it raises; last, for a signal may have come until here

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """While this lasts, Interrupted is raised once there is no more time to finish."""
        self._abandonable = True
        try:
            yield
        finally:
            self._abandonable = False

    def check(self) -> None:
        """Raise Interrupted if the process was asked to stop."""
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now, meaning = time.monotonic(), MEANING[signal.Signals(number)]
        if self.requested is not None:
            if now - self._asked_at > SECONDS_OF_ONE_SIGNAL:
                if self._is_guest:
                    raise Interrupted(self.requested)
                os._exit(128 + meaning)
            return
        self.requested, self._asked_at = int(meaning), now
        if self._seconds is None:
            raise Interrupted(self.requested)
        first, again = SHARE_OF_ITERATION * self._seconds, SHARE_TO_ABANDON_AGAIN * self._seconds
        signal.setitimer(signal.ITIMER_REAL, first, again)
        with suppress(OSError, ValueError):  # nobody reads it
            if not self._is_guest:
                # When all time is over: print the traceback of whatever holds the interpreter, and end the process.
                faulthandler.dump_traceback_later(self._seconds, exit=True)
            text = f"{meaning.name}: finishing the iteration, or what of it takes {self._seconds:g} s, and a checkpoint"
            os.write(sys.stderr.fileno(), f"{text}; once more to end at once\n".encode())

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self._abandonable:
            self.check()

    def _leave_to_master(self, number: int, frame: FrameType | None) -> None:
        pass

    def forget_in_child(self) -> None:
        """In a process that was forked off this one: have signals act as in any other."""
        for number in (*MEANING, signal.SIGALRM):
            if signal.getsignal(number) in (self._on_signal, self._on_alarm, self._leave_to_master):
                signal.signal(number, signal.SIG_DFL)


shutdown = Shutdown()
os.register_at_fork(after_in_child=lambda: shutdown.forget_in_child())
