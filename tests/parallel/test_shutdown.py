"""SIGTERM and SIGINT, sent to real runs: they end in time, with a checkpoint, and continue as if they never had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.cli import train
from mmaml.config.loading import load_config
from mmaml.errors import Interrupted
from mmaml.launcher.protocol import FOLDER_VARIABLE, MEANING
from mmaml.parallel.shutdown import Shutdown
from mmaml.process_settings import UCX_SIGNAL
from mmaml.storage import checkpoint
from tests.helpers.faults import (
    VALUES,
    fault,
    finished,
    has_happened,
    iterations,
    messages,
    processes,
    result,
    run,
    started,
)
from tests.helpers.support import SMALL
from tests.helpers.support import run as train_here
from tests.helpers.waiting import GUARD, wait_until

LONG = VALUES | {"n_itr": 100_000, "save_steps": 100_000}
HANGS = fault("hang", "adaptation", iteration=2)


def stopped(
    values: dict[str, Any], ranks: int, number: signal.Signals, when: int = 2, **options: Any
) -> subprocess.CompletedProcess[str]:
    """A run that is sent a signal once it has logged some iterations, as a scheduler sends it: to what was started."""
    with started(values, ranks, **options) as process:
        wait_until(lambda: iterations(values["dump_path"]) >= when)
        process.send_signal(number)
        return finished(process)


@pytest.mark.long
@pytest.mark.ranks
@pytest.mark.parametrize("number, code, ranks", [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 0)])
def test_the_iteration_is_finished_and_saved_and_the_run_goes_on_from_there(
    number: signal.Signals, code: int, ranks: int, tmp_path: Path
) -> None:
    values = LONG | {"dump_path": str(tmp_path / "run"), "parallel": ranks > 0}
    ended = stopped(values, ranks, number)
    assert ended.returncode == code, ended.stderr
    path = values["dump_path"]
    assert not processes(path)
    saved = checkpoint.load(path)
    assert saved["iteration"] == iterations(path) >= 2
    assert ended.stderr.count(f"stopped by {number.name} (after {saved['iteration']} iterations; continue with") == 1
    assert "Traceback" not in ended.stderr

    more = values | {"n_itr": saved["iteration"] + 2, "resume": "auto", "parallel": True}
    assert run(more, 2 - ranks).returncode == 0
    whole = more | {"dump_path": str(tmp_path / "whole"), "resume": "never", "parallel": False}
    train_here(load_config(None, {"algorithm": "mmaml"} | whole))
    (ours, rows), (theirs, expected) = result(path), result(whole["dump_path"])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # The last iteration of a run is always evaluated, so that of the whole run alone was not where the other stopped.
    assert [row["LossAfter"] for row in rows] == [row["LossAfter"] for row in expected]


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [0, 2])
def test_an_iteration_that_takes_too_long_is_abandoned(ranks: int, tmp_path: Path) -> None:
    """The last rank never ends its third iteration."""
    values = LONG | {"dump_path": str(tmp_path / "run"), "parallel": ranks > 0, "shutdown_seconds": 4.0}
    last = max(ranks - 1, 0)
    with started(values, ranks, faults={last: [HANGS]}) as process:
        wait_until(lambda: has_happened(values["dump_path"], last, "adaptation"))
        process.send_signal(signal.SIGTERM)
        ended = finished(process)
    assert ended.returncode == 143, ended.stderr
    assert checkpoint.load(values["dump_path"])["iteration"] == iterations(values["dump_path"]) == 2
    assert not processes(values["dump_path"])


@pytest.mark.ranks
def test_a_second_signal_ends_at_once_and_harms_no_checkpoint(tmp_path: Path) -> None:
    """Signals that follow each other closely are one, so that it is sent until it counts as the second."""
    values = LONG | {"dump_path": str(tmp_path / "run"), "save_steps": 1, "shutdown_seconds": 10 * GUARD}
    with started(values, 2, faults={1: [HANGS]}) as process:
        wait_until(lambda: has_happened(values["dump_path"], 1, "adaptation"))

        def has_ended() -> bool:
            process.send_signal(signal.SIGINT)  # does nothing where it has
            return process.poll() is not None

        wait_until(has_ended)
        assert finished(process).returncode == 130
    assert checkpoint.load(values["dump_path"])["iteration"] == 2
    assert not processes(values["dump_path"])


@pytest.mark.long
@pytest.mark.ranks
def test_signals_sent_to_every_process_of_a_job_are_one(tmp_path: Path) -> None:
    """As schedulers and service managers do."""
    values = LONG | {"dump_path": str(tmp_path / "run")}
    with started(values, 3) as process:
        wait_until(lambda: iterations(values["dump_path"]) >= 2)
        for pid in [process.pid, *processes(values["dump_path"])]:
            os.kill(pid, signal.SIGTERM)
        ended = finished(process)
    assert ended.returncode == 143, ended.stderr
    assert not [line for line in messages(values["dump_path"]) if "lost" in line]
    assert checkpoint.load(values["dump_path"])["iteration"] == iterations(values["dump_path"])


def test_a_run_that_has_ended_is_not_called_stopped_for_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a scheduler would queue it again."""
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    values = json.dumps(SMALL | {"n_itr": 1, "parallel": False})
    assert train.run("promp", ["--dump_path", str(tmp_path / "run"), "--overrides", values]) == 0
    assert capsys.readouterr().err.endswith("warning: the run's pictures are not drawn: stopped by SIGTERM\n")
    assert checkpoint.load(tmp_path / "run")["iteration"] == 1


