"""Runs that version 0.1.0 began go on with this version as they would have with that one, up to rounding.

tests/data/runs_of_0.1.0 holds folders of runs by version 0.1.0 on the default point mass, with sizes as in
`support.SMALL` and 2 inner steps, after 2 iterations; and in `continued` what version 0.1.0 made of each in 2 more.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.cli import train
from mmaml.storage import checkpoint
from tests.helpers.support import progress

RUNS = Path(__file__).parents[1] / "data" / "runs_of_0.1.0"
ITERATIONS = 4


def flat(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([parameters[name].flatten() for name in sorted(parameters)])


def without_times(rows: list[dict[str, str]]) -> list[dict[str, float]]:
    """A log's numbers but those of a clock."""
    clocks = ("Time", "ItrTime", "EnvStepsPerSecond")
    return [{k: float(v) for k, v in row.items() if not k.startswith(clocks)} for row in rows]


@pytest.mark.parametrize("algorithm", ["mmaml", "maml", "tesp"])
def test_a_run_of_0_1_0_goes_on_as_it_would_have(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a run's own folder is a relative path
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: None)  # slow, and not what is tested
    shutil.copytree(RUNS / algorithm, algorithm)
    started = checkpoint.load(algorithm)
    more: dict[str, Any] = {"n_itr": ITERATIONS}
    assert train.run(algorithm, ["--restore_path", algorithm, "--overrides", json.dumps(more)]) == 0

    ended, expected = checkpoint.load(algorithm), checkpoint.load(RUNS / "continued" / algorithm / "itr_000004.pt")
    assert ended["iteration"] == expected["iteration"] == ITERATIONS
    assert ended["env_steps"] == expected["env_steps"]
    assert ended["parameters"].keys() == expected["parameters"].keys()
    rows, expected_rows = (without_times(progress(path)) for path in (algorithm, RUNS / "continued" / algorithm))
    assert [row["Itr"] for row in rows] == [0, 1, 2, 3]
    assert rows[0].keys() >= expected_rows[0].keys()

    ours, theirs = flat(ended["parameters"]), flat(expected["parameters"])
    assert (ours - theirs).norm() < 0.01 * (theirs - flat(started["parameters"])).norm()
    columns = [name for name in expected_rows[0] if name.startswith("Step_")]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert [row[name] for name in columns] == pytest.approx([expected_row[name] for name in columns], rel=1e-3)
