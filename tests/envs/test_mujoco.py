"""What every MuJoCo family keeps to, whatever its model and its tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.registry import FAMILIES, make_family
from tests.helpers.mujoco import actions, beside_gymnasium, given, put

# MuJoCo's own reset of a lane is over before the next physics step.
ONE_PHYSICS_STEP = [(name, {"frame_skip": 1}) for name in ("HalfCheetahRandDirecEnv", "HumanoidRandDirecEnv")]
NAMES = [name for name, family in FAMILIES.items() if family.location.startswith("mmaml.envs.mujoco.")]


class Beside(NamedTuple):
    """A family on an unmodified model, beside gymnasium's environment of that model.

    goal: of the task. run: what "reward_run" is, from gymnasium's info; None where observations, rewards and ends are
    others. tolerance: of the state.
    """

    env_kwargs: dict[str, Any]
    env_id: str
    env_arguments: dict[str, Any]
    goal: Any = None
    run: Callable[[dict[str, Any]], float] | None = None
    tolerance: float = 1e-6


def forward(info: dict[str, Any]) -> float:
    return info["reward_forward"]


def speed(info: dict[str, Any]) -> float:
    return -abs(info["x_velocity"])


GYMNASIUM = {
    "HalfCheetahRandDirecEnv": Beside({}, "HalfCheetah-v5", {"ctrl_cost_weight": 0.05}, 1, forward),
    "Walker2DRandDirecEnv": Beside({}, "Walker2d-v5", {"frame_skip": 8}, 1, forward),
    "HopperRandParamsEnv": Beside({"dynamics_range": 0}, "Hopper-v5", {}, 1, forward),
    "SwimmerRandVelEnv": Beside({}, "Swimmer-v5", {}, 0, speed),
    "AntRandDirecEnv": Beside({}, "Ant-v5", {}, [1, 0]),
    "HumanoidRandDirecEnv": Beside({}, "Humanoid-v5", {}, [1, 0], tolerance=1e-4),
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


@pytest.mark.parametrize("name", NAMES)
def test_threads_change_no_bits(name: str) -> None:
    """A lane that blows up included, whose warnings come from a thread."""
    one, others = block(name), {threads: block(name) for threads in (1, 2, 5, 99)}
    for threads, other in others.items():
        other.use_threads(threads)
    for step, action in enumerate(actions(one, 20)):
        if step == 10:
            for family in (one, *others.values()):
                family.qvel[3] = 1e9
        *expected, infos = one.step(action)
        assert infos["blow_up"].any() == (step == 10)
        for other in others.values():
            *found, other_infos = other.step(action)
            for ours, theirs in zip([*found, *other_infos.values()], [*expected, *infos.values()], strict=True):
                np.testing.assert_array_equal(ours, theirs)
        if step == 10:
            for family in (one, *others.values()):
                family.reset(options={"reset_mask": infos["blow_up"]})
    for family in (one, *others.values()):
        family.close()


@pytest.mark.parametrize("name", GYMNASIUM)
def test_the_physics_is_gymnasiums_and_what_is_seen_and_rewarded_where_that_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_kwargs, env_id, env_arguments, goal, run, tolerance = GYMNASIUM[name]
    monkeypatch.chdir(tmp_path)  # MuJoCo's warnings of gymnasium's models go to a file
    family = make_family(name, 1, 1, **env_kwargs)
    assert isinstance(family, MujocoFamily)
    fell = False
    for env, expected, found in beside_gymnasium(given(family, goal), env_id, 60, **env_arguments):
        observation, _, ends, _, info = expected
        observations, _, terminated, _, infos = found
        np.testing.assert_allclose(family.qpos[0], env.data.qpos, rtol=0, atol=tolerance)
        np.testing.assert_allclose(family.qvel[0], env.data.qvel, rtol=0, atol=tolerance)
        if run is not None:
            np.testing.assert_allclose(observations[0], observation, rtol=1e-5, atol=1e-5)
            assert infos["reward_run"][0] == pytest.approx(run(info), rel=1e-5, abs=1e-5)
            assert infos["reward_control"][0] == pytest.approx(info["reward_ctrl"], rel=1e-5)
            assert terminated[0] == ends
        fell |= ends
    assert run is None or fell == name.startswith(("Walker", "Hopper"))


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
