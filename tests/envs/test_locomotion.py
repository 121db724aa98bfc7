"""Bodies that run along x: half-cheetah, walker and hopper, and tasks that differ in their dynamics."""

from __future__ import annotations

import pickle
from typing import Any

import mujoco
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.mujoco.base import compiled, load_spec
from mmaml.envs.mujoco.dynamics import BASES, multiplied
from mmaml.envs.mujoco.locomotion import Runner
from mmaml.envs.registry import make_family
from tests.helpers.mujoco import given

RUNNERS = ("HalfCheetahRandDirecEnv", "Walker2DRandDirecEnv", "HopperRandParamsEnv")
DYNAMICS = ("Walker2DRandParamsEnv", "HopperRandParamsEnv")


def runner(name: str, tasks: int = 1, rollouts: int = 1, **arguments: Any) -> Runner:
    family = make_family(name, tasks, rollouts, **arguments)
    assert isinstance(family, Runner)
    return family


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize("reward_type", ["direction", "velocity", "location"])
def test_the_reward_is_the_goals(name: str, reward_type: str) -> None:
    goals = np.array([-1.0, 1.0] if reward_type == "direction" else [-0.7, 2.5])
    family = given(runner(name, 2, reward_type=reward_type, dynamics_range=0), *goals)
    family.action_space.seed(0)
    for _ in range(5):
        before = family.qpos[:, 0].copy()
        actions = np.asarray(family.action_space.sample())
        _, rewards, _, _, infos = family.step(actions)
        x = family.qpos[:, 0]
        v = (x - before) / family.dt
        run = {"direction": goals * v, "velocity": -abs(v - goals), "location": -abs(x - goals)}[reward_type]
        control = -family.control_cost * (actions.astype(float) ** 2).sum(1)
        alive = getattr(family, "alive_bonus", 0)
        np.testing.assert_allclose(infos["reward_run"], run, rtol=1e-6)
        np.testing.assert_allclose(infos["reward_control"], control, rtol=1e-6)
        np.testing.assert_allclose(rewards, run + control + alive, rtol=1e-5, atol=1e-6)


def test_time_steps_are_those_of_the_published_environments() -> None:
    names = ("HalfCheetahRandVelEnv", "Walker2DRandVelEnv", *DYNAMICS)
    assert [runner(name).dt for name in names] == pytest.approx([0.05, 0.016, 0.008, 0.008])
    assert runner(names[0], frame_skip=1).dt == pytest.approx(0.01)


def test_modes_are_dealt_where_asked() -> None:
    dealt = runner("HalfCheetahRandDirecEnv", deal="round_robin").sample_tasks(4, np.random.default_rng(0))
    assert [(task.mode, task.values["goal"]) for task in dealt] == [(0, -1), (1, 1)] * 2


def test_a_location_is_marked_and_nothing_else() -> None:
    task = Task(0, {"goal": -2.0})
    assert list(runner("Walker2DTargetLocation").marker(task)) == [-2, 0, 0]  # type: ignore[arg-type]
    assert runner("Walker2DRandVelEnv").marker(task) is None


@pytest.mark.parametrize("name", RUNNERS)
def test_all_but_x_is_observed(name: str) -> None:
    family = given(runner(name, 1, 20, dynamics_range=0), 1)
    np.testing.assert_array_equal(family._observe(), np.hstack([family.qpos[:, 1:], family.qvel]).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        (
            "Walker2DRandDirecEnv",
            [(0.81, 0), (1.99, 0), (1.2, -0.99), (1.2, 0.99)],
            [(0.79, 0), (2.01, 0), (1.2, -1.01)],
        ),
        ("HopperRandParamsEnv", [(0.71, 0), (9, 0), (1.2, -0.19), (1.2, 0.19)], [(0.69, 0), (1.2, -0.21), (1.2, 0.21)]),
    ],
)
def test_a_runner_that_falls_ends(
    name: str, inside: list[tuple[float, float]], outside: list[tuple[float, float]]
) -> None:
    family = given(runner(name, 1, len(inside + outside), dynamics_range=0, frame_skip=1), 1)
    family.qvel[:] = 0
    family.qpos[:, 1:3] = inside + outside
    terminated = family.step(np.zeros((family.num_envs, family.model.nu), np.float32))[2]
    np.testing.assert_array_equal(terminated, [False] * len(inside) + [True] * len(outside))


def test_a_hopper_beyond_its_limits_ends() -> None:
    family = given(runner("HopperRandParamsEnv", 1, 3, dynamics_range=0), 1)
    family.qvel[1, 5], family.qpos[2, 0] = 101, 500
    assert list(family._upright()) == [True, False, True]  # type: ignore[attr-defined]


def test_velocities_are_observed_within_their_limit() -> None:
    family = given(runner("HopperRandParamsEnv", dynamics_range=0), 1)
    family.qvel[0] = np.linspace(-30, 30, 6)
    np.testing.assert_allclose(family._observe()[0, 5:], [-10, -10, -6, 6, 10, 10])


def test_the_goal_is_observed_where_asked() -> None:
    family = given(runner("HalfCheetahRandVelEnv", 2, observe_goal=True), 0.5, 2.0)
    assert family.single_observation_space.shape == (18,)
    np.testing.assert_allclose(family._observe()[:, 17], [0.5, 2])


