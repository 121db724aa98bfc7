"""Returns, baselines, GAE and normalisation against loops over single episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmaml.sampling.advantages import (
    advantages,
    fit_ridge,
    in_whole_episode,
)
from mmaml.sampling.baseline_features import linear_features, time_features
from mmaml.sampling.rollouts import Rollouts
from mmaml.sampling.statistics import episode_statistics
from tests.helpers.synthetic import ragged_rollouts

GAMMA, LAMBDA = 0.9, 0.7


def _episodes(rollouts: Rollouts, task: int, lane: int) -> list[tuple[int, int, bool]]:
    """(first step, one past the last, whether it ran to its end) of every episode of a lane."""
    starts = rollouts.episode_start[task, lane].nonzero().flatten().tolist()
    ends = rollouts.episode_end[task, lane].nonzero().flatten().tolist()
    done = rollouts.terminated | rollouts.truncated
    return [(a, b + 1, bool(done[task, lane, b])) for a, b in zip(starts, ends, strict=True)]


def _brute_force(rollouts: Rollouts, task: int, features) -> dict[tuple[int, int], float]:
    """GAE of every real step of a task, one episode at a time, as the textbook sums."""
    lanes = rollouts.rewards.shape[1]
    rows, targets = [], []
    for lane in range(lanes):
        for a, b, whole in _episodes(rollouts, task, lane):
            rewards = rollouts.rewards[task, lane, a:b].tolist()
            for t in range(a, b):
                if whole and features:
                    rows.append(features(rollouts.observations[task, lane, t].numpy(), np.array(t - a)))
                    targets.append(sum(GAMMA**i * r for i, r in enumerate(rewards[t - a :])))
    weights = fit_ridge(np.array(rows), np.array(targets)) if features else None

    def value(observation: torch.Tensor, time: int) -> float:
        return 0.0 if weights is None else float(features(observation.numpy(), np.array(time)) @ weights)

    result = {}
    for lane in range(lanes):
        for a, b, whole in _episodes(rollouts, task, lane):
            values = [value(rollouts.observations[task, lane, t], t - a) for t in range(a, b)]
            values.append(0.0 if whole else value(rollouts.final_observations[task, lane], b - a))
            deltas = [
                float(rollouts.rewards[task, lane, t]) + GAMMA * values[t - a + 1] - values[t - a] for t in range(a, b)
            ]
            for t in range(a, b):
                result[lane, t] = sum((GAMMA * LAMBDA) ** i * d for i, d in enumerate(deltas[t - a :]))
    return result


@pytest.mark.parametrize("collect", ["lanes", "episodes"])
@pytest.mark.parametrize(
    "baseline, features",
    [("LinearFeatureBaseline", linear_features), ("LinearTimeBaseline", time_features), ("ZeroBaseline", None)],
)
def test_advantages_equal_brute_force(baseline: str, features, collect: str) -> None:
    rollouts = ragged_rollouts(collect=collect, lanes=8, horizon=12)
    rollouts.rewards[rollouts.mask == 0] = torch.nan  # padding must not be read
    ours = advantages(rollouts, baseline, GAMMA, LAMBDA, normalize=False, positive=False)[0].numpy()
    for task in range(rollouts.tasks):
        expected = np.zeros(ours.shape[1:])
        for (lane, t), value in _brute_force(rollouts, task, features).items():
            expected[lane, t] = value
        np.testing.assert_allclose(ours[task], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("collect", ["lanes", "episodes"])
def test_normalised_advantages_have_mean_0_and_deviation_1_over_real_steps(collect: str) -> None:
    rollouts = ragged_rollouts(collect=collect)
    plain = advantages(rollouts, "LinearTimeBaseline", GAMMA, LAMBDA, normalize=False, positive=False)[0]
    normal = advantages(rollouts, "LinearTimeBaseline", GAMMA, LAMBDA, normalize=True, positive=False)[0]
    positive = advantages(rollouts, "LinearTimeBaseline", GAMMA, LAMBDA, normalize=True, positive=True)[0]
    for task in range(rollouts.tasks):
        real = rollouts.mask[task] > 0
        assert abs(normal[task][real].mean()) < 1e-6
        assert abs(normal[task][real].std(correction=0) - 1) < 1e-5
        torch.testing.assert_close(normal[task][real].argsort(), plain[task][real].argsort())
        assert positive[task][real].min() > 0
        shift = positive[task][real] - normal[task][real]
        torch.testing.assert_close(shift, shift[0].expand_as(shift), rtol=0, atol=1e-5)
        assert not normal[task][~real].any() and not positive[task][~real].any()


@pytest.mark.parametrize("steps, size", [(5, 4), (4, 4), (3, 4), (1, 40), (30, 100), (30, 31)])
@pytest.mark.parametrize("kind", ["any", "collinear", "equal steps", "large"])
def test_the_ridge_fit_is_the_least_of_its_sum_of_squares(steps: int, size: int, kind: str) -> None:
    """By least squares of [X; √λ I] w = [y; 0], with more steps than features and with fewer."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((steps, size)), rng.standard_normal(steps)
    if kind == "collinear":
        x[:, -1], x[:, 0] = 1.0, 2 * x[:, 1] + 1.0
    elif kind == "equal steps":
        x[-1] = x[0]
    elif kind == "large":
        x[:, 0] *= 1e3
    augmented = np.concatenate([x, np.sqrt(1e-5) * np.eye(size)])
    expected = np.linalg.lstsq(augmented, np.concatenate([y, np.zeros(size)]), rcond=None)[0]
    found = fit_ridge(x, y)
    np.testing.assert_allclose(x @ found, x @ expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_fit_of_wide_features_takes_no_square_of_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    solve = np.linalg.solve
    monkeypatch.setattr(np.linalg, "solve", lambda a, b: solved.append(a.shape) or solve(a, b))
    for steps, size in ((3, 4), (4, 4), (5, 4), (6, 1000)):
        fit_ridge(np.ones((steps, size)), np.ones(steps))
    assert solved == [(3, 3), (4, 4), (4, 4), (6, 6)]


def test_ridge_solves_its_normal_equations_and_survives_what_has_no_solution() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4)), rng.standard_normal(50)
    w = fit_ridge(x, y)
    np.testing.assert_allclose(x.T @ (y - x @ w), 1e-5 * w, atol=1e-10)
    collinear = np.concatenate([x, x[:, :1], np.ones((50, 1)), np.ones((50, 1))], axis=1)
    assert np.isfinite(fit_ridge(collinear, y)).all()
    for shape in ((5, 3), (3, 5)):
        found = fit_ridge(np.full(shape, np.nan), np.ones(shape[0]))
        assert found.shape == shape[1:] and not found.any()


