"""The bootstrap has the variance and the coverage that it should have; means and probabilities are brute force's."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mmaml.report.gather import Seed, gather
from mmaml.report.statistics import (
    interval95,
    mean_over_seeds,
    measured,
    probability_of_improvement,
    resampled,
)
from mmaml.report.summary import estimates
from tests.helpers.reported import write_evaluation, write_run

NAN = np.nan


def seed_of(returns: list[list[float]], modes: list[int]) -> Seed:
    return Seed(np.array(returns), np.array(modes))


def test_means_are_of_each_mode_and_of_all_tasks() -> None:
    first = seed_of([[1, 10], [3, NAN], [8, 20]], [0, 0, 2])
    second = seed_of([[5, 30]], [0])
    found = measured([first, second])
    np.testing.assert_array_equal(found[0], [[2, 10], [8, 20], [4, 15]])
    np.testing.assert_array_equal(found[1], [[5, 30], [NAN, NAN], [5, 30]])
    np.testing.assert_array_equal(mean_over_seeds(found), [[3.5, 20], [8, 20], [4.5, 22.5]])


def test_the_variance_is_that_of_drawing_seeds_and_then_tasks_within_modes() -> None:
    """Var = Var(means of seeds) / S + mean over seeds of Σ_modes (M_m / M)² Var(tasks of m) / M_m, all over S."""
    generator = np.random.default_rng(1)
    modes = [0] * 4 + [1] * 8
    seeds = [
        Seed(generator.normal(10 * s, 1 + s, (12, 1)) + 5 * np.array(modes)[:, None], np.array(modes))
        for s in (0, 1, 2)
    ]
    values = np.stack([seed.returns[:, 0] for seed in seeds])
    within = sum((size / 12) ** 2 * part.var(1) / size for size, part in ((4, values[:, :4]), (8, values[:, 4:])))
    expected = (values.mean(1).var() + within.mean()) / 3
    draws = mean_over_seeds(resampled(seeds, draws=40_000))[:, -1, 0]
    assert draws.var() == pytest.approx(expected, rel=0.05)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.2)


def test_strata_keep_their_sizes() -> None:
    """Tasks of one mode are all alike, so that nothing but the number of each mode could vary."""
    seed = seed_of([[0.0]] * 3 + [[9.0]] * 6, [0] * 3 + [1] * 6)
    np.testing.assert_allclose(resampled([seed], draws=50)[:, 0, :, 0], np.tile([0, 9, 6], (50, 1)))


def test_intervals_cover_the_truth_where_seeds_differ() -> None:
    """Those over independent tasks of all seeds, as if each task had a seed of its own, would not."""
    generator = np.random.default_rng(2)
    covered = alone = 0
    for _ in range(200):
        means = generator.normal(0, 1, 10)
        returns = generator.normal(means[:, None], 1, (10, 20))
        seeds = [Seed(row[:, None], np.zeros(20, dtype=int)) for row in returns]
        low, high = interval95(mean_over_seeds(resampled(seeds, draws=400)))[:, -1, 0]
        covered += low <= 0 <= high
        half = 1.96 * returns.std() / np.sqrt(returns.size)
        alone += abs(returns.mean()) <= half
    assert covered > 0.86 * 200
    assert alone < 0.7 * 200


def test_without_spread_an_interval_is_a_point() -> None:
    seeds = [seed_of([[-3.0, 4.0]] * 5, [0] * 5)] * 3
    np.testing.assert_allclose(interval95(mean_over_seeds(resampled(seeds)))[:, -1], [[-3, 4]] * 2)


def test_a_stage_that_was_not_measured_stays_unknown() -> None:
    seeds = [seed_of([[1.0, NAN], [2.0, NAN]], [0, 0])] * 2
    draws = mean_over_seeds(resampled(seeds, draws=20))
    assert np.isnan(draws[:, :, 1]).all() and not np.isnan(draws[:, :, 0]).any()


def test_samples_with_one_key_repeat_and_with_others_do_not() -> None:
    seeds = [seed_of([[1.0], [2.0], [4.0]], [0, 0, 0])] * 2
    np.testing.assert_array_equal(resampled(seeds, 1, 50), resampled(seeds, 1, 50))
    assert (resampled(seeds, 1, 50) != resampled(seeds, 2, 50)).any()


def test_the_probability_of_improvement_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(3)
    ours, theirs = (generator.integers(0, 4, (number, 2)).astype(float) for number in (4, 5))
    pairs = itertools.product(ours.T[0], theirs.T[0]), itertools.product(ours.T[1], theirs.T[1])
    expected = np.mean([[1.0 if a > b else 0.5 if a == b else 0.0 for a, b in mode] for mode in pairs])
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected)
    assert probability_of_improvement(theirs, ours) == pytest.approx(1 - expected)
    assert probability_of_improvement(ours, ours) == 0.5
    assert probability_of_improvement(ours + 9, theirs) == 1
    stacked = probability_of_improvement(np.stack([ours, ours + 9]), np.stack([theirs, theirs]))
    np.testing.assert_allclose(stacked, [expected, 1])


def test_returns_that_are_not_known_improve_on_nothing() -> None:
    known = np.array([[1.0], [3.0]])
    assert np.isnan(probability_of_improvement(np.full((2, 1), NAN), known))
    assert probability_of_improvement(np.array([[2.0], [NAN]]), known) == 0.5
    assert np.isnan(probability_of_improvement(np.array([[2.0, NAN]]), np.array([[1.0, 1.0]])))


def test_with_one_seed_a_mode_of_one_task_has_no_interval(tmp_path: Path) -> None:
    """Every sample would draw the same task: an interval without width, as if the return were known exactly."""
    run = write_run(tmp_path / "run", [[-30.0, -20.0]])
    write_evaluation(run, np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]), [0, 0, 1])
    _, intervals = estimates(gather([("", run)]).experiments[0])
    np.testing.assert_array_equal(np.isnan(intervals[0]), [[False] * 2, [True] * 2, [False] * 2])
    write_evaluation(run, np.array([[1.0, 2.0], [3.0, 4.0]]), [0, 1])
    _, intervals = estimates(gather([("", run)]).experiments[0])
    assert np.isnan(intervals).all()
