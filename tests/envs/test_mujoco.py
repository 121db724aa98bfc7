"""What every MuJoCo family keeps to, whatever its model and its tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.registry import FAMILIES, make_family
from tests.helpers.mujoco import actions, put

# MuJoCo's own reset of a lane is over before the next physics step.
ONE_PHYSICS_STEP = [(name, {"frame_skip": 1}) for name in ("HalfCheetahRandDirecEnv", "HumanoidRandDirecEnv")]
NAMES = [name for name, family in FAMILIES.items() if family.place.startswith("mmaml.envs.mujoco.")]

# A family on an unmodified model: its arguments, gymnasium's environment of that model, its arguments, tolerance.
GYMNASIUM: dict[str, tuple[dict[str, Any], str, dict[str, Any], float]] = {
    "HalfCheetahRandDirecEnv": ({}, "HalfCheetah-v5", {}, 1e-6),
    "Walker2DRandDirecEnv": ({}, "Walker2d-v5", {"frame_skip": 8}, 1e-6),
    "HopperRandParamsEnv": ({"dynamics_range": 0}, "Hopper-v5", {}, 1e-6),
    "AntRandDirecEnv": ({}, "Ant-v5", {}, 1e-6),
    "HumanoidRandDirecEnv": ({}, "Humanoid-v5", {}, 1e-4),
    "SwimmerRandVelEnv": ({}, "Swimmer-v5", {}, 1e-6),
}


def block(name: str, tasks: int = 3, rollouts: int = 2, seed: int = 0, **env_kwargs: Any) -> MujocoFamily:
    family = make_family(name, tasks, rollouts, **env_kwargs)
    assert isinstance(family, MujocoFamily)
    family.set_tasks(family.sample_tasks(tasks, np.random.default_rng(seed)))
    family.reset(seed=list(range(tasks)))
    return family


@pytest.mark.parametrize("name", NAMES)
def test_a_lane_has_the_bits_of_an_environment_of_its_own(name: str) -> None:
    many, lane = block(name), 3
    single = make_family(name, 1, 1)
    assert isinstance(single, MujocoFamily)
    single.set_tasks([many.tasks[lane // 2]])
    single.reset(seed=0)
    for action in actions(many, 30):
        put(single, many, lane)
        observations, rewards, terminated, _, infos = many.step(action)
        observation, reward, ends, _, info = single.step(action[lane : lane + 1])
        np.testing.assert_array_equal(observation[0], observations[lane])
        assert reward[0] == rewards[lane] and ends[0] == terminated[lane]
        assert {key: value[0] for key, value in info.items()} == {key: value[lane] for key, value in infos.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_does_not_depend_on_the_rest_of_its_block(name: str) -> None:
    many, one = block(name), make_family(name, 1, 2)
    one.set_tasks(many.tasks[1:2])
    one.reset(seed=[1])
    assert isinstance(one, MujocoFamily)
    np.testing.assert_array_equal(one.qpos, many.qpos[2:4])
    for action in actions(many, 20):
        observations, rewards, terminated, *_ = many.step(action)
        observation, reward, ends, *_ = one.step(action[2:4])
        np.testing.assert_array_equal(observation, observations[2:4])
        np.testing.assert_array_equal(reward, rewards[2:4])
        if terminated.any():
            many.reset(options={"reset_mask": terminated})
        if ends.any():
            one.reset(options={"reset_mask": ends})


@pytest.mark.parametrize("name", GYMNASIUM)
def test_the_physics_is_gymnasiums(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, env_id, env_arguments, tolerance = GYMNASIUM[name]
    monkeypatch.chdir(tmp_path)  # MuJoCo's warnings of gymnasium's models go to a file
    env: Any = gym.make(env_id, **env_arguments).unwrapped
    family = make_family(name, 1, 1, **arguments)
    assert isinstance(family, MujocoFamily)
    env.reset(seed=0)
    family.reset(seed=0)
    family.qpos[0], family.qvel[0] = env.data.qpos, env.data.qvel
    env.action_space.seed(0)
    for _ in range(40):
        action = env.action_space.sample().astype(np.float32)
        env.step(action)
        family.step(action[None])
        np.testing.assert_allclose(family.qpos[0], env.data.qpos, rtol=0, atol=tolerance)
        np.testing.assert_allclose(family.qvel[0], env.data.qvel, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_observation_does_not_tell_the_task(name: str) -> None:
    family = make_family(name, 20, 1)
    assert isinstance(family, MujocoFamily)
    family.set_tasks(family.sample_tasks(20, np.random.default_rng(0)))
    family.reset(seed=0)
    family.qpos[:], family.qvel[:] = family.qpos[0].copy(), family.qvel[0].copy()
    observations = family._observe()
    assert observations.shape == family.observation_space.shape and observations.dtype == np.float32
    assert (observations == observations[0]).all()


@pytest.mark.parametrize("name, env_kwargs", [*((name, {}) for name in NAMES), *ONE_PHYSICS_STEP])
def test_a_blow_up_ends_its_own_lane_and_no_other(
    name: str,
    env_kwargs: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    family, calm = block(name, **env_kwargs), block(name, **env_kwargs)
    action = actions(family, 1)[0]
    family.qvel[1], family.qvel[3, 0], family.qpos[4] = 1e12, 1e6, np.nan
    observations, rewards, terminated, _, infos = family.step(action)
    expected = calm.step(action)
    blown = np.array([False, True, False, True, True, False])
    np.testing.assert_array_equal(infos["blow_up"], blown)
    assert terminated[blown].all() and (rewards[blown] == 0).all() and np.isfinite(observations).all()
    assert all(np.isfinite(value).all() for value in infos.values())
    np.testing.assert_array_equal(observations[~blown], expected[0][~blown])
    np.testing.assert_array_equal(rewards[~blown], expected[1][~blown])

    family.reset(options={"reset_mask": terminated})
    observations, _, _, _, infos = family.step(action)
    assert np.isfinite(observations).all() and not infos["blow_up"].any()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
