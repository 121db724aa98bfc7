"""The discounting chain: when each chain gives its reward, and on which discount the best one depends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.discounting_chain import DiscountingChain

STEPS = (1, 3, 10, 30, 100)


def rewards_of_every_chain(bonus_chain: int, **env_kwargs: Any) -> np.ndarray:
    """The rewards of an episode of each chain, whatever is done later: [chains, 100]."""
    family = DiscountingChain(1, 5, **env_kwargs)
    family.set_tasks([Task(0, {"bonus_chain": bonus_chain})])
    observations, _ = family.reset(seed=0)
    assert observations.tolist() == [[-1, 0]] * 5
    rng, rewards = np.random.default_rng(0), []
    for t in range(1, 101):
        actions = np.arange(5) if t == 1 else rng.integers(5, size=5)
        observations, reward, terminated, _, _ = family.step(actions)
        assert observations[:, 0].tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(observations[:, 1], t / 100, rtol=1e-6)
        assert (terminated == (t == 100)).all()
        rewards.append(reward)
    return np.stack(rewards, axis=1)


@pytest.mark.parametrize("bonus_chain", range(5))
def test_a_chain_gives_its_reward_once_and_one_a_bonus(bonus_chain: int) -> None:
    expected = np.zeros((5, 100))
    expected[range(5), np.array(STEPS) - 1] = 1
    expected[bonus_chain] *= 1.1
    np.testing.assert_allclose(rewards_of_every_chain(bonus_chain), expected, rtol=1e-6)


@pytest.mark.parametrize(("discount", "best"), [(0.9, 0), (0.99, 0), (0.996, 0), (0.997, 3), (1.0, 3)])
def test_only_a_discount_near_1_makes_the_late_bonus_the_best(discount: float, best: int) -> None:
    returns = (rewards_of_every_chain(3) * discount ** np.arange(100)).sum(1)
    assert returns.argmax() == best
    assert pytest.approx(0.99672, abs=1e-5) == (1 / 1.1) ** (1 / 29)


def test_modes_are_the_chains_with_a_bonus() -> None:
    family = DiscountingChain()
    tasks = family.sample_tasks(5000, np.random.default_rng(0))
    counts = Counter(task.mode for task in tasks)
    assert family.num_modes == 5 and all(task.values["bonus_chain"] == task.mode for task in tasks)
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 1000**0.5
    single = DiscountingChain(bonus_chains=[3])
    assert single.num_modes == 1
    assert {(t.mode, t.values["bonus_chain"]) for t in single.sample_tasks(20, np.random.default_rng(0))} == {(0, 3)}


def test_chains_of_ones_own() -> None:
    family = DiscountingChain(1, 2, reward_steps=[2, 1], bonus=1.0, length=2)
    family.set_tasks([Task(0, {"bonus_chain": 0})])
    family.reset(seed=0)
    assert family.step(np.array([0, 1]))[1].tolist() == [0, 1]
    _, rewards, terminated, *_ = family.step(np.array([1, 1]))
    assert rewards.tolist() == [2, 0] and terminated.all()
    observations, _ = family.reset()
    assert observations.tolist() == [[-1, 0]] * 2  # nothing is chosen yet, and then anew
    assert family.step(np.array([1, 0]))[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"reward_steps": [1, 101]}, "reward_steps: expected a list of whole numbers from 1 to 100, got"),
        ({"reward_steps": []}, "reward_steps: expected a list"),
        ({"reward_steps": "13"}, "reward_steps: expected a list"),
        ({"bonus_chains": [5]}, "bonus_chains: expected a list of whole numbers from 0 to 4, got"),
        ({"bonus_chains": [True]}, "bonus_chains: expected"),
        ({"bonus": -0.1}, "bonus: expected a number of at least 0, got -0.1"),
        ({"length": 0}, "length: expected a whole number"),
    ],
)
def test_wrong_arguments_are_refused(env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscountingChain(**env_kwargs)
