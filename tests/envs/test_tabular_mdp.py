"""Tabular MDPs: their distribution, where actions lead, what they give, and the best policy of a known one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.tabular_mdp import TabularMDP, action_values
from tests.helpers.samples import assert_counts, assert_distributed, normal, uniform


def test_transitions_are_dirichlet_and_mean_rewards_normal() -> None:
    tasks = TabularMDP().sample_tasks(400, np.random.default_rng(0))
    transitions = np.array([task.values["transitions"] for task in tasks])
    rewards = np.array([task.values["rewards"] for task in tasks])
    assert transitions.shape == (400, 10, 5, 10) and rewards.shape == (400, 10, 5)
    np.testing.assert_allclose(transitions.sum(-1), 1)
    marginal = transitions[..., 0, 3].ravel()  # Beta(1, 9): 1 - (1 - p)⁹ is uniform
    assert_distributed(1 - (1 - marginal) ** 9, uniform)
    assert_distributed(rewards - 1, normal)


def test_steps_lead_and_give_as_the_task_says() -> None:
    lanes, rng = 30_000, np.random.default_rng(0)
    family = TabularMDP(2, lanes, states=4, actions=3)
    family.set_tasks(family.sample_tasks(2, rng))
    observations, _ = family.reset(seed=0)
    assert (observations == [1, 0, 0, 0]).all()
    state = np.zeros((2, lanes), int)
    for _ in range(4):
        actions = rng.integers(3, size=(2, lanes))
        observations, rewards, terminated, _, infos = family.step(actions.ravel())
        assert (observations.sum(1) == 1).all() and not terminated.any()
        after, rewards = observations.argmax(1).reshape(2, lanes), rewards.reshape(2, lanes)
        for task, values in enumerate(task.values for task in family.tasks):
            noise = rewards[task] - values["rewards"][state[task], actions[task]]
            assert_distributed(noise, normal)
            for s, a in np.ndindex(4, 3):
                chosen = (state[task] == s) & (actions[task] == a)
                assert_counts(np.bincount(after[task][chosen], minlength=4), values["transitions"][s, a])
        state = after
        np.testing.assert_allclose(infos["reward_mean"] + infos["reward_noise"], rewards.ravel(), rtol=1e-6, atol=1e-6)


def test_a_state_that_cannot_be_reached_is_not_reached_whatever_the_rounding() -> None:
    family = TabularMDP(1, 5000, states=4, actions=1)
    third = np.array([1 / 3, 1 / 3, 1 / 3, 0])
    family.set_tasks([Task(0, {"transitions": np.tile(third, (4, 1, 1)), "rewards": np.ones((4, 1))})])
    family.reset(seed=0)
    for _ in range(20):
        assert not family.step(np.zeros(5000, int))[0][:, 3].any()


def test_a_random_policy_gets_1_a_step_and_the_best_one_its_value() -> None:
    """Of known MDPs, over 10 steps from state 0: returns of both policies, and what `action_values` says of them."""
    tasks, lanes, horizon = 60, 200, 10
    family = TabularMDP(tasks, lanes)
    family.set_tasks(family.sample_tasks(tasks, np.random.default_rng(1)))
    tables = [(task.values["transitions"], task.values["rewards"]) for task in family.tasks]
    best = np.stack([action_values(*table, horizon)[0].argmax(2) for table in tables])
    rng, task = np.random.default_rng(2), np.repeat(np.arange(tasks), lanes)
    for random, chooses in (
        (True, lambda t, state: rng.integers(5, size=len(state))),
        (False, lambda t, state: best[task, horizon - 1 - t, state]),
    ):
        state, total = family.reset(seed=3)[0].argmax(1), np.zeros(tasks * lanes)
        for t in range(horizon):
            observations, rewards, *_ = family.step(chooses(t, state))
            state, total = observations.argmax(1), total + rewards
        returns = total.reshape(tasks, lanes)
        known = np.array([action_values(*table, horizon, random=random)[1][-1, 0] for table in tables])
        errors = (returns.mean(1) - known) / (returns.std(1) / math.sqrt(lanes))
        assert np.abs(errors).max() < 5 and abs(errors.mean()) < 5 / math.sqrt(tasks)
        if random:  # tasks differ in what they give on average: N(1, 1/50) a step, or more, as states recur
            assert abs(known.mean() - horizon) < 5 * known.std() / math.sqrt(tasks)
        else:
            assert known.mean() > 18  # of a known MDP, a step gives close to 2


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"states": 0}, "states: expected a whole number of at least 1 and at most 100, got 0"),
        ({"actions": 101}, "actions: expected a whole number of at least 1 and at most 100, got 101"),
        ({"noise": "1"}, "noise: expected a number of at least 0, got '1'"),
    ],
)
def test_wrong_arguments_are_refused(env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularMDP(**env_kwargs)
