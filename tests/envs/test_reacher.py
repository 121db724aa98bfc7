"""Reacher families: goals, fingertip, rewards by hand, gymnasium's physics, what the published code does otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.mujoco.reacher import Reacher
from mmaml.envs.registry import FAMILIES, make_family

NAMES = [name for name, family in FAMILIES.items() if family.location.endswith(":Reacher")]


def reacher(name: str, tasks: int = 1, rollouts: int = 1, **env_kwargs: Any) -> Reacher:
    family = make_family(name, tasks, rollouts, **env_kwargs)
    assert isinstance(family, Reacher)
    return family


def drawn(name: str, n: int = 4000, **env_kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Goals [n, 3] and modes [n] of many tasks."""
    tasks = reacher(name, **env_kwargs).sample_tasks(n, np.random.default_rng(0))
    return np.stack([task.values["goal"] for task in tasks]), np.array([task.mode for task in tasks])


@pytest.mark.parametrize("name", NAMES)
def test_the_fingertip_is_where_mujoco_has_it(name: str) -> None:
    family = reacher(name, 2, 3)
    family.reset(seed=0)
    data = mujoco.MjData(family.model)
    for _ in range(10):
        family.step(family.action_space.sample())
        tips = family.fingertip(family.qpos)
        for lane in range(6):
            data.qpos[:] = family.qpos[lane]
            mujoco.mj_kinematics(family.model, data)
            np.testing.assert_allclose(tips[lane], data.geom("fingertip").xpos, rtol=0, atol=1e-12)


def test_two_links_move_as_gymnasiums_reacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env: Any = gym.make("Reacher-v5").unwrapped
    family = reacher("ReacherEnv")
    env.reset(seed=1)
    family.reset(seed=1)
    family.qpos[0], family.qvel[0] = env.data.qpos[:2], env.data.qvel[:2]
    env.action_space.seed(0)
    for _ in range(40):
        action = env.action_space.sample()
        env.step(action)
        family.step(action[None])
        np.testing.assert_allclose(family.qpos[0], env.data.qpos[:2], rtol=0, atol=1e-6)
        np.testing.assert_allclose(family.qvel[0], env.data.qvel[:2], rtol=0, atol=1e-6)


def test_three_links_are_hinges_in_a_row() -> None:
    model = reacher("Reacher3LinkEnv").model
    assert (model.nq, model.nu) == (3, 3)
    np.testing.assert_array_equal(model.dof_armature, 1)
    np.testing.assert_array_equal(model.dof_damping, 1)
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 200)
    np.testing.assert_array_equal(model.jnt_range[1:], [[-3, 3], [-5, 3]])
    assert model.jnt_limited.tolist() == [0, 1, 1]
    np.testing.assert_allclose(model.body("fingertip").pos, [0.1, 0, 0])
    # Two capsules of equal size weigh the same; the third body has the fingertip's ball besides.
    ball = 4 / 3 * np.pi * 0.01**3 * 1000
    np.testing.assert_allclose(model.body_mass[1:], model.body_mass[1] + np.array([0, 0, ball]))
    walls = [np.abs(model.geom(f"side{side}").pos[:2]).max() for side in "SENW"]
    np.testing.assert_allclose(walls, 0.4)


@pytest.mark.parametrize("name, reach, height", [("Reacher3LinkEnv", 0.3, 0.03), ("Reacher6ModeEnv", 0.25, 0.01)])
def test_goals_lie_about_the_centres_within_reach(name: str, reach: float, height: float) -> None:
    """With three links goals are shortened as a whole, with two in the arm's plane."""
    goals, modes = drawn(name)
    family = reacher(name)
    in_plane = name == "Reacher6ModeEnv"
    lengths = np.linalg.norm(goals[:, :2] if in_plane else goals, axis=1)
    assert lengths.max() <= reach * (1 + 1e-12)
    whole = lengths < reach * (1 - 1e-9)
    np.testing.assert_array_equal(goals[whole, 2], height)
    np.testing.assert_allclose(lengths[~whole], reach)
    assert set(modes) == set(range(family.num_modes))
    assert (goals[:, 2] == height).all() == in_plane
    angles = np.arctan2(goals[:, 1], goals[:, 0])
    for mode, center in enumerate(family.centers):
        turned = np.exp(1j * (angles[modes == mode] - np.arctan2(center[1], center[0])))
        assert abs(np.angle(turned.mean())) < 0.05


def test_about_two_thirds_of_the_goals_of_three_links_are_shortened() -> None:
    goals, _ = drawn("Reacher3LinkEnv")
    shortened = np.isclose(np.linalg.norm(goals, axis=1), 0.3).mean()
    assert 0.6 < shortened < 0.72


@pytest.mark.parametrize("name, links", [("Reacher3LinkEnv", 3), ("ReacherEnv", 2)])
def test_reward_and_observation_by_hand(name: str, links: int) -> None:
    family = reacher(name, reward_before_step=False)
    goal = np.array([0.1, -0.05, 0.02])
    family.set_tasks([Task(0, {"goal": goal})])
    start, _ = family.reset(seed=3)
    angles, speeds = family.qpos[0], family.qvel[0]
    parts = [np.cos(angles[:2]), np.sin(angles[:2]), angles[2:], speeds[:2]]
    np.testing.assert_allclose(start[0], np.concatenate(parts), rtol=1e-6)
    action = np.linspace(-0.5, 3, links)  # the last is beyond the bounds
    _, reward, terminated, _, infos = family.step(action[None])
    away = family.fingertip(family.qpos)[0] - goal
    effort = (np.clip(action, -1, 1) ** 2).sum()
    distance, cost = (np.abs(away).sum(), 0.1 * effort) if links == 3 else (np.sqrt(away @ away), effort)
    assert infos["reward_distance"][0] == pytest.approx(-distance)
    assert infos["reward_control"][0] == pytest.approx(-cost)
    assert reward[0] == pytest.approx(-distance - cost) and not terminated[0]


def test_arguments_for_what_the_published_code_does() -> None:
    goal = np.array([0.2, 0.1, 0.01])
    late, early = reacher("ReacherEnv", reward_before_step=False), reacher("ReacherEnv", observe_goal=True)
    for family in (late, early):
        family.set_tasks([Task(0, {"goal": goal})])
        observation, _ = family.reset(seed=0)
    np.testing.assert_allclose(observation[0, -3:], goal, rtol=1e-6)
    before = -np.linalg.norm(early.fingertip(early.qpos)[0] - goal)
    action = np.ones((1, 2), np.float32)
    distances = [family.step(action)[4]["reward_distance"][0] for family in (late, early)]
    after = -np.linalg.norm(late.fingertip(late.qpos)[0] - goal)
    np.testing.assert_allclose(distances, [after, before], rtol=1e-6)
    assert abs(after - before) > 1e-4

    _, modes = drawn("Reacher3Link6ModeEnv", drawn_modes=2)
    assert set(modes) == {0, 1}
    family = reacher("Reacher3LinkEnv", observe_all_velocities=True)
    observation, _ = family.reset(seed=0)
    np.testing.assert_allclose(observation[0, 5:], family.qvel[0], rtol=1e-6)


@pytest.mark.parametrize(
    "argument, value",
    [("links", 4), ("noise", -1), ("reach", 0), ("distance", "l3"), ("deal", "all"), ("drawn_modes", 0),
     ("drawn_modes", 5), ("links", [3]), ("observe_goal", 1), ("centers", [1, 2])],
)  # fmt: skip
def test_bad_arguments_are_named(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=argument):
        reacher("Reacher3LinkEnv", **{argument: value})
