"""Columns of the log: returns over episodes, evaluation on held-out tasks; embeddings that cannot be had."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.errors import RunStopped
from mmaml.evaluation.periodic import evaluation_row
from mmaml.meta_batch import Master
from mmaml.reporting.columns import returns_row
from mmaml.worker import Worker
from tests.helpers.support import Log, run, small_config

# Returns of the episodes of each task, and which of them succeeded, before and after adaptation.
RETURNS = [[[1.0], [4.0, 6.0, 11.0]], [[2.0, 0.0, 1.0, 7.0], [-3.0, 5.0]]]
SUCCESSES = [[[1], [0, 0, 1]], [[0, 0, 0, 1], [1, 1]]]


def _sampled(returns: list[list[list[float]]], successes: list[list[list[int]]]) -> dict[str, np.ndarray]:
    """Statistics as the ranks give them, [tasks, collections], from [collections][tasks][episodes]."""

    def table(function: Any, values: Any) -> np.ndarray:
        return np.array([[function(task) for task in step] for step in values], dtype=np.float64).T

    return {
        "return": table(np.mean, returns),
        "return_std": table(np.std, returns),
        "return_min": table(min, returns),
        "return_max": table(max, returns),
        "episodes": table(len, returns),
        "success": table(np.mean, successes),
        "blow_ups": np.array([[0.0, 2.0], [1.0, 0.0]]),
    }


def test_returns_are_over_all_episodes_of_all_tasks() -> None:
    row = returns_row(_sampled(RETURNS, SUCCESSES), "Some-")
    for step, tasks in enumerate(RETURNS):
        episodes = np.concatenate(tasks)
        expected = {
            "AverageReturn": episodes.mean(),
            "StdReturn": episodes.std(),
            "MinReturn": episodes.min(),
            "MaxReturn": episodes.max(),
            "NumEpisodes": len(episodes),
            "SuccessRate": np.concatenate(SUCCESSES[step]).mean(),
        }
        assert {name: row[f"Some-Step_{step}-{name}"] for name in expected} == pytest.approx(expected)
    assert row["Some-BlowUps"] == 3


class FakeRanks:
    """Records what it is asked for and answers with the statistics above."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.scalings: list[torch.Tensor] = []

    def listen(self, listener: Any) -> None:
        pass

    def call(self, method: str, items: Any, parameters: Any, scaling: Any, **options: Any) -> dict[str, np.ndarray]:
        self.calls.append((method, items, options))
        self.scalings.append(scaling)
        return _sampled(RETURNS, SUCCESSES)


def test_evaluation_is_on_the_same_test_tasks_each_time() -> None:
    config = small_config("promp", eval_interval=2, eval_num_tasks=5, n_itr=10)
    worker = Worker(config)
    ranks: Any = FakeRanks()
    master = Master(config, ranks, worker, Log())
    rows = [evaluation_row(master, torch.zeros(1), iteration) for iteration in range(4)]
    assert [np.isnan(row["Eval-Step_1-AverageReturn"]) for row in rows] == [True, False, True, False]
    assert rows[1] == {"Eval-Step_0-AverageReturn": 5.5, "Eval-Step_1-AverageReturn": 2.0}

    held_out, trained_on = (worker.sample_tasks(5, 0, purpose=purpose) for purpose in ("test", "train"))
    worker.close()
    assert len(ranks.calls) == 2
    for method, items, options in ranks.calls:
        assert method == "collect" and options["purpose"] == "test"
        assert [position for position, _ in items] == list(range(5))
        asked = [task.values for _, task in items]
        assert str(asked) == str([task.values for task in held_out])
        assert str(asked) != str([task.values for task in trained_on])


def test_an_evaluation_normalises_as_the_run_does_by_then() -> None:
    config = small_config("rl2", eval_interval=1, normalize_observations=True)
    ranks: Any = FakeRanks()
    master = Master(config, ranks, Worker(config), Log())
    master.statistics.moments["observations"].add(4.0, np.arange(1.0, 5.0), np.arange(5.0, 9.0))
    evaluation_row(master, torch.zeros(1), 0)
    (scaling,), expected = ranks.scalings, master.statistics.vector()
    assert expected is not None and torch.equal(scaling, expected)


