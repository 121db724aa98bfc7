"""Bandits: their tasks, what arms give, and the best that a trial can give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmaml.envs.bandit import BernoulliBandit, GaussianBandit, bayes_optimal_return
from mmaml.envs.base import Task
from tests.helpers.samples import assert_distributed, normal, uniform

EITHER = pytest.mark.parametrize("kind", [BernoulliBandit, GaussianBandit])


def playing(kind: Any, tasks: int, lanes: int, **env_kwargs: Any) -> Any:
    """A block that is ready for its first pulls."""
    family = kind(tasks, lanes, **env_kwargs)
    family.set_tasks(family.sample_tasks(tasks, np.random.default_rng(0)))
    family.reset(seed=0)
    return family


@EITHER
@pytest.mark.parametrize("arms", [2, 5, 50])
def test_means_are_independent_and_uniform(kind: Any, arms: int) -> None:
    tasks = kind(arms=arms).sample_tasks(4000, np.random.default_rng(0))
    means = np.array([task.values["means"] for task in tasks])
    assert means.shape == (4000, arms)
    assert_distributed(means, uniform)
    correlations = np.corrcoef(means.T)[~np.eye(arms, dtype=bool)]
    assert np.abs(correlations).max() < 5 / math.sqrt(4000)


@EITHER
def test_an_episode_is_one_pull_and_shows_nothing(kind: Any) -> None:
    family = playing(kind, 3, 4)
    for _ in range(3):
        observations, _, terminated, truncated, _ = family.step(np.zeros(12, int))
        assert not observations.any() and terminated.all() and not truncated.any()


def test_a_bernoulli_arm_gives_1_with_its_probability() -> None:
    family = BernoulliBandit(1, 40_000, arms=3)
    family.set_tasks([Task(0, {"means": [0.1, 0.6, 1.0]})])
    family.reset(seed=0)
    for arm, mean in enumerate([0.1, 0.6, 1.0]):
        rewards = family.step(np.full(40_000, arm))[1]
        assert set(np.unique(rewards)) <= {0, 1}
        assert abs(rewards.mean() - mean) <= 4 * math.sqrt(mean * (1 - mean) / 40_000)


@pytest.mark.parametrize("std", [0.0, 1.0, 0.3])
def test_a_gaussian_arm_gives_its_mean_and_noise(std: float) -> None:
    family = GaussianBandit(1, 40_000, arms=2, std=std)
    family.set_tasks([Task(0, {"means": [0.2, 0.7]})])
    family.reset(seed=0)
    for arm, mean in enumerate([0.2, 0.7]):
        rewards = family.step(np.full(40_000, arm))[1]
        if std == 0:
            np.testing.assert_array_equal(rewards, np.float32(mean))
        else:
            assert_distributed((rewards - mean) / std, normal)


def test_pulls_are_independent_of_each_other() -> None:
    family = playing(BernoulliBandit, 1, 2000, arms=1)
    one, two = (family.step(np.zeros(2000, int))[1] for _ in range(2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("arms", "pulls", "best"),
    [(1, 7, 3.5), (2, 1, 0.5), (2, 2, 1.08333), (2, 3, 1.66667), (2, 5, 2.88889), (2, 10, 6.02179), (5, 10, 6.65999)],
)
def test_the_best_return_of_a_trial(arms: int, pulls: int, best: float) -> None:
    """1.08333: with two pulls, pull again what gave 1 (mean 2/3), else the other (1/2): 1/2 + (2/3 + 1/2)/2."""
    assert bayes_optimal_return(arms, pulls) == pytest.approx(best, abs=6e-6)


def test_two_ways_to_play_two_arms_get_what_is_known_of_them() -> None:
    """10 pulls: win-stay-lose-shift gets 5.796 on average, greedy play by the posterior means 6.006."""
    tasks = 60_000
    for known, chooses in ((5.796, win_stay_lose_shift), (6.006, greedy), (5.0, at_random)):
        family = playing(BernoulliBandit, 1, tasks, arms=2)
        family._means = np.random.default_rng(1).uniform(0, 1, (tasks, 2))  # as many tasks as lanes, in one draw
        ones, zeros = np.zeros((tasks, 2)), np.zeros((tasks, 2))
        total, last, reward = np.zeros(tasks), np.zeros(tasks, int), np.ones(tasks)
        rng = np.random.default_rng(2)
        for _ in range(10):
            last = chooses(ones, zeros, last, reward, rng)
            reward = family.step(last)[1]
            total += reward
            ones[np.arange(tasks), last] += reward
            zeros[np.arange(tasks), last] += 1 - reward
        assert abs(total.mean() - known) < 5 * total.std() / math.sqrt(tasks)
        assert total.mean() <= bayes_optimal_return(2, 10) + 5 * total.std() / math.sqrt(tasks)


def win_stay_lose_shift(ones: Any, zeros: Any, last: Any, reward: Any, rng: np.random.Generator) -> np.ndarray:
    return np.where(reward == 1, last, 1 - last)


def greedy(ones: Any, zeros: Any, last: Any, reward: Any, rng: np.random.Generator) -> np.ndarray:
    return ((ones + 1) / (ones + zeros + 2)).argmax(1)


def at_random(ones: Any, zeros: Any, last: Any, reward: Any, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(2, size=len(last))


@pytest.mark.parametrize(
    ("kind", "env_kwargs", "message"),
    [
        (BernoulliBandit, {"arms": 0}, "arms: expected a whole number of at least 1 and at most 1000, got 0"),
        (BernoulliBandit, {"arms": 2.0}, "arms: expected a whole number"),
        (GaussianBandit, {"std": -1}, "std: expected a number of at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(kind: Any, env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**env_kwargs)