def test_statistics_are_over_whole_episodes() -> None:
    rollouts = ragged_rollouts(lanes=6, horizon=11)
    statistics = episode_statistics(rollouts)
    for task in range(rollouts.tasks):
        returns = [
            float(rollouts.rewards[task, lane, a:b].sum())
            for lane in range(6)
            for a, b, whole in _episodes(rollouts, task, lane)
            if whole
        ]
        assert statistics["episodes"][task] == len(returns)
        np.testing.assert_allclose(statistics["mean"][task], np.mean(returns))
        np.testing.assert_allclose(statistics["std"][task], np.std(returns))
        np.testing.assert_allclose(statistics["min"][task], min(returns))
        np.testing.assert_allclose(statistics["max"][task], max(returns))
    assert np.isnan(statistics["success"]).all()
    rollouts.success[:] = (torch.rand(rollouts.success.shape, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    for task, share in enumerate(episode_statistics(rollouts)["success"]):
        episodes = [(lane, *episode) for lane in range(6) for episode in _episodes(rollouts, task, lane)]
        reached = [rollouts.success[task, lane, a:b].max().item() for lane, a, b, whole in episodes if whole]
        assert 0 < share < 1 and share == pytest.approx(np.mean(reached))


def test_times_and_whole_episodes() -> None:
    rollouts = ragged_rollouts(tasks=1, lanes=1, horizon=7)
    rollouts.episode_start = torch.tensor([[[1, 0, 0, 1, 0, 1, 0]]]).bool()
    done = np.array([[0, 0, 1, 0, 1, 0, 0]], bool)
    assert rollouts.times().tolist() == [[[0, 1, 2, 0, 1, 0, 1]]]
    assert in_whole_episode(done).tolist() == [[True] * 5 + [False] * 2]
