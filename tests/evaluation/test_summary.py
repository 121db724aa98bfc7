"""Statistics of an evaluation, and their table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmaml.evaluation import summary
from tests.helpers.evaluating import returns_of


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.30265), (9, 2.26216), (39, 2.02269), (10**4, 1.9602)]
)
def test_students_quantile(degrees: int, expected: float) -> None:
    assert summary.student_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-4)
    assert summary.student_quantile(0.5, degrees) == pytest.approx(0.0, abs=1e-6)
    assert summary.student_quantile(0.025, degrees) == pytest.approx(-expected, rel=1e-4)


def test_the_interval_covers_the_mean_95_times_in_100() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    intervals = np.array([summary._spread(sample)["interval95"] for sample in samples])
    covered = (intervals[:, 0] < 3.0) & (intervals[:, 1] > 3.0)
    assert abs(covered.mean() - 0.95) < 0.015


def test_statistics_over_all_tasks_and_over_each_mode() -> None:
    rng = np.random.default_rng(0)
    returns, modes = rng.normal(size=(9, 3)), np.array([0, 2, 0, 0, 2, 5, 2, 0, 0])
    success = rng.random((9, 3))
    found = summary.summarise(returns, modes, success)
    assert [task["mode"] for task in found["tasks"]] == list(modes)
    np.testing.assert_array_equal(returns_of(found), returns)
    assert list(found["modes"]) == ["0", "2", "5"]
    for group, chosen in [(found["overall"], modes >= 0), (found["modes"]["2"], modes == 2)]:
        assert group["num_tasks"] == chosen.sum()
        for k, step in enumerate(group["return"]):
            values = returns[chosen, k]
            assert step["adapt_steps"] == k
            assert step["mean"] == pytest.approx(values.mean())
            assert step["std"] == pytest.approx(np.std(values, ddof=1))
            assert step["success_rate"] == pytest.approx(success[chosen, k].mean())
            assert np.mean(step["interval95"]) == pytest.approx(values.mean())
    assert found["modes"]["5"]["return"][0] == {
        "adapt_steps": 0,
        "mean": returns[5, 0],
        "std": None,
        "interval95": None,
        "success_rate": success[5, 0],
    }
    json.dumps(found, allow_nan=False)


def test_modes_that_have_names_are_called_by_them() -> None:
    modes, returns = np.array([0, 0, 1, 1]), np.arange(4.0)[:, None]
    unknown, named = np.full((4, 1), np.nan), ("push-v3", "button-press-topdown-wall-v3")
    found = summary.summarise(returns, modes, unknown, mode_names=named)
    assert [group["name"] for group in found["modes"].values()] == list(named)
    rows = summary.table(found).splitlines()
    assert [row.split()[0] for row in rows[1:3]] == list(named) and len({len(row) for row in rows[1:]}) == 1
    assert rows[1].index(" 2 ") + 2 == rows[2].index(" 2 ") + 2 == rows[0].index("tasks") + len("tasks")
    assert "mode 1" in summary.table(summary.summarise(returns, modes, unknown))


def test_what_was_not_measured_is_left_out() -> None:
    nan = np.nan
    found = summary.summarise(np.array([[1.0], [nan], [3.0]]), np.array([0, 1, 0]), np.full((3, 1), nan))
    assert found["overall"]["return"][0]["mean"] == 2.0
    assert found["modes"]["1"]["return"] == [{"adapt_steps": 0, "mean": None, "std": None, "interval95": None}]
    assert found["tasks"][1] == {"mode": 1, "return": [None]}
    json.dumps(found, allow_nan=False)
    assert "success" not in summary.table(found)


def test_a_trial_is_worth_the_sum_of_its_episodes() -> None:
    """Which tables of bandits give. Its interval is that of the sum, whose episodes depend on each other."""
    returns = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    unknown = np.full((3, 2), np.nan)
    found = summary.summarise(returns, np.zeros(3, int), unknown, by_episode=True)
    assert found["overall"]["trial"]["mean"] == 5.0 and found["overall"]["trial"]["std"] == pytest.approx(2.0)
    rows = [line.split() for line in summary.table(found, by_episode=True).splitlines()[1:]]
    assert [row[:2] for row in rows[-2:]] == [["2", "3.00"], ["trial", "5.00"]]
    steps = summary.summarise(returns, np.zeros(3, int), unknown)
    assert "trial" not in steps["overall"] and "trial" not in summary.table(steps)


def test_the_table_is_aligned_and_complete() -> None:
    returns = np.array([[-1234.5, 1.25], [-1000.0, 2.0], [3.0, 4.0]])
    text = summary.table(summary.summarise(returns, np.array([0, 0, 1]), np.full((3, 2), 0.5)))
    header, *rows = text.splitlines()
    assert len(rows) == 6 and header.split() == [
        "tasks",
        "steps",
        "mean",
        "std",
        "95%",
        "interval",
        "success",
    ]
    for row, mean in zip(rows, ["-1117.25", "1.62", "3.00", "4.00", "-743.83", "2.42"], strict=True):
        assert row[: header.index("mean") + 4].split()[-1] == mean and row.endswith("50.0%")
