"""Ant and humanoid families: tasks, rewards and ends by hand, what MuJoCo measures, bad arguments."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.registry import FAMILIES, check_family, make_family
from tests.helpers.mujoco import actions, put

ANTS = [name for name in FAMILIES if name.startswith("Ant")]
HUMANOIDS = [name for name in FAMILIES if name.startswith("Humanoid")]
MEASURING: list[tuple[str, dict[str, Any]]] = [
    ("AntRandGoalEnv", {"contact_forces": True}),
    ("AntRandDirecEnv", {"contact_forces": True}),
    ("HumanoidRandDirecEnv", {"contact_forces": True}),
    ("HumanoidRandDirec2DEnv", {"contact_forces": True, "observe_bodies": True}),
]


def started(name: str, values: list[dict[str, Any]] | None = None, rollouts: int = 2, **arguments: Any) -> MujocoFamily:
    """A reset block, of three tasks that it draws, or of one for each of the values."""
    num_tasks = 3 if values is None else len(values)
    family = make_family(name, num_tasks, rollouts, **arguments)
    assert isinstance(family, MujocoFamily)
    tasks = family.sample_tasks(3, np.random.default_rng(0)) if values is None else [Task(0, v) for v in values]
    family.set_tasks(tasks)
    family.reset(seed=list(range(num_tasks)))
    return family


def goals_of(name: str, n: int, seed: int = 0, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    tasks = make_family(name, **arguments).sample_tasks(n, np.random.default_rng(seed))
    return np.array([task.mode for task in tasks]), np.array([task.values["goal"] for task in tasks])


@pytest.mark.parametrize(
    ("name", "angles"),
    [
        ("AntRandGoalMode1ModesEnv", [-90]),
        ("AntRandGoalMode2ModesEnv", [-90, 90]),
        ("AntRandGoalModeEnv", [-90, -30, 30, 90]),
        ("AntRandGoalMode6ModesEnv", [-90, -54, -18, 18, 54, 90]),
    ],
)
def test_goals_scatter_about_the_half_circle(name: str, angles: list[float]) -> None:
    modes, goals = goals_of(name, 6000)
    if len(angles) == 2:
        assert 0.45 < modes.mean() < 0.55 and (modes[:6] != np.arange(6) % 2).any()
    else:
        np.testing.assert_array_equal(modes, np.arange(6000) % len(angles))
    for mode, angle in enumerate(np.deg2rad(angles)):
        center = 4 * np.array([math.sin(angle), math.cos(angle)])
        np.testing.assert_allclose(goals[modes == mode].mean(0), center, atol=0.1)
        np.testing.assert_allclose(goals[modes == mode].std(0), 0.8, atol=0.06)


def test_goals_fill_a_disc() -> None:
    modes, goals = goals_of("AntRandGoalEnv", 4000)
    radii = np.linalg.norm(goals, axis=1)
    assert (modes == 0).all() and radii.max() < 3
    # As many in the inner half of the area as in the outer one, and in each quadrant.
    assert (radii < 3 / math.sqrt(2)).mean() == pytest.approx(0.5, abs=0.03)
    assert ((goals[:, 0] > 0) & (goals[:, 1] > 0)).mean() == pytest.approx(0.25, abs=0.03)


def test_directions_and_velocities() -> None:
    for body in ("Ant", "Humanoid"):
        modes, goals = goals_of(f"{body}RandDirecEnv", 1000)
        np.testing.assert_array_equal(goals, np.stack([2.0 * modes - 1, np.zeros(1000)], axis=1))
        assert modes.mean() == pytest.approx(0.5, abs=0.06)
        modes, goals = goals_of(f"{body}RandDirec2DEnv", 1000)
        np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1)
        np.testing.assert_allclose(goals.mean(0), 0, atol=0.08)
    _, goals = goals_of("AntRandVelEnv", 1000)
    assert 0 <= goals.min() < 0.02 and 2.98 < goals.max() <= 3


def test_episodes_begin_near_rest() -> None:
    for name, position, velocity in (("AntRandGoalEnv", 0.1, None), ("HumanoidRandDirecEnv", 0.01, 0.01)):
        family = started(name, rollouts=500)
        away = family.qpos - family.model.qpos0
        np.testing.assert_allclose(np.abs(away).max(0), position, rtol=0.02)
        if velocity is None:
            np.testing.assert_allclose(family.qvel.std(0), 0.1, rtol=0.12)
        else:
            np.testing.assert_allclose(np.abs(family.qvel).max(0), velocity, rtol=0.02)


@pytest.mark.parametrize(("name", "height"), [("AntRandGoalEnv", None), ("AntRandGoalModeEnv", 0.03)])
def test_goal_rewards_by_hand(name: str, height: float | None) -> None:
    family = started(name, [{"goal": [1.5, -2.0]}])
    observations, rewards, terminated, _, infos = family.step(np.full((2, 8), 2, np.float32))
    x, y, z = observations[:, :3].T.astype(np.float64)
    distance = np.abs(x - 1.5) + np.abs(y + 2) + (0 if height is None else np.abs(z - height))
    np.testing.assert_allclose(infos["reward_goal"], -distance, rtol=1e-6)
    np.testing.assert_allclose(infos["reward_control"], -0.8, rtol=1e-6)
    np.testing.assert_allclose(rewards, -distance - 0.8, rtol=1e-6)
    np.testing.assert_array_equal(family.marker(family.tasks[0]), [1.5, -2, height or 0])
    assert not terminated.any()
    family.qpos[:, 2] = -3
    assert not family.step(np.zeros((2, 8), np.float32))[2].any()


def test_direction_and_velocity_rewards_by_hand() -> None:
    direction = started("AntRandDirec2DEnv", [{"goal": [0.6, -0.8]}])
    velocity = started("AntRandVelEnv", [{"goal": 1.3}])
    for family, goal, control_cost, bonus in ((direction, None, 0.5, 1.0), (velocity, 1.3, 0.005, 0.05)):
        family.qvel[:, :2] = [1.0, -0.5]
        before = family.qpos[:, :2].copy()
        _, rewards, _, _, infos = family.step(np.full((2, 8), 0.5, np.float32))
        speed = ((family.qpos[:, :2] - before) / 0.05).T
        earned = 0.6 * speed[0] - 0.8 * speed[1] if goal is None else 1 - np.abs(speed[0] - goal)
        np.testing.assert_allclose(infos["reward_goal"], earned, rtol=1e-5)
        np.testing.assert_allclose(rewards, earned - control_cost * 8 * 0.25 + bonus, rtol=1e-5)
        assert family.marker(family.tasks[0]) is None


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("AntRandDirecEnv", 0.0, 1.0), ("AntRandVelEnv", 0.2, 1.0), ("HumanoidRandDirecEnv", 1.0, 2.0)],
)
def test_an_episode_ends_outside_the_height_limits(name: str, low: float, high: float) -> None:
    family = started(name, rollouts=2)
    family.qvel[:] = 0
    # High above the floor a fall of one step is known; below it, where contacts push, only what comes out.
    family.qpos[:, 2] = [low - 0.3, (low + high) / 2, high - 0.05, high + 0.005, high + 0.1, (low + high) / 2]
    _, _, terminated, _, _ = family.step(np.zeros_like(family.action_space.sample()))
    height = family.qpos[:, 2]
    np.testing.assert_array_equal(terminated, (height < low) | (height > high))
    assert terminated[4] and not terminated[1]
    free = started(name, height_limits=None)
    free.qpos[:, 2] = high + 1
    assert not free.step(np.zeros_like(free.action_space.sample()))[2].any()


@pytest.mark.parametrize("name", HUMANOIDS)
def test_the_center_of_mass_is_that_of_all_bodies(name: str) -> None:
    family = started(name)
    model, data = family.model, mujoco.MjData(family.model)

    def centers() -> np.ndarray:
        values = []
        for qpos in family.qpos:
            data.qpos[:] = qpos
            mujoco.mj_forward(model, data)
            values.append(model.body_mass @ data.xipos / model.body_mass.sum())
        return np.array(values)[:, :2]

    goals = np.repeat([task.values["goal"] for task in family.tasks], 2, axis=0)
    for action in actions(family, 10):
        before = centers()
        _, rewards, _, _, infos = family.step(action)
        earned = 1.25 * (goals * (centers() - before) / 0.015).sum(1)
        np.testing.assert_allclose(infos["reward_goal"], earned, rtol=1e-4, atol=1e-6)
        effort = 0.1 * (np.clip(action, -0.4, 0.4) ** 2).sum(1)
        np.testing.assert_allclose(rewards, earned - effort + 5, rtol=1e-5)


def test_the_published_weight_differs_where_a_time_step_has_other_than_five_physics_steps() -> None:
    for frame_skip, ratio in ((5, 1.0), (2, 0.4)):
        ours, published = (
            started("HumanoidRandDirec2DEnv", [{"goal": [1, 0]}], frame_skip=frame_skip, published_weight=weight)
            for weight in (False, True)
        )
        ours.qvel[:, 0] = published.qvel[:, 0] = 1
        action = actions(ours, 1)[0]
        earned, as_published = (family.step(action)[4]["reward_goal"] for family in (ours, published))
        np.testing.assert_allclose(as_published, ratio * earned, rtol=1e-6)
        assert (np.abs(earned) > 0.5).all()


@pytest.mark.parametrize(("name", "arguments"), MEASURING)
def test_what_is_measured_is_what_mujoco_computes_for_the_state(name: str, arguments: dict[str, Any]) -> None:
    family, plain = started(name, **arguments), started(name)
    model, data = family.model, mujoco.MjData(family.model)
    bodies = ["cinert", "cvel", "qfrc_actuator"] if "observe_bodies" in arguments else []
    size = plain.single_observation_space.shape[0]  # type: ignore[index]
    ant, touched = name in ANTS, 0

    def expected(lane: int, controls: np.ndarray) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = family.qpos[lane], family.qvel[lane], controls
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        values = [getattr(data, field)[6 if field == "qfrc_actuator" else 1 :].ravel() for field in bodies]
        return np.concatenate([*values, data.cfrc_ext[1:].ravel()])

    lanes, num_steps = range(6), 30
    bounds = family.single_action_space
    for action in actions(family, num_steps):
        observations, rewards, terminated, _, infos = family.step(action)
        plain_results = plain.step(action)
        controls = np.clip(action, bounds.low, bounds.high)  # type: ignore[attr-defined]
        rows = np.array([expected(lane, controls[lane]) for lane in lanes])
        forces = np.clip(rows, -1, 1) if ant else rows[:, -78:]
        cost = 0.5e-3 * (forces**2).sum(1) if ant else np.minimum(0.5e-6 * (forces**2).sum(1), 10)
        touched += (cost > 0).sum()
        np.testing.assert_array_equal(observations[:, size:], (forces if ant else rows).astype(np.float32))
        np.testing.assert_array_equal(observations[:, :size], plain_results[0])
        np.testing.assert_allclose(infos["reward_contact"], -cost, rtol=1e-5)
        np.testing.assert_allclose(rewards, plain_results[1] - cost, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(terminated, plain_results[2])
        if terminated.any():
            observations, _ = family.reset(options={"reset_mask": terminated})
            plain.reset(options={"reset_mask": terminated})
            rows[terminated] = [expected(lane, np.zeros(model.nu)) for lane in lanes if terminated[lane]]
            shown = np.clip(rows, -1, 1) if ant else rows
            np.testing.assert_array_equal(observations[:, size:], shown.astype(np.float32))
    assert touched > 0


@pytest.mark.parametrize(("name", "arguments"), MEASURING)
def test_what_is_measured_of_a_lane_does_not_depend_on_the_others(name: str, arguments: dict[str, Any]) -> None:
    many = started(name, **arguments)
    single = make_family(name, 1, 1, **arguments)
    assert isinstance(single, MujocoFamily)
    single.set_tasks([many.tasks[1]])
    single.reset(seed=0)
    for action in actions(many, 20):
        put(single, many, 3)
        observations, rewards, *_ = many.step(action)
        observation, reward, *_ = single.step(action[3:4])
        np.testing.assert_array_equal(observation[0], observations[3])
        assert reward[0] == rewards[3]


@pytest.mark.parametrize("name", ANTS + HUMANOIDS)
def test_the_goal_is_observed_where_asked(name: str) -> None:
    family, without = started(name, observe_goal=True), started(name)
    goals = np.repeat([np.ravel(task.values["goal"]) for task in family.tasks], 2, axis=0)
    expected = np.concatenate([without._observe(), goals.astype(np.float32)], axis=1)
    np.testing.assert_array_equal(family._observe(), expected)
    assert family.single_observation_space.shape == expected[0].shape


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "AntRandGoalEnv",
            {"frame_skip": 0},
            "frame_skip: expected a whole number of at least 1 and at most 1000, got 0",
        ),
        ("AntRandGoalEnv", {"goal_height": -1}, "goal_height: expected a number of at least 0, got -1"),
        ("AntRandGoalEnv", {"radius": "3"}, "radius: expected a number"),
        ("AntRandGoalModeEnv", {"deal": "shuffle"}, "deal: expected one of"),
        ("AntRandDirecEnv", {"directions": [1, 2]}, "directions: expected a list of"),
        ("AntRandDirecEnv", {"directions": [[1, 1]]}, "directions: expected vectors .* of length 1"),
        ("HumanoidRandDirecEnv", {"directions": [[0, 0]]}, "directions: expected vectors .* of length 1"),
        ("AntRandDirecEnv", {"height_limits": [1, 0]}, "height_limits: expected"),
        ("AntRandVelEnv", {"goals": [[3, 0]]}, "goals: expected a list of"),
        ("HumanoidRandDirecEnv", {"contact_forces": 1}, "contact_forces: expected true or false, got 1"),
        ("HumanoidRandDirecEnv", {"observe_bodies": "no"}, "observe_bodies: expected true or false, got 'no'"),
        ("HumanoidRandDirec2DEnv", {"published_weight": None}, "published_weight: expected true or false"),
    ],
)
def test_bad_arguments_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_family(name, arguments)
