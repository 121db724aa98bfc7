"""`mmaml.train` in the caller's own process."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import mmaml
from mmaml.config.shipped import shipped_configs
from mmaml.storage import checkpoint
from mmaml.storage.compatibility import check_fits
from mmaml.worker import Worker
from tests.helpers.support import SMALL, dump, progress, run, small_config

ROOT = Path(__file__).parents[2]


def numbers(row: Mapping[str, float]) -> dict[str, float]:
    """A row without times, and without what was not measured."""
    return {k: v for k, v in row.items() if "Time" not in k and "PerSecond" not in k and not math.isnan(v)}


def test_a_run_gives_its_folder_checkpoint_and_rows(tmp_path: Path) -> None:
    rows: list[Mapping[str, float]] = []
    done = mmaml.train(SMALL, algorithm="maml", dump_path=dump(tmp_path, "run"), callbacks=[rows.append])
    assert done.folder == tmp_path / "run"
    assert done.checkpoint == done.folder / "checkpoints" / "itr_000002.pt"
    assert [row["Itr"] for row in rows] == [0, 1]
    assert list(map(numbers, rows)) == list(map(numbers, done.rows()))
    assert numbers(done.last) == numbers(rows[-1])
    assert all(type(value) in (int, float) for row in rows for value in row.values())
    assert len(progress(done.folder)) == 2


def test_a_run_is_the_one_that_the_command_line_makes(tmp_path: Path) -> None:
    expected = run(small_config("promp", dump_path=dump(tmp_path, "a")))
    done = mmaml.train(SMALL, algorithm="promp", dump_path=dump(tmp_path, "b"), show=False)
    state = checkpoint.load(done.folder)
    assert all(torch.equal(state["parameters"][name], value) for name, value in expected["parameters"].items())


@pytest.mark.parametrize("given", ["path", "text", "name", "config", "mapping"])
def test_a_configuration_may_be_given_in_any_form(tmp_path: Path, given: str) -> None:
    keys = SMALL | {"dump_path": dump(tmp_path, "run"), "n_itr": 1}
    path = shipped_configs()["navigation_2d"]
    config: Any = {
        "path": path,
        "text": str(path),
        "name": "navigation_2d",
        "mapping": {"env": "2DNavigation-v0", "algorithm": "promp"},
        "config": small_config("promp", env="2DNavigation-v0"),
    }[given]
    done = mmaml.train(config, **keys)
    assert checkpoint.load(done.folder)["config"]["env"] == "2DNavigation-v0"


def test_a_run_is_continued(tmp_path: Path) -> None:
    whole = mmaml.train(SMALL, algorithm="mmaml", n_itr=3, dump_path=dump(tmp_path, "whole"), show=False)
    part = mmaml.train(SMALL, algorithm="mmaml", n_itr=1, dump_path=dump(tmp_path, "part"), show=False)
    rows: list[Mapping[str, float]] = []
    again = mmaml.train(restore_path=str(part.folder), n_itr=3, callbacks=[rows.append], show=False)
    assert again.folder == part.folder and [row["Itr"] for row in rows] == [1, 2]
    one, two = (checkpoint.load(done.folder)["parameters"] for done in (whole, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_with_nothing_left_to_do_leaves_what_it_began_with(tmp_path: Path) -> None:
    first = mmaml.train(SMALL, n_itr=1, dump_path=dump(tmp_path, "first"), show=False)
    again = mmaml.train(restore_path=str(first.folder), show=False)
    assert (again.folder, again.checkpoint) == (first.folder, first.checkpoint)
    for source in (first.folder, first.checkpoint):
        branch = mmaml.train(restore_path=str(source), dump_path=dump(tmp_path, source.name + "_on"), show=False)
        assert (branch.checkpoint, branch.last, branch.rows()) == (first.checkpoint, {}, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Itr,Time\n0,1.5\n1,soon\n", "line 3, column 'Time': expected a number, got 'soon'; "),
        ("Itr,Time\n0,1.5\n\nfirst,1\n", "line 4, column 'Itr': expected an iteration, a whole number from 0, got "),
        ("Itr,Time\n0\n1,2\n", "line 2: expected 2 cells, from column 'Itr' to 'Time', got 1; "),
        ("Itr,Time\n0,1,5\n1,2\n", "line 2: expected 2 cells, from column 'Itr' to 'Time', got 3; "),
        ("Time\n1\n", ": expected a header with the column 'Itr', got 'Time'; "),
    ],
)
def test_rows_that_were_edited_by_hand_are_refused_by_line_and_column(tmp_path: Path, text: str, expected: str) -> None:
    log = tmp_path / "progress.csv"
    log.write_text(text)
    with pytest.raises(mmaml.UsageError, match=re.escape(f"'{log}'") + ".*" + re.escape(expected) + ".*correct it"):
        mmaml.TrainedRun(tmp_path, tmp_path, {}).rows()


def test_an_edited_row_of_an_earlier_iteration_leaves_the_last_one(tmp_path: Path) -> None:
    first = mmaml.train(SMALL, n_itr=2, dump_path=dump(tmp_path, "run"), show=False)
    log = first.folder / "progress.csv"
    header, row, *rest = log.read_text().splitlines(keepends=True)
    log.write_text(header + row.replace(",", ",soon", 1) + "".join(rest))
    again = mmaml.train(restore_path=str(first.folder), show=False)
    assert again.last == first.last
    with pytest.raises(mmaml.UsageError, match="line 2"):
        again.rows()


@pytest.mark.parametrize("callbacks", [print, None, [None]])
def test_callbacks_that_cannot_be_called_are_refused_before_anything_runs(callbacks: Any, tmp_path: Path) -> None:
    with pytest.raises(mmaml.UsageError, match=r"^callbacks: expected functions of a row, in a list, got "):
        mmaml.train(SMALL, dump_path=dump(tmp_path, "run"), callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_name_is_named_by_its_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the program is called that trains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["my_notebook.py"])
    done = mmaml.train(SMALL, algorithm="promp", env="2DNavigation-v0", show=False)
    assert done.folder.parent == tmp_path / "data/promp" and done.folder.name.startswith("2DNavigation-v0-")


def test_a_whole_configuration_brings_no_notices_of_its_defaults(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small_config("promp", cg_iters=7)
    done = mmaml.train(config, n_itr=1, dump_path=dump(tmp_path, "run"), show=False)
    assert capfd.readouterr().err == "notice: no effect under promp: cg_iters\n"
    assert checkpoint.load(done.folder)["config"] == config.replace(n_itr=1, dump_path=str(done.folder)).to_dict()
    other = mmaml.train(config, algorithm="maml", n_itr=1, dump_path=dump(tmp_path, "maml"), show=False)
    assert checkpoint.load(other.folder)["config"]["cg_iters"] == 7


def test_a_callback_that_raises_ends_the_run_in_order(tmp_path: Path) -> None:
    def fails(row: Mapping[str, float]) -> None:
        if row["Itr"] == 1:
            raise KeyError("as asked")

    with pytest.raises(KeyError, match="as asked"):
        mmaml.train(SMALL, n_itr=5, save_steps=50, dump_path=dump(tmp_path, "run"), callbacks=[fails])
    assert checkpoint.load(tmp_path / "run")["iteration"] == 2
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_callback_may_stop_the_run(tmp_path: Path) -> None:
    def enough(row: Mapping[str, float]) -> None:
        if row["Itr"] == 2:
            raise mmaml.StopTraining

    done = mmaml.train(SMALL, n_itr=50, dump_path=dump(tmp_path, "run"), callbacks=[enough])
    assert done.last["Itr"] == 2 and done.checkpoint.name == "itr_000003.pt"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({}, "config"),
        ({"config": 3}, "config"),
        ({"config": "no_such_configuration"}, "config"),
        ({"config": {"n_iter": 3}}, "n_iter"),
        ({"config": SMALL, "meta_batch_size": 0}, "meta_batch_size"),
        ({"config": SMALL, "ranks": 0}, "ranks"),
        ({"config": SMALL, "ranks": 1.5}, "ranks"),
        ({"config": SMALL, "env": "no_module:Class"}, "env"),
        ({"restore_path": "nowhere"}, "restore_path"),
    ],
)
def test_what_the_caller_can_put_right_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mmaml.UsageError, match=argument):
        mmaml.train(**arguments)
    assert not list(tmp_path.iterdir())


def test_nothing_is_shown_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mmaml.train(SMALL, dump_path=dump(tmp_path, "quiet"), show=False)
    assert capfd.readouterr() == ("", "")
    mmaml.train(SMALL, dump_path=dump(tmp_path, "shown"))
    assert "iteration 2/2" in capfd.readouterr().out


def test_ctrl_c_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupts(row: Mapping[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        mmaml.train(SMALL, n_itr=50, dump_path=dump(tmp_path, "run"), callbacks=[interrupts])
    assert checkpoint.load(tmp_path / "run")["iteration"] == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_run_but_not_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmaml.parallel.shutdown.SECONDS_OF_ONE_SIGNAL", -1.0)
    reached: list[str] = []

    def interrupts(row: Mapping[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("after the first")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        mmaml.train(SMALL, n_itr=50, dump_path=dump(tmp_path, "run"), callbacks=[interrupts])
    assert reached == ["after the first"]


def test_a_run_in_another_thread_takes_no_signals(tmp_path: Path) -> None:
    results: list[Any] = []
    handlers: list[Any] = []

    def work() -> None:
        looks = [lambda row: handlers.append(signal.getsignal(signal.SIGINT))]
        results.append(mmaml.train(SMALL, dump_path=dump(tmp_path, "run"), callbacks=looks, show=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].last["Itr"] == 1
    assert {*handlers} == {signal.getsignal(signal.SIGINT)}


HOST = """
import os, signal, sys
import mmaml
{before}
def seen():
    import torch
    numbers = signal.valid_signals()
    return torch.get_num_threads(), dict(os.environ), {{number: signal.getsignal(number) for number in numbers}}