# Task embeddings, at the end of a run.


def _embedding_run(tmp_path: Path, fault: str, **values: Any) -> dict[str, Any]:
    # Of tasks, that at place 5 goes wrong, which is among the 8 to embed, not among the 4 of an iteration.
    wrong = {"tasks": [5], "fault": fault}
    values = {"dump_path": str(tmp_path / "run"), "te_save_path": str(tmp_path / "embeddings.npz")} | values
    return run(small_config(env="tests.helpers.probes:GoesWrong", env_kwargs=wrong, num_embeddings=8, **values))


def _told(tmp_path: Path) -> list[str]:
    return (tmp_path / "run" / "messages.log").read_text().splitlines()


def test_a_disk_that_refuses_the_embeddings_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("mmaml.evaluation.embeddings.atomic_file", refuse)
        assert _embedding_run(tmp_path, "error")["iteration"] == 2
    # The task that fails is left out, and reported before.
    assert "te_save_path: " in _told(tmp_path)[-1] and "(No space left on device)" in _told(tmp_path)[-1]
    _embedding_run(tmp_path, "error", restore_path=str(tmp_path / "run"))
    with np.load(tmp_path / "embeddings.npz") as saved:
        assert len(saved["embedding"]) == len(saved["mode"]) == 7


def test_tasks_of_all_kinds_are_written_with_their_embeddings(tmp_path: Path) -> None:
    """Numbers as numbers, the rest as text; what some tasks lack is left out."""
    path = tmp_path / "embeddings.npz"
    run(
        small_config(
            env="tests.helpers.probes:Oddities",
            num_embeddings=3,
            dump_path=str(tmp_path / "run"),
            te_save_path=str(path),
        )
    )
    with np.load(path) as saved:
        found = {name: saved[name].tolist() for name in saved.files}
    assert np.shape(found.pop("embedding")) == (3, 8)
    assert found == {
        "mode": [0, 1, 0],
        "sign": [1, 1, 1],
        "goal": [[0, 0.5], [1, 0.5], [2, 0.5]],
        "file": [0, 1, 2],
        "args": ["a", "b", "a"],
        "7": [0, -1, -2],
        "unlike": ["[0]", "[0, 1]", "[0, 1, 2]"],
        "uneven": ["[[1], [0, 2]]", "[[1], [1, 2]]", "[[1], [2, 2]]"],
        "unlike things": ["[Thing 0]", "[Thing 1, Thing 1]", "[Thing 2, Thing 2, Thing 2]"],
        "thing": ["Thing 0", "Thing 1", "Thing 2"],
        "nothing": ["None"] * 3,
        "complex": ["array([0.+1.j])", "array([0.+1.j, 0.+1.j])", "array([0.+1.j, 0.+1.j, 0.+1.j])"],
    }


def test_tasks_that_cannot_be_written_end_no_run(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.npz"
    values = {"dump_path": str(tmp_path / "run"), "te_save_path": str(path), "env_kwargs": {"nameless": True}}
    assert run(small_config(env="tests.helpers.probes:Oddities", **values))["iteration"] == 2
    assert f"te_save_path: '{path}' could not be written (LookupError: no name); fix" in _told(tmp_path)[-1]
    assert not path.exists()


def test_bad_numbers_in_the_tasks_to_embed_end_no_run(tmp_path: Path) -> None:
    assert _embedding_run(tmp_path, "reward")["iteration"] == 2
    (line,) = _told(tmp_path)
    assert "warning: no task embeddings, since on held-out tasks, task 5" in line
    assert not (tmp_path / "embeddings.npz").exists()


def test_failing_tasks_to_embed_end_the_run_with_a_word(tmp_path: Path) -> None:
    with pytest.raises(RunStopped):
        _embedding_run(tmp_path, "error", max_failed_tasks=1)
    assert "stopped: the environment of a task failed" in _told(tmp_path)[-1]
    assert "(after 2 iterations; " in _told(tmp_path)[-1]
