"""Bandits: their tasks, what arms give, and the best that a trial can give."""

from __future__ import annotations

import math
from functools import cache
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


@pytest.mark.parametrize(
    "policy, known", [("optimal", 6.02179), ("greedy", 6.00581), ("win, stay", 5.796), ("random", 5.0)]
)
def test_ways_to_play_two_arms_get_what_is_known_of_them(policy: str, known: float) -> None:
    """10 pulls of each of so many tasks that the best policy and the next to best differ by more than chance.

    What is measured is the mean of the arm pulled, compared with that of the best arm: it varies less than rewards.
    """
    tasks, pulls = 200_000, 10
    family = playing(BernoulliBandit, 1, tasks, arms=2)
    family._means = np.random.default_rng(1).uniform(0, 1, (tasks, 2))  # as many tasks as lanes, in one draw
    counts = np.zeros((tasks, 2, 2), int)  # of each arm, how often it gave 1 and 0
    total, last, reward = np.full(tasks, pulls * 2 / 3), np.zeros(tasks, int), np.ones(tasks)
    rng = np.random.default_rng(2)
    for pull in range(pulls):
        last = POLICIES[policy](counts, last, reward, pulls - pull, rng)
        reward = family.step(last)[1]
        total += family._means[np.arange(tasks), last] - family._means.max(1)
        counts[np.arange(tasks), last, (reward == 0).astype(int)] += 1
    assert abs(total.mean() - known) < 4 * total.std() / math.sqrt(tasks)


# Of tasks [M]: the next pull, by what each arm gave [M, 2, 2], the last pull, what it gave, and how many are left.


def win_stay_lose_shift(counts: Any, last: Any, reward: Any, left: int, rng: np.random.Generator) -> np.ndarray:
    return np.where(reward == 1, last, 1 - last)


def greedy(counts: Any, last: Any, reward: Any, left: int, rng: np.random.Generator) -> np.ndarray:
    means = (counts[..., 0] + 1) / (counts.sum(-1) + 2)
    return (means + 1e-6 * rng.random(means.shape)).argmax(1)  # of equal ones either


def at_random(counts: Any, last: Any, reward: Any, left: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(2, size=len(last))


def optimal(counts: Any, last: Any, reward: Any, left: int, rng: np.random.Generator) -> np.ndarray:
    numbers = counts.reshape(-1, 4) @ [1000, 100, 10, 1]  # of at most 9 pulls: a digit each
    kinds, which = np.unique(numbers, return_inverse=True)
    best = [np.argmax(values_of_pulls(*map(int, f"{kind:04d}"), left)) for kind in kinds]
    return np.array(best)[which]


@cache
def values_of_pulls(ones: int, zeros: int, other_ones: int, other_zeros: int, left: int) -> tuple[float, float]:
    """What a pull of each of two arms and the best pulls after it give on average, by what the arms gave so far."""
    after = [
        (ones + 1, zeros, other_ones, other_zeros),
        (ones, zeros + 1, other_ones, other_zeros),
        (ones, zeros, other_ones + 1, other_zeros),
        (ones, zeros, other_ones, other_zeros + 1),
    ]
    won, lost, other_won, other_lost = (max(values_of_pulls(*then, left - 1)) if left > 1 else 0.0 for then in after)
    mean, other_mean = (ones + 1) / (ones + zeros + 2), (other_ones + 1) / (other_ones + other_zeros + 2)
    return mean * (1 + won) + (1 - mean) * lost, other_mean * (1 + other_won) + (1 - other_mean) * other_lost


POLICIES = {"optimal": optimal, "greedy": greedy, "win, stay": win_stay_lose_shift, "random": at_random}


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
