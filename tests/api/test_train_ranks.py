"""`mmaml.train` on several ranks: processes of their own, whose rows and errors come back."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import mmaml
from mmaml.api.ranks import _Following
from mmaml.storage import checkpoint
from tests.helpers.support import SMALL, dump
from tests.helpers.waiting import wait_until

ROOT = Path(__file__).parents[2]
SMALL_IN_PARALLEL = SMALL | {"parallel": True, "algorithm": "mmaml"}


@pytest.mark.ranks
def test_rows_arrive_and_parameters_have_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is found where this process finds it."""
    (tmp_path / "users_own.py").write_text("from tests.helpers.probes import RandomLengths as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    keys = SMALL_IN_PARALLEL | {"env": "users_own:Mine", "n_itr": 3}
    rows: list[Mapping[str, float]] = []
    threads, environment = torch.get_num_threads(), dict(os.environ)
    two = mmaml.train(keys, ranks=2, dump_path=dump(tmp_path, "two"), callbacks=[rows.append])
    assert "iteration 3/3" in capsys.readouterr().out
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, environment)
    one = mmaml.train(keys, dump_path=dump(tmp_path, "one"), show=False)
    assert [row["Itr"] for row in rows] == [0, 1, 2]
    assert {k: v for k, v in rows[-1].items() if v == v} == {k: v for k, v in two.last.items() if v == v}
    expected, found = (checkpoint.load(run.folder)["parameters"] for run in (one, two))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.ranks
@pytest.mark.parametrize("stops", [True, False])
def test_a_callback_ends_the_run_in_order(tmp_path: Path, stops: bool) -> None:
    given: list[float] = []

    def ends(row: Mapping[str, float]) -> None:
        given.append(row["Itr"])
        if row["Itr"] == 1:
            raise mmaml.StopTraining if stops else KeyError("as asked")

    keys = SMALL_IN_PARALLEL | {"n_itr": 100_000, "save_steps": 100_000, "dump_path": dump(tmp_path, "run")}
    if stops:
        done = mmaml.train(keys, ranks=2, callbacks=[ends], show=False)
        assert done.last["Itr"] < 99_999
    else:
        with pytest.raises(KeyError, match="as asked"):
            mmaml.train(keys, ranks=2, callbacks=[ends], show=False)
    assert given == [0, 1]
    assert 2 <= checkpoint.load(tmp_path / "run")["iteration"] < 100_000


class _Reported:
    """The lines of ranks: a row at first, and how they ended once they have, if they say it."""

    def __init__(self, process: subprocess.Popen[str], outcome: BaseException | None, says_it: bool) -> None:
        self.process, self.row = process, json.dumps({"row": {"Itr": 0}})
        self.last = [json.dumps({"outcome": base64.b64encode(pickle.dumps(outcome)).decode()})] if says_it else []

    def read(self) -> list[str]:
        lines, self.row = [self.row] if self.row else [], ""
        if self.process.poll() is not None:
            lines, self.last = lines + self.last, []
        return lines


@pytest.mark.parametrize("outcome", [None, mmaml.RunStopped("by SIGTERM"), "nothing"])
def test_ranks_that_fail_after_a_callback_has_stopped_them_do_not_pass_for_ended(outcome: Any) -> None:
    """There may be no checkpoint of the last iteration then, as there is where they say how they ended."""

    def stop(row: Mapping[str, float]) -> None:
        raise mmaml.StopTraining

    with subprocess.Popen(["sleep", "1000"], text=True) as process:
        lines: Any = _Reported(process, outcome, says_it=outcome != "nothing")
        raised = _Following(process, lines, [stop]).until_end()
    assert process.returncode == -signal.SIGTERM
    assert (raised is not None and "the ranks failed" in str(raised)) == (outcome == "nothing")


@pytest.mark.ranks
def test_ctrl_c_ends_the_ranks_in_order(tmp_path: Path) -> None:
    def interrupts(row: Mapping[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    keys = SMALL_IN_PARALLEL | {"n_itr": 100_000, "dump_path": dump(tmp_path, "run")}
    with pytest.raises(KeyboardInterrupt):
        mmaml.train(keys, ranks=2, callbacks=[interrupts], show=False)
    assert checkpoint.load(tmp_path / "run")["iteration"] >= 1


@pytest.mark.ranks
def test_errors_of_the_ranks_are_raised(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What stops a run in order, and a fault, whose traceback the ranks print."""
    probes = "tests.helpers.probes:"
    keys = SMALL_IN_PARALLEL | {"env": probes + "RandomLengths"}
    with pytest.raises(mmaml.RunStopped, match="max_failed_tasks"):
        failing = {"env_kwargs": {"fail_at": 1}, "max_failed_tasks": 1}
        mmaml.train(keys | failing, ranks=2, dump_path=dump(tmp_path, "stopped"))
    with pytest.raises(RuntimeError, match="the ranks failed"):
        mmaml.train(keys, ranks=2, env_kwargs={"fail_on_rank": 1}, dump_path=dump(tmp_path, "fault"))
    assert "the probe fails as asked" in capfd.readouterr().err


@pytest.mark.ranks
def test_ranks_end_with_the_program_that_started_them(tmp_path: Path) -> None:
    """It is killed; they notice, with the next row, and leave a checkpoint."""
    keys = SMALL_IN_PARALLEL | {"n_itr": 100_000, "dump_path": dump(tmp_path, "run")}
    program = f"""
import os, signal, mmaml
mmaml.train({keys!r}, ranks=2, show=False, callbacks=[lambda row: os.kill(os.getpid(), signal.SIGKILL)])
"""
    pipe = subprocess.PIPE
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT)
    assert done.returncode == -signal.SIGKILL, done.stdout
    # The lock is gone with the run, which goes on after the program.
    wait_until(lambda: (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / ".lock").exists())
    assert checkpoint.load(tmp_path / "run")["iteration"] >= 1


def test_what_ranks_cannot_do_is_refused(tmp_path: Path) -> None:
    keys = SMALL_IN_PARALLEL | {"dump_path": dump(tmp_path, "run")}
    with pytest.raises(mmaml.UsageError, match="ranks: expected at most"):
        mmaml.train(keys, ranks=5)
    with pytest.raises(mmaml.UsageError, match="parallel: expected true"):
        mmaml.train(keys, ranks=2, parallel=False)
    assert not (tmp_path / "run").exists()
