"""What cannot be evaluated or drawn: tasks that fail are left out, and the rest is one line."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmaml.envs.base import Task
from mmaml.envs.point_mass import PointMass
from mmaml.errors import Failure, NotFinite, TasksFailed
from mmaml.worker import Worker
from tests.helpers.evaluating import SCRIPTS, small_run
from tests.helpers.probes import GoesWrong


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in whose environments something may go wrong later."""
    values = {"env": "tests.helpers.probes:GoesWrong", "env_kwargs": {"tasks": []}, "algorithm": "promp", "n_itr": 1}
    return small_run(tmp_path_factory.mktemp("probed") / "run", **values)


def _goes_wrong(monkeypatch: pytest.MonkeyPatch, *places: int, fault: str = "error") -> None:
    """From now on, in the tasks at these places."""
    draw = GoesWrong._draw_tasks

    def bad(self: GoesWrong, *arguments: Any) -> list[Task]:
        self.bad_tasks = places
        return draw(self, *arguments)

    monkeypatch.setattr(GoesWrong, "_draw_tasks", bad)
    monkeypatch.setattr(GoesWrong, "fault", property(lambda self: fault, lambda self, value: None), raising=False)


def test_tasks_whose_environment_fails_are_left_out_and_told(
    probed: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluate(restore_path=probed)
    _goes_wrong(monkeypatch, 1, 4)
    capsys.readouterr()
    partly = evaluate(restore_path=probed)
    assert partly["tasks"] == [task for place, task in enumerate(whole["tasks"]) if place not in (1, 4)]
    assert partly["overall"]["num_tasks"] == 5
    errors = capsys.readouterr().err
    assert errors.count("Traceback") == 1
    reported = [line.partition(" failed")[0] for line in errors.splitlines() if line.startswith("warning")]
    assert reported == [f"warning: the environment of task {place}" for place in (1, 4)]


@pytest.mark.parametrize(
    ("arguments", "fault", "expected"),
    [
        (["--inner_lr", "1e30"], "", "is -inf; lower inner_lr"),
        (
            [],
            "reward",
            "task 0 (mode 0), collection 0, step 0 of rollout 0: reward is nan; lower inner_lr where there are inner "
            "steps, or take an earlier checkpoint; correct the environment if it returned this number",
        ),
        ([], "error", "the environments of all 3 tasks failed; fix it"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    run: Path,
    probed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    fault: str,
    expected: str,
) -> None:
    if fault:
        _goes_wrong(monkeypatch, 0, 1, 2, fault=fault)
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    capsys.readouterr()
    assert main(["--restore_path", str(probed if fault else run), "--num_tasks", "3", *arguments]) == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert captured.out == "" and error.startswith("error: ") and expected in error
    assert captured.err.count("Traceback") == (fault == "error")


@pytest.mark.parametrize("error", [NotFinite("reward is nan"), TasksFailed([Failure(0, "as asked", "")])])
def test_trajectories_that_cannot_be_drawn_are_one_line(
    run: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Worker, "collect", fail)
    for words in (["plot.py", str(run)], ["visualize_policy.py", "--restore_path", str(run)]):
        assert runpy.run_path(str(SCRIPTS / words[0]))["main"](words[1:]) == 2
        reported = capsys.readouterr().err
        assert reported.startswith("error: ") and reported.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate.py", "--restore_path"],
        ["plot.py"],
        ["visualize_policy.py", "--restore_path"],
    ],
)
def test_tasks_that_cannot_be_drawn_are_one_line(
    run: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the traceback of the environment's code."""

    def fail(*_: Any) -> None:
        raise LookupError("no such tasks")

    monkeypatch.setattr(PointMass, "_draw_tasks", fail)
    capsys.readouterr()
    assert runpy.run_path(str(SCRIPTS / words[0]))["main"]([*words[1:], str(run)]) == 2
    *trace, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and 'sample_tasks failed for the split "test" (LookupError: no such' in error
    assert [line for line in trace if not line.startswith(" ")] == [
        "Traceback (most recent call last):",
        "LookupError: no such tasks",
    ]


def test_processes_of_an_unknown_launcher_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    assert runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"](["--restore_path", str(run)]) == 2
    assert "start them with this environment's mpirun: mpirun -n 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "RUN: expected a run's directory, got nothing"),
        (["--restore_path", "{tmp}/none"], "got '{tmp}/none', which does not exist"),
        (["--restore_path", "{tmp}"], "got '{tmp}', which contains none"),
        (["--restore_path", "{tmp}/" + 300 * "x"], "restore_path: '{tmp}/xxx"),
        (["--restore_path", "{run}/params.json"], "cannot be read as a checkpoint"),
        (
            ["--restore_path", "{run}", "--num_tasks", "0"],
            "--num_tasks: expected a whole number ≥ 1, got 0",
        ),
        (["--restore_path", "{run}", "--num_tasks", "many"], "--num_tasks"),
        (
            ["--restore_path", "{run}", "--num_adapt_steps", "-1"],
            "--num_adapt_steps: expected a whole number ≥ 0",
        ),
        (["--restore_path", "{run}", "--rollouts_per_task", "0"], "--rollouts_per_task"),
        (
            ["--restore_path", "{run}", "--split", "ood"],
            "--split: expected a split of 'MetaPointEnvMomentumModes', which has train, test, got 'ood'",
        ),
        (["--restore_path", "{run}", "--inner_lr", "0.1", "0"], "a number > 0 and ≤ 1e+30, got '0'"),
        (["--restore_path", "{run}", "--inner_lr", "-1"], "a number > 0 and ≤ 1e+30, got '-1'"),
        (["--restore_path", "{run}", "--inner_lr", "nan"], "a number > 0 and ≤ 1e+30, got 'nan'"),
        (["--restore_path", "{run}", "--inner_lr", "1e300"], "a number > 0 and ≤ 1e+30, got '1e300'"),
        (["--restore_path", "{run}", "--inner_lr", "fast"], "a number > 0 and ≤ 1e+30, got 'fast'"),
        (["--restore_path", "{run}", "--inner_lr"], "--inner_lr"),
        # Before it is looked for: with what a file is called while it is written, the name is too long.
        (["--restore_path", "{tmp}/none", "--output", 250 * "x"], "--output: expected a path that can be written"),
        (["--restore_path", "{run}", "--steps", "3"], "--steps"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, run: Path, capsys: Any, arguments: list[str], expected: str
) -> None:
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    capsys.readouterr()
    places = {"tmp": tmp_path, "run": run}
    assert main([argument.format(**places) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and expected.format(**places) in captured.err
