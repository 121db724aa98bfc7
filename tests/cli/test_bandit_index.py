"""scripts/bandit_index.py: what the index policy earns on Bernoulli bandits."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from mmaml.envs.bandit import bayes_optimal_return

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "bandit_index.py"))


def test_the_index_is_the_mean_before_the_last_pull_and_larger_the_more_pulls_are_left() -> None:
    index = SCRIPT["indices"](8)
    ones, zeros = np.mgrid[:8, :8]
    assert index[0] == pytest.approx((ones + 1) / (ones + zeros + 2), abs=1 / 400)
    for left in range(1, 8):
        known = ones[: 8 - left, : 8 - left], zeros[: 8 - left, : 8 - left]
        assert (index[left][known] >= index[left - 1][known]).all() and index[left, 0, 0] > index[left - 1, 0, 0]


@pytest.mark.parametrize(("arms", "pulls"), [(2, 10), (5, 6)])
def test_it_earns_what_is_best_possible_where_that_can_be_computed(arms: int, pulls: int) -> None:
    mean, error = SCRIPT["index_policy_return"](arms, pulls, 100_000)
    assert abs(mean - bayes_optimal_return(arms, pulls)) < 4 * error and error < 0.01


@pytest.mark.parametrize("flag", ["--arms", "--pulls", "--trials"])
def test_impossible_sizes_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert SCRIPT["main"]([flag, "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag}: expected a whole number ≥ ")