def within(row):
    import torch
    assert torch.get_num_threads() == 1 and os.environ["MKL_CBWR"] == "AUTO,STRICT"
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
{first}
mmaml.train({small!r}, dump_path={folder!r}, callbacks=[within])
import torch
{check}
"""


@pytest.mark.parametrize("loaded", [True, False])
def test_the_process_is_afterwards_as_it_was(tmp_path: Path, loaded: bool) -> None:
    """torch loaded before by the host, with threads of its own choice, or by the run."""
    natural = "assert torch.get_num_threads() == int(sys.argv[1])"
    program = HOST.format(
        before="import torch; torch.set_num_threads(3)" if loaded else "environment = dict(os.environ)",
        first="before = seen()" if loaded else "",
        check="assert seen() == before" if loaded else f"assert dict(os.environ) == environment; {natural}",
        small=SMALL,
        folder=str(tmp_path / "run"),
    )
    variables = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS") and k != "MKL_CBWR"}
    variables |= {"KMP_DUPLICATE_LIB_OK": "True", "PYGAME_HIDE_SUPPORT_PROMPT": "hide"}  # as libraries set them
    count = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    threads = subprocess.run(count, env=variables, capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-c", program, threads]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sigterm_leaves_a_checkpoint_and_goes_on_to_the_program(tmp_path: Path) -> None:
    program = f"""
import os, signal, mmaml
mmaml.train({SMALL | {"n_itr": 50}!r}, dump_path={str(tmp_path / "run")!r},
            callbacks=[lambda row: os.kill(os.getpid(), signal.SIGTERM)])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert checkpoint.load(tmp_path / "run")["iteration"] == 1


def test_a_class_of_the_calling_program_may_be_the_environment(tmp_path: Path) -> None:
    program = f"""
import mmaml
from tests.helpers.probes import TargetAction
class Mine(TargetAction): pass
mmaml.train({SMALL!r}, env="__main__:Mine", dump_path={str(tmp_path / "run")!r})
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_checkpoints_with_what_policies_need_fit_runs(tmp_path: Path) -> None:
    config = small_config("maml", dump_path=dump(tmp_path, "run"))
    state = run(config)
    assert state["environment"]["observation_size"] and "low" in state["environment"]
    check_fits(state, tmp_path, config, Worker(config).algorithm)
    old = {name: value for name, value in state.items() if name != "environment"}
    check_fits(old, tmp_path, config, Worker(config).algorithm)
