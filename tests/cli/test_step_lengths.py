"""scripts/step_lengths.py: how far inner steps move a policy."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.helpers.support import run, small_config

MAIN = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "step_lengths.py"))["main"]


def rows(capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> list[list[float]]:
    """Step, length, KL and return of every inner step."""
    capsys.readouterr()
    assert MAIN([str(path), "--num_tasks", "3", *flags]) == 0
    return [[float(cell) for cell in line.split()] for line in capsys.readouterr().out.splitlines()[2:]]


def test_a_step_of_half_the_size_is_half_as_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    run(small_config("maml", n_itr=1, dump_path=str(path)))
    one, two = rows(capsys, path, "--num_adapt_steps", "2", "--inner_lr", "0.4", "0.1")
    assert [one[0], two[0]] == [1, 2] and 0 < two[1] < one[1] and one[2] > 0.01
    ((_, length, divergence, _),) = rows(capsys, path, "--num_adapt_steps", "1", "--inner_lr", "0.2")
    assert length == pytest.approx(one[1] / 2, abs=1e-3) and divergence < one[2] / 2


def test_a_run_that_takes_no_inner_steps_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    run(small_config("rl2", n_itr=1, dump_path=str(path)))
    assert MAIN([str(path)]) == 2
    assert capsys.readouterr().err.startswith('error: RUN: a run of algorithm "rl2" takes no inner steps')
