"""Families by name, as single environments, and the rescaling of actions."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mmaml.envs.base import Task, TaskVectorEnv
from mmaml.envs.loading import UnknownEnvironment
from mmaml.envs.point_mass import MomentumPointMass
from mmaml.envs.registry import FAMILIES, check_family, gym_id, make_family, register_all
from mmaml.envs.spaces import rescale_actions

IDS = [gym_id(name) for name in FAMILIES]


def test_names_that_existing_configs_use_are_known() -> None:
    names = """MetaPointEnvMomentum MetaPointEnvMomentumSingleMode MetaPointEnvMomentum2Modes MetaPointEnvMomentumModes
    MetaPointEnvMomentum6Modes MetaPointEnvCorner MetaPointEnvWalls 2DNavigation-v0"""
    names += """ Reacher3Link1ModeEnv Reacher3Link2ModeEnv Reacher3Link6ModeEnv ReacherEnv Reacher2ModeEnv
    Reacher6ModeEnv AntRandGoalEnv AntRandGoalModeEnv AntRandGoalMode1ModesEnv AntRandGoalMode2ModesEnv
    AntRandGoalMode6ModesEnv AntRandDirecEnv AntRandDirec2DEnv HalfCheetahRandDirecEnv HalfCheetahRandVelEnv
    Walker2DRandDirecEnv Walker2DRandVelEnv Walker2DTargetLocation Walker2DRandParamsEnv HopperRandParamsEnv
    Reacher3LinkEnv SwimmerRandVelEnv SwimmerReach2ModesEnv SwimmerReach4ModesEnv HumanoidRandDirecEnv
    HumanoidRandDirec2DEnv CartPoleMassEnv"""
    assert set(names.split()) <= set(FAMILIES)
    assert "2DNavigation-v0" in IDS and "MetaPointEnvMomentumModes-v0" in IDS


@pytest.mark.parametrize("env_id", IDS)
def test_single_environments_pass_gymnasiums_check(env_id: str) -> None:
    env = gym.make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*A Box observation space m..imum value is -?infinity.*")
        warnings.filterwarnings("ignore", ".*For Box action spaces, we recommend using a symmetric and normalized.*")
        check_env(env.unwrapped)
        env.reset(seed=0)
    assert env.spec is not None and gym.make(env.spec).spec == env.spec
    assert env.spec.to_json()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_environment_is_a_lane_of_the_family(name: str) -> None:
    family = make_family(name)
    task = family.sample_tasks(1, np.random.default_rng(0), "test")[0]
    env = gym.make(gym_id(name))
    family.set_tasks([task])
    expected, _ = family.reset(seed=11)
    observation, info = env.reset(seed=11, options={"task": task})
    np.testing.assert_array_equal(observation, expected[0])
    assert info == {"mode": task.mode}
    env.action_space.seed(1)
    for t in range(20):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        expected, rewards, ends, cuts, infos = family.step(action[None])
        np.testing.assert_array_equal(observation, expected[0])
        assert reward == rewards[0] and terminated == ends[0]
        assert truncated == (cuts[0] or t + 1 == FAMILIES[name].horizon)
        assert info == {name: value[0] for name, value in infos.items()}
        terms = [value for term, value in info.items() if term.startswith("reward_")]
        assert sum(terms) == pytest.approx(reward, abs=1e-6 * sum(map(abs, terms)))
        if terminated or truncated:
            break


def test_a_single_environments_task_is_drawn_until_one_is_given() -> None:
    env: Any = gym.make("MetaPointEnvMomentumModes-v0").unwrapped

    def goal() -> list[float]:
        return list(env.family.tasks[0].values["goal"])

    goals = []
    for seed in (0, 1, None, 0):
        env.reset(seed=seed)
        goals.append(goal())
    assert goals[0] != goals[1] == goals[2] and goals[3] == goals[0]
    given = Task(0, {"goal": [1.0, 2.0]})
    env.set_task(given)
    for seed in (3, None):
        env.reset(seed=seed)
        assert goal() == [1, 2]
    env.reset(options={"task": env.sample_tasks(1, np.random.default_rng(0))[0]})
    assert goal() != [1, 2]


def test_a_time_limit_ends_a_single_environments_episode() -> None:
    env = gym.make("MetaPointEnvMomentumModes-v0")
    env.reset(seed=0)
    truncated = [env.step(np.zeros(2, np.float32))[3] for _ in range(100)]
    assert truncated == [False] * 99 + [True]


def test_arguments_reach_a_single_environment() -> None:
    env: Any = gym.make("MetaPointEnvMomentumModes-v0", reward_type="sparse", radius=50).unwrapped
    env.reset(seed=0)
    assert env.step(np.zeros(2, np.float32))[1] > 35


def test_registering_again_changes_nothing() -> None:
    specs = [gym.spec(env_id) for env_id in IDS]
    register_all()
    assert all(gym.spec(env_id) is spec for env_id, spec in zip(IDS, specs, strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ML10", "did you mean 'Meta-World/ML10'?"),
        ("MT1-push-v3", "did you mean 'Meta-World/MT1-push-v3'?"),
        ("MetaWorld", "did you mean 'Meta-World/M"),
        ("MetaPointEnvMomentumMode", "env: expected .* got 'MetaPointEnvMomentumMode'; did you mean '.*Modes'?"),
        ("xyz", "got 'xyz'; known families: MetaPointEnvMomentum, "),
        ("", "env: expected a task family"),
        (":Env", "env: expected a task family"),
        ("mmaml.envs.point_mass:", "env: expected a task family"),
        ("no.such.package:Env", "'no.such.package:Env' cannot be loaded .*No module named .*PYTHONPATH"),
        ("mmaml.envs.point_mass:Nothing", "cannot be loaded .*has no attribute 'Nothing'"),
        ("math:pi", "got 3.14"),
        ("gymnasium:Env", r"got Env without sample_tasks\(n, rng\) and set_task\(task\)"),
    ],
)
def test_unknown_environments_are_refused_in_a_line(name: str, message: str) -> None:
    for function in (lambda: make_family(name), lambda: check_family(name, {})):
        with pytest.raises(UnknownEnvironment, match=message) as error:
            function()
        assert "\n" not in str(error.value)


def test_a_module_that_fails_is_told_apart_from_one_that_is_not_there(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownEnvironment, match="ZeroDivisionError: division by zero"):
        make_family("failing_module:Env")


def test_unknown_arguments_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="env_kwargs: '2DNavigation-v0' takes goal_limit, reward_type, radius, got 'nois'"
    ):
        check_family("2DNavigation-v0", {"nois": 1})
    with pytest.raises(ValueError, match=r"env_kwargs: 'MetaPointEnvMomentumModes' takes centers, .* got 'num_tasks'"):
        check_family("MetaPointEnvMomentumModes", {"num_tasks": 1})


def test_a_users_family_is_found_by_its_place() -> None:
    family = make_family("mmaml.envs.point_mass:MomentumPointMass", 2, 3, centers=[[1, 1]])
    assert isinstance(family, MomentumPointMass) and family.num_envs == 6
    with pytest.raises(ValueError, match=r"env_kwargs: .* cannot be built with .*centers"):
        check_family("mmaml.envs.point_mass:MomentumPointMass", {})


def test_spaces_and_layout_of_a_block() -> None:
    family = make_family("MetaPointEnvMomentumModes", 3, 5)
    assert isinstance(family, TaskVectorEnv) and isinstance(family, gym.vector.VectorEnv)
    assert family.metadata["autoreset_mode"] is gym.vector.AutoresetMode.DISABLED
    assert family.observation_space.shape == (15, 4) and family.action_space.shape == (15, 2)
    observations, _ = family.reset(seed=0)
    assert family.observation_space.contains(observations)
    results = family.step(family.action_space.sample())
    goals = np.repeat([task.values["goal"] for task in family.tasks], 5, axis=0)
    np.testing.assert_allclose(results[1], -np.linalg.norm(results[0][:, :2] - goals, axis=1), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 10.0])
def test_rescaling_maps_the_scale_onto_the_bounds(scale: float) -> None:
    low, high = np.array([-0.1, 1.0], np.float32), np.array([0.1, 4.0], np.float32)
    actions = np.float32(scale) * np.array([[-1, -1], [1, 1], [0, 0], [2, -3]], np.float32)
    rescaled = rescale_actions(actions, low, high, scale)
    np.testing.assert_allclose(rescaled, [[-0.1, 1], [0.1, 4], [0, 2.5], [0.2, -2]], rtol=1e-6, atol=1e-7)
    assert rescaled.dtype == np.float32
    np.testing.assert_allclose(
        rescaled, low + (actions.astype(float) + scale) * (high - low) / (2 * scale), rtol=1e-5, atol=1e-6
    )


def test_no_scale_leaves_actions_alone_and_infinite_bounds_need_that() -> None:
    actions, bound = np.ones((3, 2), np.float32), np.full(2, np.inf, np.float32)
    unscaled = rescale_actions(actions, -bound, bound, None)
    np.testing.assert_array_equal(unscaled, actions)
    assert not np.shares_memory(unscaled, actions)
    with pytest.raises(ValueError, match=r"normalization_scale: expected null .* got 1.0"):
        rescale_actions(actions, -bound, bound, 1.0)