# Tasks that differ in their dynamics.


@pytest.mark.parametrize("name", DYNAMICS)
def test_multipliers_are_drawn_for_each_entry_and_task(name: str) -> None:
    family = runner(name)
    tasks = family.sample_tasks(50, np.random.default_rng(0))
    for array, base in BASES.items():
        drawn = np.stack([task.values[array] for task in tasks])
        assert drawn.shape == (50, *getattr(family.model, array).shape)
        exponents = np.log(drawn) / np.log(base)
        assert abs(exponents).max() <= 3 and abs(exponents.std() - np.sqrt(3)) < 0.15 and abs(exponents.mean()) < 0.3
        assert len(np.unique(drawn)) == drawn.size
    again = pickle.loads(pickle.dumps(tasks[0]))
    assert again.mode == tasks[0].mode and all((again.values[key] == tasks[0].values[key]).all() for key in BASES)


def test_multiplied_models_are_those_compiled_so() -> None:
    """Twice the density of all geoms is twice the masses and inertias."""
    spec = load_spec("hopper.xml")
    for geom in spec.geoms:
        geom.density, geom.friction = 2 * geom.density, 0.5 * geom.friction
    for joint in spec.joints:
        joint.damping = 3 * np.asarray(joint.damping)
    expected, model = compiled(spec), compiled(load_spec("hopper.xml"))
    ratios = {"body_mass": 2, "body_inertia": 2, "geom_friction": 0.5, "dof_damping": 3}
    values = {name: np.full(getattr(model, name).shape, ratio) for name, ratio in ratios.items()}
    result = multiplied(model, Task(0, values))
    for name in (*BASES, "body_invweight0", "dof_invweight0", "body_subtreemass"):
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), rtol=1e-12)
    ends = []
    for each in (result, expected, model):
        data = mujoco.MjData(each)
        data.ctrl[:] = 0.3
        mujoco.mj_step(each, data, 100)
        ends.append(data.qpos.copy())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9)
    assert abs(ends[0] - ends[2]).max() > 0.01


@pytest.mark.parametrize("name", DYNAMICS)
def test_each_task_has_its_dynamics_whatever_came_before(name: str) -> None:
    family, ones = runner(name, 3, 2), {array: np.ones_like(getattr(runner(name).model, array)) for array in BASES}
    drawn = family.sample_tasks(4, np.random.default_rng(0))
    plain = Task(0, {"goal": 1.0, **ones})
    start = given(runner(name, dynamics_range=0), 1)
    state = start.qpos[0].copy(), start.qvel[0].copy()
    action = np.full((6, *family.single_action_space.shape), 0.5, np.float32)  # type: ignore[misc]

    def after(tasks: list[Task]) -> np.ndarray:
        family.set_tasks(tasks)
        family.reset(seed=0)
        family.qpos[:], family.qvel[:] = state
        for _ in range(10):
            family.step(action)
        return family.qpos.copy()

    first = after([drawn[0], drawn[1], plain])
    assert len(np.unique(first, axis=0)) == 3
    for _ in range(10):
        start.step(action[:1])
    np.testing.assert_array_equal(first[4:], np.repeat(start.qpos, 2, axis=0))
    after([drawn[2], drawn[3], drawn[1]])
    np.testing.assert_array_equal(after([drawn[1], plain, drawn[0]]), first[[2, 3, 4, 5, 0, 1]])


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_type": "speed"}, "reward_type: expected one of .*'velocity'.*, got 'speed'"),
        ({"goals": [[2, 1]]}, r"goals: expected a list of \[low, high\] with low <= high, one per mode, got"),
        ({"goals": []}, "goals: expected"),
        ({"goals": [1, 2]}, "goals: expected"),
        ({"deal": "turn"}, "deal: expected one of"),
        ({"frame_skip": 0}, "frame_skip: expected a whole number of at least 1 and at most 1000, got 0"),
        ({"frame_skip": 2.0}, "frame_skip: expected a whole number"),
        ({"frame_skip": 2**40}, "frame_skip: expected a whole number of at least 1 and at most 1000, got"),
        ({"control_cost": -1}, "control_cost: expected a number of at least 0"),
        ({"alive_bonus": None}, "alive_bonus: expected a number of at least 0"),
        ({"dynamics_range": "3"}, "dynamics_range: expected a number of at least 0"),
        ({"dynamics_range": 11}, "dynamics_range: expected at most 10"),
        ({"observe_goal": 1}, "observe_goal: expected true or false"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_family("Walker2DRandDirecEnv", **arguments)


def test_tasks_of_other_families_are_refused() -> None:
    walker, hopper = runner("Walker2DRandParamsEnv"), runner("HopperRandParamsEnv")
    with pytest.raises(ValueError, match=r"tasks: expected 'body_mass' of shape \(8,\) .* got shape \(5,\)"):
        walker.set_tasks(hopper.sample_tasks(1, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="tasks: expected 'body_mass' of shape"):
        walker.set_tasks([Task(0, {"goal": 1.0})])
    with pytest.raises(ValueError, match="tasks: expected 'goal'"):
        runner("Walker2DRandDirecEnv").set_tasks([Task(0, {"goal": [1.0, 2.0]})])
