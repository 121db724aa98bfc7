"""The scripts that take a run take one of any algorithm: it goes on, is measured, drawn and shown."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmaml.cli import train
from mmaml.config.algorithms import ALGORITHMS
from mmaml.launcher import protocol
from mmaml.storage import checkpoint
from tests.helpers.support import ADAPTING, REMEMBERING, progress, run, small_config

SCRIPTS = Path(__file__).parents[2] / "run_scripts"
Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a run of one iteration of an algorithm, on the point mass."""
    folder = tmp_path_factory.mktemp("scripts")

    def path(algorithm: str) -> Path:
        if not (folder / algorithm).exists():
            run(small_config(algorithm, n_itr=1, num_inner_grad_steps=2, dump_path=str(folder / algorithm)))
        return folder / algorithm

    return path


def script(name: str, *arguments: Any) -> None:
    main = runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("algorithm", ADAPTING)
def test_evaluation(algorithm: str, runs: Runs, tmp_path: Path) -> None:
    """With more steps than in training, and other step sizes, on which what precedes the first step does not depend."""
    found = []
    choices = ((), () if algorithm in REMEMBERING else ("--inner_lr", 0.1, 1.0))
    for number, rates in enumerate(choices):
        output = tmp_path / f"{number}.json"
        given = ("--restore_path", runs(algorithm), "--num_tasks", 5, "--num_adapt_steps", 4, "--output", output)
        script("evaluate", *given, *rates)
        found.append(json.loads(output.read_text()))
    usual, other = (np.array([task["return"] for task in one["tasks"]]) for one in found)
    assert [one["algorithm"] for one in found] == [algorithm] * 2
    assert usual.shape == (5, 5) and np.isfinite(usual).all()
    np.testing.assert_array_equal(other[:, :2], usual[:, :2])
    if algorithm not in REMEMBERING:
        assert found[1]["inner_lr"] == [0.1, 1.0] and (other[:, -1] != usual[:, -1]).all()


@pytest.mark.parametrize("algorithm", REMEMBERING)
def test_step_sizes_for_an_algorithm_without_steps_are_refused(
    algorithm: str, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    assert main(["--restore_path", str(runs(algorithm)), "--inner_lr", "0.1"]) == 2
    expected = f'--inner_lr: has no effect on a run of algorithm "{algorithm}"; leave it out'
    assert capsys.readouterr().err.strip() == f"error: {expected}"


def test_what_does_not_adapt_is_not_evaluated_after_steps(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--restore_path", str(runs("mgrl")), "--num_tasks", "5", "--output", str(tmp_path / "out.json")]
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    assert main([*given, "--num_adapt_steps", "1"]) == 2
    expected = '0 with algorithm "mgrl", which does not adapt to a task'
    assert capsys.readouterr().err.splitlines()[-1] == f"error: --num_adapt_steps: expected {expected}, got 1"
    assert main(given) == 0
    assert "\nreturn per episode without adaptation, over test tasks\n" in capsys.readouterr().out
    returns = np.array([task["return"] for task in json.loads((tmp_path / "out.json").read_text())["tasks"]])
    assert returns.shape == (5, 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pictures(algorithm: str, runs: Runs, tmp_path: Path) -> None:
    script("plot", runs(algorithm), "--rollouts_per_task", 2, "--output", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"learning_curves.png", "trajectories.png"}


@pytest.mark.parametrize("algorithm", ["maesn", "tesp"])
def test_moving_pictures(algorithm: str, runs: Runs, tmp_path: Path) -> None:
    script("visualize_policy", "--restore_path", runs(algorithm), "--every", 4, "--width", 100, "--output", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"policy.gif", "policy.mp4", "policy.png"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_going_on(algorithm: str, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By any run script: the algorithm is the run's own."""
    for variable in protocol.SIZE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "argv", ["run_scripts/some_script.py"])
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: None)
    copy = tmp_path / "copy"
    arguments = ["--restore_path", str(runs(algorithm)), "--dump_path", str(copy), "--overrides", '{"n_itr": 2}']
    assert train.run("promp", arguments) == 0
    assert json.loads((copy / "params.json").read_text())["algorithm"] == algorithm
    assert [row["Itr"] for row in progress(copy)] == ["1"] and checkpoint.load(copy)["iteration"] == 2
