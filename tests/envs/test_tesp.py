"""TESP's families: sets of goals, arrival, bodies against MuJoCo and by hand, bad arguments."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.mujoco.tesp import Arrival
from mmaml.envs.registry import FAMILIES, make_family

NAMES = [name for name, family in FAMILIES.items() if family.location.endswith(":Arrival")]
CAR, ANT, ARM_2, ARM_4 = NAMES
# The body that has to arrive, by its name in the model.
ARRIVES = {CAR: "car", ANT: "torso", ARM_2: "fingertip", ARM_4: "fingertip"}


def arrival(name: str, tasks: int = 1, rollouts: int = 1, **env_kwargs: Any) -> Arrival:
    family = make_family(name, tasks, rollouts, **env_kwargs)
    assert isinstance(family, Arrival)
    return family


def given(name: str, *goals: Any, **env_kwargs: Any) -> Arrival:
    """A family at its start, one lane for each goal."""
    family = arrival(name, len(goals), **env_kwargs)
    family.set_tasks([Task(0, {"goal": goal}) for goal in goals])
    family.reset(seed=0)
    return family


def drawn(family: Arrival, n: int, split: str, seed: int = 0) -> np.ndarray:
    """Goals of n tasks [n, 2]."""
    return np.stack([task.values["goal"] for task in family.sample_tasks(n, np.random.default_rng(seed), split)])


def apart(places: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Distances of all pairs [n, m]."""
    return np.linalg.norm(places[:, None] - goals, axis=2)


@pytest.mark.parametrize("name", NAMES)
def test_training_goals_are_a_finite_set_and_others_lie_elsewhere(name: str) -> None:
    family = arrival(name)
    goals = drawn(family, 100, "train")
    assert len(np.unique(goals, axis=0)) == 100 == len(family.training_goals)
    assert (np.sort(goals, axis=0) == np.sort(family.training_goals, axis=0)).all()
    lengths = np.linalg.norm(goals, axis=1)
    assert lengths.min() > 0.2 and lengths.max() < 1.1
    spacing = 0.11 if name == ARM_4 else 0.1
    assert (apart(goals, goals) + np.eye(100) >= spacing).all()

    held_out = drawn(family, 300, "test")
    lengths = np.linalg.norm(held_out, axis=1)
    assert lengths.min() > 0.2 and lengths.max() < 1.1
    assert (apart(held_out, goals) >= spacing).all()
    far = np.linalg.norm(drawn(family, 2000, "ood"), axis=1)
    assert far.min() > 1.1 and far.max() < 1.5
    # Uniform over the plane, so that squares of distances are uniform.
    np.testing.assert_allclose((far**2).mean(), (1.1**2 + 1.5**2) / 2, rtol=0.01)


