"""CartPole with a random mass: gymnasium's physics, the tasks, the ends of episodes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.cartpole import CartPoleMass


@pytest.mark.parametrize("cart, pole", [(1.0, 0.1), (0.6, 0.18)])
def test_it_moves_and_ends_as_gymnasiums(cart: float, pole: float) -> None:
    family = CartPoleMass(2, 20)
    family.set_tasks([Task(0, {"cart_mass": cart, "pole_mass": pole})] * 2)
    family.reset(seed=0)
    envs: list[Any] = [gym.make("CartPole-v1").unwrapped for _ in range(40)]
    for env, state in zip(envs, family._state.T, strict=True):
        env.reset(seed=0)
        env.masscart, env.masspole = cart, pole
        env.total_mass, env.polemass_length = cart + pole, pole * env.length
        env.state = np.array(state)
    rng = np.random.default_rng(0)
    ended = np.zeros(40, bool)
    for _ in range(60):
        actions = rng.integers(2, size=40)
        observations, rewards, terminated, truncated, _ = family.step(actions)
        for lane in np.flatnonzero(~ended):
            expected, reward, ends, _, _ = envs[lane].step(actions[lane])
            np.testing.assert_allclose(observations[lane], expected, rtol=1e-6, atol=1e-7)
            assert terminated[lane] == ends and rewards[lane] == reward == 1
        ended |= terminated
        assert not truncated.any()
    assert ended.sum() > 20


def test_masses_are_drawn_from_their_intervals() -> None:
    tasks = CartPoleMass(cart_mass=[1, 3], pole_mass=[0.1, 0.1]).sample_tasks(500, np.random.default_rng(0))
    carts = np.array([task.values["cart_mass"] for task in tasks])
    assert carts.min() < 1.05 and carts.max() > 2.95 and ((carts >= 1) & (carts <= 3)).all()
    assert {task.values["pole_mass"] for task in tasks} == {0.1}


def test_a_heavier_cart_is_moved_less() -> None:
    family = CartPoleMass(2, 1)
    family.set_tasks([Task(0, {"cart_mass": mass, "pole_mass": 0.1}) for mass in (0.5, 2.0)])
    family.reset(seed=0)
    family._state[:] = 0
    family.step(np.array([1, 1]))
    light, heavy = family._state[1]
    assert light > 2 * heavy > 0


def test_actions_are_left_or_right() -> None:
    family = CartPoleMass()
    family.reset(seed=0)
    with pytest.raises(ValueError, match="actions: expected 0 or 1"):
        family.step(np.array([2]))


@pytest.mark.parametrize("argument, value", [("cart_mass", [2, 1]), ("cart_mass", [0, 1]), ("pole_mass", 3)])
def test_bad_arguments_are_named(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=argument):
        CartPoleMass(**{argument: value})
