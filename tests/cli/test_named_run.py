"""The run scripts that take --name and -c: the command line of another program."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "run_scripts"
SMALL = """
seed: 7
meta_epochs: 1
max_episode_steps: 4
meta_batch_size: 3
rollouts_per_meta_task: 2
parallel: false
ppo:
  lr: 2.0e-3
"""


@pytest.mark.parametrize("name", ["rl2", "snail", "epn", "varibad", "mgrl"])
@pytest.mark.parametrize("flags", [("--name", "-c"), ("-n", "--config"), ("--name", "--config_file")])
def test_a_named_run_trains(name: str, flags: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: None)
    Path("small.yml").write_text(SMALL)
    argv = [str(SCRIPTS / f"{name}_run.py"), flags[0], "experiment_name", flags[1], "small.yml"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(argv[0], run_name="__main__")
    assert ended.value.code == 0
    params = json.loads((tmp_path / "runs" / "experiment_name" / "params.json").read_text())
    assert params["algorithm"] == name and params["seed"] == 7 and params["max_path_length"] == 4
    assert params["learning_rate"] == 2e-3
    assert len((tmp_path / "runs" / "experiment_name" / "progress.csv").read_text().splitlines()) == 2


def test_a_name_and_a_directory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "rl2_run.py"), "--name", "x", "--dump_path", "y"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().startswith("error: --name: sets dump_path, which --overrides sets too")


@pytest.mark.parametrize("name", ["", "../x", "a/../../x", "/x", "."])
def test_a_run_stays_within_the_directory_of_named_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "rl2_run.py"), "--name", name])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert ended.value.code == 2 and not [*tmp_path.iterdir()]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --name/-n: expected a path within runs/, without '..', got ")