def test_before_anything_is_worth_finishing_a_signal_ends_at_once() -> None:
    asked = Shutdown()
    with asked.handling_signals():
        with pytest.raises(Interrupted) as raised:
            os.kill(os.getpid(), signal.SIGUSR2)
        assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_while_finishing_a_signal_only_asks_until_time_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmaml.parallel.shutdown.SECONDS_OF_ONE_SIGNAL", GUARD)
    asked = Shutdown()
    with asked.handling_signals(), asked.finishing(60.0):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked.requested == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # the same once more
        with pytest.raises(Interrupted) as raised:
            asked.check()
        assert raised.value.exit_code == 143
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        with pytest.raises(Interrupted), asked.abandonable():
            os.kill(os.getpid(), signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_an_environment_that_catches_everything_is_abandoned_too() -> None:
    """The alarm goes again and again."""
    asked = Shutdown()
    with asked.handling_signals(), asked.finishing(60.0):
        os.kill(os.getpid(), signal.SIGTERM)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[1] < 60
        with pytest.raises(Interrupted), asked.abandonable():
            with suppress(BaseException):
                os.kill(os.getpid(), signal.SIGALRM)
            os.kill(os.getpid(), signal.SIGALRM)


@pytest.mark.parametrize("first", [True, False])
def test_processes_that_a_rank_starts_meet_signals_as_any_other(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmaml.parallel.shutdown.is_first_rank", lambda: first)
    asked = Shutdown()
    monkeypatch.setattr("mmaml.parallel.shutdown.shutdown", asked)
    before = {number: signal.getsignal(number) for number in MEANING}
    try:
        with asked.handling_signals(), subprocess.Popen(["sleep", "60"]) as program:
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
            program.terminate()
            assert program.wait() == -signal.SIGTERM
            if (child := os.fork()) == 0:
                os._exit(sum(signal.getsignal(number) is not signal.SIG_DFL for number in MEANING))
            assert os.waitpid(child, 0)[1] == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number, code", [(signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_what_is_asked_is_done_though_nobody_reads_what_is_said(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise BrokenPipeError

    asked = Shutdown()
    monkeypatch.setattr(os, "write", refuse)
    with asked.handling_signals(), asked.finishing(60.0):
        os.kill(os.getpid(), number)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        with pytest.raises(Interrupted) as raised:
            asked.check()
        assert raised.value.exit_code == code


@pytest.mark.parametrize("when", ["before the first iteration", "later"])
def test_the_exit_code_is_reported_though_nobody_reads_what_is_printed(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a launcher is gone before its ranks."""
    values = LONG | {"dump_path": str(tmp_path / "run"), "parallel": False}
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    faults = [fault("SIGTERM", "half written", file="params.json")] if when != "later" else []
    with started(values, 0, faults={0: faults}) as process:
        assert process.stderr is not None and process.stdout is not None
        process.stderr.close()
        process.stdout.close()
        if when == "later":
            wait_until(lambda: iterations(values["dump_path"]) >= 2)
            process.terminate()
        assert process.wait(GUARD) == 143
    assert (tmp_path / "ended.143").exists() and not (tmp_path / "ended.1").exists()


def test_what_follows_an_interrupted_run_has_to_end_in_time_too() -> None:
    """Such as an environment that never closes."""
    program = """
import os, signal, threading
from mmaml.parallel.shutdown import shutdown
with shutdown.handling_signals():
    try:
        with shutdown.finishing(0.1):
            os.kill(os.getpid(), signal.SIGTERM)
            shutdown.check()
    finally:
        threading.Event().wait()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=GUARD)
    assert ended.returncode == 1 and "Timeout (0:00:00.100000)!" in ended.stderr


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asked = Shutdown()
    try:
        with asked.handling_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert asked.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_mpi_leaves_the_signal_of_a_closed_terminal_to_the_run() -> None:
    """UCX, where an MPI library brings it, takes SIGHUP when it is loaded."""
    program = """
import os, signal
from mmaml.process_settings import prepare_process
prepare_process()
signal.signal(signal.SIGHUP, lambda number, frame: print("heard"))
from mpi4py import MPI
os.kill(os.getpid(), signal.SIGHUP)
"""
    variables = {name: value for name, value in os.environ.items() if name != UCX_SIGNAL[0]}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert done.stdout == "heard\n", done.stderr
