"""Swimmers: at a velocity, to a place."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.mujoco.swimmer import Swimmer
from mmaml.envs.registry import make_family
from tests.helpers.mujoco import given

NAMES = ("SwimmerRandVelEnv", "SwimmerReach2ModesEnv", "SwimmerReach4ModesEnv")


def swimmer(name: str, tasks: int = 1, rollouts: int = 1, **arguments: Any) -> Swimmer:
    family = make_family(name, tasks, rollouts, **arguments)
    assert isinstance(family, Swimmer)
    return family


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


def test_a_place_is_marked_and_no_velocity() -> None:
    assert swimmer(NAMES[0]).marker(Task(0, {"goal": 0.15})) is None
    for name in NAMES[1:]:
        assert list(swimmer(name).marker(Task(0, {"goal": [1.0, -2.0]}))) == [1, -2, 0]  # type: ignore[arg-type]


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
