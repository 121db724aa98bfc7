"""Swimmers: at a velocity, to a place."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.mujoco.swimmer import Swimmer
from mmaml.envs.registry import make_family

NAMES = ("SwimmerRandVelEnv", "SwimmerReach2ModesEnv", "SwimmerReach4ModesEnv")


def swimmer(name: str, tasks: int = 1, rollouts: int = 1, **arguments: Any) -> Swimmer:
    family = make_family(name, tasks, rollouts, **arguments)
    assert isinstance(family, Swimmer)
    return family


def given(family: Swimmer, *goals: Any) -> Swimmer:
    """The family with these goals, one a task, and its episodes begun."""
    family.set_tasks([Task(0, {"goal": goal}) for goal in goals])
    family.reset(seed=0)
    return family


def test_observations_and_costs_are_those_of_gymnasiums_environment() -> None:
    env: Any = gym.make("Swimmer-v5").unwrapped
    family = given(swimmer("SwimmerRandVelEnv"), 0)
    env.reset(seed=0)
    family.qpos[0], family.qvel[0] = env.data.qpos, env.data.qvel
    env.action_space.seed(1)
    for _ in range(20):
        action = env.action_space.sample()
        expected, _, _, _, expected_info = env.step(action)
        observations, _, _, _, infos = family.step(action[None])
        np.testing.assert_allclose(observations[0], expected, rtol=1e-6, atol=1e-7)
        assert infos["reward_run"][0] == pytest.approx(-abs(expected_info["x_velocity"]), rel=1e-5)
        assert infos["reward_control"][0] == pytest.approx(expected_info["reward_ctrl"], rel=1e-5)


@pytest.mark.parametrize(("published_sign", "sign"), [(False, -1), (True, 1)])
def test_the_velocity_is_paid_with_the_right_sign(published_sign: bool, sign: int) -> None:
    family = given(swimmer("SwimmerRandVelEnv", 2, published_sign=published_sign), -1.0, 0.2)
    before = family.qpos[:, 0].copy()
    _, rewards, _, _, infos = family.step(np.zeros((2, 2), np.float32))
    miss = np.abs((family.qpos[:, 0] - before) / 0.04 - [-1.0, 0.2])
    np.testing.assert_allclose(infos["reward_run"], sign * miss, rtol=1e-6)
    np.testing.assert_allclose(rewards, sign * miss, rtol=1e-6)


def test_the_distance_is_that_of_the_root() -> None:
    goals = [[1.0, -2.0], [0.5, 0.5]]
    family = given(swimmer("SwimmerReach4ModesEnv", 2), *goals)
    family.action_space.seed(0)
    for _ in range(5):
        actions = np.asarray(family.action_space.sample())
        _, rewards, terminated, _, infos = family.step(actions)
    for lane, goal in enumerate(goals):
        data = mujoco.MjData(family.model)
        data.qpos[:] = family.qpos[lane]
        mujoco.mj_kinematics(family.model, data)
        distance = np.linalg.norm(data.body("torso").xpos[:2] - goal)
        assert infos["reward_goal"][lane] == pytest.approx(-distance, rel=1e-6)
        assert rewards[lane] == pytest.approx(-distance - 1e-4 * (actions[lane] ** 2).sum(), rel=1e-6)
    assert not terminated.any()


@pytest.mark.parametrize("name", NAMES)
def test_tasks_and_starts(name: str) -> None:
    family = swimmer(name, 1, 1000)
    tasks = family.sample_tasks(800, np.random.default_rng(0))
    goals = np.array([task.values["goal"] for task in tasks])
    modes = np.array([task.mode for task in tasks])
    if name == "SwimmerRandVelEnv":
        assert goals.min() > 0.1 and goals.max() < 0.2 and (modes == 0).all()
        assert family.marker(tasks[0]) is None
    else:
        for mode in range(family.num_modes):
            about = goals[modes == mode] - np.sign(goals[modes == mode])
            np.testing.assert_allclose(about.std(0), 0.1, rtol=0.15)
        assert len(np.unique(np.sign(goals), axis=0)) == family.num_modes
        np.testing.assert_array_equal(family.marker(tasks[0]), [*goals[0], 0])  # type: ignore[arg-type]
    family.set_tasks(tasks[:1])
    family.reset(seed=0)
    for values in (family.qpos, family.qvel):
        assert abs(values).max() <= 0.1
        np.testing.assert_allclose(values.std(0), 0.1 / np.sqrt(3), rtol=0.1)


def test_the_goal_is_observed_where_asked() -> None:
    velocity = given(swimmer("SwimmerRandVelEnv", observe_goal=True), 0.15)
    place = given(swimmer("SwimmerReach2ModesEnv", observe_goal=True), [1.0, 2.0])
    np.testing.assert_allclose(velocity._observe()[0, 8:], [0.15])
    np.testing.assert_allclose(place._observe()[0, 8:], [1, 2])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (NAMES[0], {"velocities": [0.2, 0.1]}, r"velocities: expected \[low, high\]"),
        (NAMES[0], {"published_sign": 1}, "published_sign: expected true or false"),
        (NAMES[1], {"centers": [1, 2]}, r"centers: expected a list of \[x, y\]"),
        (NAMES[1], {"noise": -1}, "noise: expected a number of at least 0"),
        (NAMES[1], {"deal": "turn"}, "deal: expected one of"),
        (NAMES[1], {"control_cost": -1}, "control_cost: expected a number"),
        (NAMES[1], {"observe_goal": None}, "observe_goal: expected true or false"),
    ],
)
def test_arguments_are_checked(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_family(name, **arguments)