def test_the_set_depends_on_its_seed_alone_and_is_used_evenly() -> None:
    sets = [arrival(CAR, goal_seed=seed).training_goals for seed in (1, 1, 2)]
    np.testing.assert_array_equal(sets[0], sets[1])
    assert (sets[0] != sets[2]).any()
    family = arrival(CAR, training_goals=5)
    first, second = drawn(family, 12, "train", 0), drawn(family, 12, "train", 1)
    assert (first != second).any()
    _, counts = np.unique(first, axis=0, return_counts=True)
    assert sorted(counts) == [2, 2, 2, 3, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_body_is_where_mujoco_has_it(name: str) -> None:
    family = arrival(name, 1, 3)
    family.reset(seed=0)
    family.action_space.seed(0)
    data = mujoco.MjData(family.model)
    for _ in range(8):
        family.step(family.action_space.sample())
        places = family.body.position(family.qpos)
        for lane in range(3):
            data.qpos[:] = family.qpos[lane]
            mujoco.mj_kinematics(family.model, data)
            np.testing.assert_allclose(places[lane], data.body(ARRIVES[name]).xpos[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_bodies_weigh_24_kg_and_begin_at_rest(name: str) -> None:
    family = arrival(name, 2, 2)
    assert family.model.body_mass.sum() == pytest.approx(24)
    assert family.model.opt.timestep == 0.01 and family.dt == pytest.approx(0.05)
    first, _ = family.reset(seed=0)
    assert (family.qvel == 0).all() and (first == first[0]).all()
    reach = {ARM_2: 0.75 + 0.95, ARM_4: 3 * 0.45 + 0.65}.get(name, 0.0)
    np.testing.assert_allclose(family.body.position(family.qpos), [[reach, 0]] * 4, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_reward_by_hand_and_an_end_on_arrival(name: str) -> None:
    probe = given(name, [5, 5])
    action = np.linspace(-0.5, 2, probe.model.nu) * probe.single_action_space.high  # type: ignore[attr-defined]
    probe.step(action[None])
    place = probe.body.position(probe.qpos)[0]
    near = FAMILIES[name].env_kwargs["arrival"]
    family = given(name, *(place + near * np.array([[0.99 * np.cos(a), 0.99 * np.sin(a)] for a in (0, 2)])),
                   place + [0, 1.01 * near], place + [3, 4])  # fmt: skip
    _, reward, terminated, _, infos = family.step(np.tile(action, (4, 1)))
    np.testing.assert_array_equal(terminated, [True, True, False, False])
    np.testing.assert_array_equal(infos["success"], terminated)
    np.testing.assert_allclose(infos["reward_distance"], [-0.99 * near, -0.99 * near, -1.01 * near, -5], rtol=1e-5)
    effort = 0.0005 * (np.clip(np.linspace(-0.5, 2, probe.model.nu), -1, 1) ** 2).sum()
    np.testing.assert_allclose(infos["reward_control"], -effort, rtol=1e-6)
    np.testing.assert_allclose(reward, infos["reward_distance"] - effort, rtol=1e-5)


def test_the_ant_falls_and_that_is_no_success() -> None:
    family = given(ANT, *[[1, 0]] * 3)
    family.qpos[:, 2] = [0.11, 0.25, 0.6]
    family.qpos[0, 3:7] = [0, 1, 0, 0]  # on its back
    _, _, terminated, _, infos = family.step(np.zeros((3, 8), np.float32))
    np.testing.assert_array_equal(terminated, [True, False, True])
    assert not infos["success"].any()


def test_the_ant_stands_on_its_feet() -> None:
    family = given(ANT, [1, 0])
    for _ in range(100):
        _, _, terminated, _, _ = family.step(np.zeros((1, 8), np.float32))
        assert not terminated[0]
    # The height of hips over feet at the angle of the ankles, and the thickness of a foot.
    height = 0.16 * np.sqrt(2) * np.sin(family.qpos[0, 8]) + 0.04
    assert family.qpos[0, 2] == pytest.approx(height, abs=0.01)
    np.testing.assert_allclose(family.qpos[0, :2], 0, atol=1e-3)


def test_the_car_drives_and_turns() -> None:
    family = given(CAR, *[[3, 3]] * 4)
    speeds = np.array([[20, 20], [-20, -20], [20, -20], [20, 10]], np.float32)
    for _ in range(10):
        observation = family.step(speeds)[0]
    x, y, heading = observation[:, 0], observation[:, 1], np.arctan2(observation[:, 3], observation[:, 4])
    # No faster than friction allows: half of 0.4 g times the square of 0.5 s.
    assert 0.1 < x[0] < 0.5 * 0.4 * 9.81 * 0.5**2 * 1.1 and x[1] == pytest.approx(-x[0], rel=1e-3)
    np.testing.assert_allclose(y[:2], 0, atol=1e-4)
    np.testing.assert_allclose(heading[:2], 0, atol=1e-4)
    # The right wheel being faster, it turns to the left.
    assert heading[2] > 0.1 and heading[3] > 0.01
    np.testing.assert_allclose([x[2], y[2]], 0, atol=1e-2)
    # Mirrored controls take it the mirrored way.
    mirrored = given(CAR, [3, 3])
    for _ in range(10):
        observation = mirrored.step(speeds[3:, ::-1])[0]
    np.testing.assert_allclose(observation[0, :4] * [1, -1, 1, -1], [x[3], y[3], family.qpos[3, 2], np.sin(heading[3])],
                               atol=1e-4)  # fmt: skip


@pytest.mark.parametrize(("name", "speed"), [(ARM_2, 100), (ARM_4, 50)])
def test_an_arm_is_driven_and_turned_by_its_first_joint(name: str, speed: float) -> None:
    family = given(name, [3, 3])
    action = np.zeros((1, family.model.nu), np.float32)
    action[0, 0] = 2 * speed  # beyond the bound
    data = mujoco.MjData(family.model)
    mujoco.mj_forward(family.model, data)
    data.ctrl[0] = speed
    mujoco.mj_forward(family.model, data)
    assert data.qfrc_actuator[0] == pytest.approx(speed)
    for _ in range(5):
        mujoco.mj_step(family.model, data)
    observation = family.step(action)[0][0]
    n = family.model.nq
    np.testing.assert_allclose(family.qpos[0], data.qpos, atol=1e-9)
    np.testing.assert_allclose(observation[: 3 * n], [*np.cos(data.qpos), *np.sin(data.qpos), *data.qvel], rtol=1e-5)
    np.testing.assert_allclose(observation[3 * n :], data.body("fingertip").xpos[:2], atol=0.1)
    np.testing.assert_allclose(family.model.jnt_range[1:], np.deg2rad([[-160, 160]] * (n - 1)))


@pytest.mark.parametrize("name", NAMES)
def test_the_goal_is_seen_where_asked_for(name: str) -> None:
    family = given(name, [0.5, -0.25], observe_goal=True)
    np.testing.assert_allclose(family._observe()[0, -2:], [0.5, -0.25])
    assert family.single_observation_space.shape == (arrival(name).single_observation_space.shape[0] + 2,)  # type: ignore[index]
    marked = family.marker(family.tasks[0])
    np.testing.assert_allclose(marked, [0.5, -0.25, 0.1])


@pytest.mark.parametrize(
    ("argument", "value"),
    [("body", "boat"), ("arrival", 0), ("control_cost", -1), ("training_goals", 0), ("goal_seed", 0.5),
     ("goal_spacing", -1), ("training_ring", [-1, 1]), ("ood_ring", [2, 1]), ("observe_goal", 1)],
)  # fmt: skip
def test_bad_arguments_are_named(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        arrival(CAR, **{argument: value})


@pytest.mark.parametrize("arguments", [{"training_goals": 1000}, {"training_goals": 2, "goal_spacing": 5}])
def test_goals_that_do_not_fit_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"training_goals: expected .* fit into training_ring \[0.2, 1.1\]"):
        arrival(CAR, **arguments)
