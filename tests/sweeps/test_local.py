"""Runs side by side: which are started, and what is shown."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmaml.sweeps.grid import SweepRun
from mmaml.sweeps.local import RUNNING, WAITING, LocalSweep, Progress, Show


def runs(count: int) -> list[SweepRun]:
    return [SweepRun(f"run_{index}", ()) for index in range(count)]


def python(text: str) -> Callable[[SweepRun], list[str]]:
    return lambda run: [sys.executable, "-c", text, run.name]


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    text = "import sys; print('iteration 1/1'); sys.exit('error: no luck\\nthe end' if sys.argv[1] == 'run_0' else 0)"
    output = io.StringIO()
    local = LocalSweep(runs(3), python(text), tmp_path, jobs=1)
    assert local.run(Show(output)) == 1
    assert "run_0: failed   error: no luck\n" in output.getvalue()
    assert "run_2: finished   iteration 1/1\n" in output.getvalue()
    log = tmp_path / "run_0.log"
    assert output.getvalue().endswith(f"2 of 3 runs finished, 1 failed\noutput of run_0: {log}\n")
    assert (tmp_path / "run_1.log").read_text() == "iteration 1/1\n"
    assert LocalSweep(runs(2), python("pass"), tmp_path, jobs=2).run(Show(io.StringIO())) == 0


def test_what_a_run_failed_of_is_not_what_it_failed_of_before(tmp_path: Path) -> None:
    (tmp_path / "run_0.log").write_text("error: before\n")
    text = "import os; print('iteration 1/2', flush=True); os.kill(os.getpid(), 9)"
    output = io.StringIO()
    assert LocalSweep(runs(1), python(text), tmp_path, jobs=1).run(Show(output)) == 1
    assert "run_0: failed   error: killed by signal 9, as when memory runs out\n" in output.getvalue()
    assert (tmp_path / "run_0.log").read_text() == "error: before\niteration 1/2\n"


def test_a_run_that_stopped_before_its_end_says_why(tmp_path: Path) -> None:
    text = "import sys; print('iteration 1/2\\nstopped: no luck\\nfinished in 0:01'); sys.exit(1)"
    output = io.StringIO()
    assert LocalSweep(runs(1), python(text), tmp_path, jobs=1).run(Show(output)) == 1
    assert "run_0: failed   stopped: no luck\n" in output.getvalue()


def test_a_run_that_cannot_be_started_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    two = [SweepRun("taken/seed_1", ()), SweepRun("free/seed_1", ())]
    output = io.StringIO()
    assert LocalSweep(two, python("pass"), tmp_path, jobs=1).run(Show(output)) == 1
    assert output.getvalue().startswith("taken/seed_1: failed   error: cannot be started (")
    assert output.getvalue().endswith("free/seed_1: finished\n1 of 2 runs finished, 1 failed\n")


def test_a_sweep_under_nohup_goes_on_when_its_terminal_is_closed(tmp_path: Path) -> None:
    class Closed(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    text = f"import os, signal; os.kill({os.getpid()}, signal.SIGHUP)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert LocalSweep(runs(2), python(text), tmp_path, jobs=1).run(Show(Closed())) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_reaches_a_run_that_is_just_being_started(tmp_path: Path) -> None:
    def command(run: SweepRun) -> list[str]:
        signal.raise_signal(signal.SIGTERM)
        return python("import time; time.sleep(20)")(run)

    output = io.StringIO()
    assert LocalSweep(runs(2), command, tmp_path, jobs=1).run(Show(output)) == 143
    assert output.getvalue().endswith("0 of 2 runs finished, 1 stopped, 1 not started\n")


class Watching(Show):
    """Counts what runs, and lets the runs end once as many do as may."""

    def __init__(self, folder: Path, jobs: int) -> None:
        super().__init__(io.StringIO())
        self.folder, self.jobs, self.most = folder, jobs, 0

    def look(self, progress: list[Progress]) -> None:  # type: ignore[override]
        running = sum(each.state == RUNNING for each in progress)
        self.most = max(self.most, running)
        if running == self.jobs or not any(each.state == WAITING for each in progress):
            (self.folder / "go on").touch()


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_so_many_run_at_a_time_and_no_more(tmp_path: Path, jobs: int) -> None:
    text = "import os, time\nwhile not os.path.exists('go on'): time.sleep(0.01)"
    watching = Watching(tmp_path, jobs)
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert LocalSweep(runs(5), python(text), tmp_path, jobs).run(watching) == 0
    finally:
        os.chdir(before)
    assert watching.most == jobs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_never_written_beyond_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "8")
    terminal = Terminal()
    code = LocalSweep(runs(12), python("print('iteration 1/1 ' + 'x' * 100)"), tmp_path, jobs=3).run(Show(terminal))
    assert code == 0
    *tables, last = terminal.getvalue().split("\x1b[J")
    for table in tables:
        lines = re.sub(r"\x1b\[\d+[AK]", "", table).splitlines()
        assert 1 <= len(lines) < 8 and all(len(line) < 40 for line in lines)
    assert "12 of 12 finished" in tables[-1] and last == "12 of 12 runs finished\n"
