"""The runs of a sweep side by side on this machine, one process each, and what a terminal shows of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from mmaml.launcher import job
from mmaml.launcher.protocol import SECONDS_OF_ONE_SIGNAL
from mmaml.sweeps.grid import SweepRun
from mmaml.wording import counted
from mmaml.written_paths import as_written

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_TABLES = 1.0
MAX_LOGS_NAMED = 5  # of runs that failed, at the end
LOG_BYTES = 20_000  # of a log's end, in which its last lines are looked for
REASONS = ("error:", "stopped:")  # how a line begins that says why a run failed
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"


@dataclass
class Progress:
    """How far a run is.

    log: the file to which it appends its output. begun: the size, in bytes, that the log had before. not_started: why
    it could not be started, if that is so.
    """

    run: SweepRun
    log: Path
    state: str = WAITING
    process: subprocess.Popen[bytes] | None = None
    begun: int = 0
    not_started: str = ""

    def last_line(self) -> str:
        """What it reported last; of a run that failed, why."""
        if self.not_started:
            return self.not_started
        lines = _end_of(self.log, self.begun)
        found = [line for line in lines if line.startswith(REASONS if self.state == FAILED else "iteration ")]
        if self.state == FAILED and not found:
            found = self._killed_by()
        return (found or (lines if self.state in (RUNNING, FAILED) else []) or [""])[-1]

    def _killed_by(self) -> list[str]:
        """A line about the signal that ended it, if one did."""
        code = self.process.poll() if self.process is not None else None
        if code is None or code >= 0:
            return []
        reason = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return [f"error: killed by signal {-code}{reason}"]


class LocalSweep:
    """Runs them, at most `jobs` at a time. A run that fails does not stop the others.

    command: the words that start a run, which continues it where there is one. folder: the sweep's directory.
    finished: the names of those that have nothing left to do.
    """

    def __init__(
        self,
        runs: Sequence[SweepRun],
        command: Callable[[SweepRun], list[str]],
        folder: Path,
        jobs: int,
        finished: Collection[str] = (),
    ) -> None:
        states = dict.fromkeys(finished, FINISHED)
        self.progress = [Progress(run, folder / f"{run.name}.log", states.get(run.name, WAITING)) for run in runs]
        self._command, self._jobs = command, jobs
        self._asked: signal.Signals | None = None
        self._asked_at = 0.0

    def run(self, show: Show) -> int:
        """Run all to their end. The exit code: 1 if one failed, 128 + the signal's number if one asked to stop."""
        with self._signals_taken():
            while self._advance():
                show.look(self.progress)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        show.end(self.progress)
        if self._asked is not None:
            return 128 + self._asked
        return int(any(each.state == FAILED for each in self.progress))

    def _advance(self) -> bool:
        """Take note of runs that have ended, start others in their place; whether any is left."""
        for each in self.progress:
            if each.state == RUNNING and each.process is not None and (code := each.process.poll()) is not None:
                each.state = FINISHED if code == 0 else STOPPED if self._asked is not None else FAILED
        if self._asked is None:
            running = sum(each.state == RUNNING for each in self.progress)
            waiting = [each for each in self.progress if each.state == WAITING]
            for each in waiting[: max(0, self._jobs - running)]:
                self._start(each)
        going_on = (RUNNING,) if self._asked is not None else (RUNNING, WAITING)
        return any(each.state in going_on for each in self.progress)

    def _start(self, each: Progress) -> None:
        """Start a run. It has failed where that is impossible, as on a full disk."""
        try:
            each.log.parent.mkdir(parents=True, exist_ok=True)
            with open(each.log, "ab") as log:
                each.begun = log.tell()
                each.process = subprocess.Popen(
                    self._command(each.run),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C reaches it from here, once
                    preexec_fn=partial(job.die_with_parent, os.getpid(), signal.SIGTERM),
                )
            each.state = RUNNING
            if self._asked is not None:  # since this began
                each.process.send_signal(self._asked)
        except OSError as error:
            each.state, each.not_started = FAILED, f"error: cannot be started ({error.strerror})"

    @contextmanager
    def _signals_taken(self) -> Iterator[None]:
        """Take the signals that are not ignored already, as nohup and a shell's & have it."""
        numbers = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        """Pass the first signal on to the runs, which write checkpoints; a second one ends them at once."""
        now = time.monotonic()
        if self._asked is None:
            self._asked, self._asked_at, sent = signal.Signals(number), now, number
        elif now - self._asked_at > SECONDS_OF_ONE_SIGNAL:
            sent = signal.SIGKILL
        else:
            return
        for each in self.progress:
            if each.state == RUNNING and each.process is not None:
                with suppress(ProcessLookupError):
                    each.process.send_signal(sent)


class Show:
    """Prints how the runs go on: a line for each change; on a terminal, a table that is drawn anew every second."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._states: dict[str, str] = {}
        self._drawn_at, self._drawn = 0.0, 0

    def look(self, progress: Sequence[Progress]) -> None:
        """Show what has changed."""
        if self._live:
            if time.monotonic() - self._drawn_at > SECONDS_BETWEEN_TABLES:
                self._draw(progress)
            return
        for each in progress:
            if self._states.get(each.run.name, WAITING) != each.state:
                self._states[each.run.name] = each.state
                line = each.last_line() if each.state not in (WAITING, RUNNING) else ""
                self._write(f"{each.run.name}: {each.state}{'   ' + line if line else ''}\n")

    def end(self, progress: Sequence[Progress]) -> None:
        """Show how all have ended."""
        if self._live:
            self._draw(progress)
        else:
            self.look(progress)
        counts = {
            state: sum(each.state == state for each in progress) for state in (FINISHED, FAILED, STOPPED, WAITING)
        }
        names = {FAILED: "failed", STOPPED: "stopped", WAITING: "not started"}
        others = "".join(f", {counts[state]} {name}" for state, name in names.items() if counts[state])
        self._write(f"{counts[FINISHED]} of {counted(len(progress), 'run')} finished{others}\n")
        for each in [each for each in progress if each.state == FAILED and not each.not_started][:MAX_LOGS_NAMED]:
            self._write(f"output of {each.run.name}: {as_written(each.log)}\n")

    def _draw(self, progress: Sequence[Progress]) -> None:
        """Draw the table over the last one: those that wait or have finished as numbers where it would be too long."""
        columns, lines = shutil.get_terminal_size()
        shown = [*progress]
        for state in (WAITING, FINISHED):
            if len(shown) > lines - 3:
                shown = [each for each in shown if each.state != state]
        shown = shown[: max(lines - 3, 1)]
        width = max((len(each.run.name) for each in shown), default=0)
        rows = [f"{each.run.name:{width}}  {each.state:8}  {each.last_line()}" for each in shown]
        if hidden := len(progress) - len(shown):
            done = sum(each.state == FINISHED for each in progress)
            rows.append(f"… {hidden} more; {done} of {len(progress)} finished")
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._write(up + "".join(f"\x1b[2K{row[: columns - 1]}\n" for row in rows) + "\x1b[J")
        self._drawn, self._drawn_at = len(rows), time.monotonic()

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a terminal that was closed, or a full disk: no reason to end the runs
            self._stream.write(text)
            self._stream.flush()


def _end_of(log: Path, begun: int) -> list[str]:
    """The last lines of a log from the byte `begun` on, without empty ones."""
    try:
        with open(log, "rb") as file:
            file.seek(max(begun, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return []
