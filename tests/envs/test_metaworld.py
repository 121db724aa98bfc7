"""Meta-World's benchmarks: its numbers to the bit, its tasks, and what an environment without it is told."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pytest

from mmaml.cli import train
from mmaml.envs import metaworld
from mmaml.envs.base import Task, TaskVectorEnv
from mmaml.envs.metaworld import HORIZON, MUJOCO_4, VERSIONS, MetaWorld, environments_of, goals_of, rand_vec_of
from mmaml.envs.registry import check_family, make_family
from mmaml.envs.spec import NO_WARNINGS
from mmaml.errors import ConfigError
from tests.helpers.metaworld import needs_metaworld

# Objects that are grasped, hinges, a value kept from the first step of an episode, two objects, a quaternion of zeros.
SOME = ("reach-v3", "push-v3", "door-open-v3", "bin-picking-v3", "stick-pull-v3", "plate-slide-v3")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Versions that are found installed, to be changed."""
    there = dict.fromkeys(MUJOCO_4, "") | VERSIONS
    monkeypatch.setattr(metaworld, "_installed", lambda package: there[package])
    metaworld.package.cache_clear()
    yield there
    metaworld.package.cache_clear()


@pytest.mark.parametrize(
    ("package", "found", "shown"), [("metaworld", "", "no metaworld"), ("mujoco", "4.0.0", "mujoco 4.0.0")]
)
def test_what_to_install_is_said_in_a_line(
    versions: dict[str, str], package: str, found: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    versions[package] = found
    assert train.main(["--env=Meta-World/ML1-reach-v3", "--dump_path=never"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: env: expected metaworld 3.1.1 and mujoco 3.3.0 for Meta-World, got ")
    assert shown in line and line.endswith('install them with: pip install "mmaml[metaworld]"')


def test_mujoco_4_is_to_be_uninstalled_first(versions: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """pip leaves its other packages there, in whose files an older MuJoCo finds what it cannot load."""
    versions |= {"mujoco": "4.0.0", "mujoco-core": "4.0.0"}
    for found in ("mujoco 4.0.0", "mujoco 3.3.0"):
        versions["mujoco"] = found.removeprefix("mujoco ")
        metaworld.package.cache_clear()
        assert train.main(["--env=Meta-World/ML1-reach-v3", "--dump_path=never"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"got metaworld 3.1.1 and {found} and mujoco-core 4.0.0; " in line
        assert "with: pip uninstall -y mujoco mujoco-core mujoco-studio && pip install " in line


def own_environment(task: Task, hides_goal: bool, reward_version: str) -> Any:
    """Meta-World's environment object, new, with a task of ours."""
    name, package = task.values["environment"], metaworld.package()
    environment_class = package.env_dict.ALL_V3_ENVIRONMENTS[name]
    values = {
        "env_cls": environment_class,
        "rand_vec": task.values["rand_vec"],
        "partially_observable": hides_goal,
    }
    environment = environment_class(reward_function_version=reward_version)
    environment.set_task(package.types.Task(name, pickle.dumps(values)))
    return environment


def expert(name: str) -> Any:
    """Meta-World's own policy for an environment, which grasps, pushes and succeeds."""
    from metaworld import policies

    return policies.ENV_POLICY_MAP[name]()


def compare(
    name: str, *lengths: int, hides_goal: bool = True, reward_version: str = "v2", tasks: int = 2, lanes: int = 2
) -> int:
    """Step episodes of these lengths in lanes of two tasks, and in Meta-World's environments.

    Returns the number of steps that succeeded.
    """
    kind = "ML1" if hides_goal else "MT1"
    family = make_family(f"Meta-World/{kind}-{name}", tasks, lanes, reward_version=reward_version)
    family.set_tasks(family.sample_tasks(tasks, np.random.default_rng(0)))
    owns = [own_environment(task, hides_goal, reward_version) for task in family.tasks for _ in range(lanes)]
    rng, solved = np.random.default_rng(1), 0
    for length in lengths:
        solved += compare_episodes(family, owns, name, length, rng)
    for lane, own in enumerate(owns):
        shown, pose = family.pose(lane)
        assert shown == name
        np.testing.assert_array_equal(pose.qpos, own.data.qpos)
        np.testing.assert_array_equal(pose.goal, own._target_pos)
        np.testing.assert_array_equal(pose.model.body_pos, own.model.body_pos)
        assert pose.model.ngeom == own.model.ngeom
    return solved


def compare_episodes(
    family: TaskVectorEnv, owns: Sequence[Any], name: str, length: int, rng: np.random.Generator
) -> int:
    observations, _ = family.reset(seed=0)
    states = [own.reset()[0] for own in owns]
    np.testing.assert_array_equal(observations, np.float32(states))
    policy, solved = expert(name), 0
    for step in range(length):
        actions = rng.uniform(-1, 1, (len(owns), 4)).astype(np.float32)
        if step % 3:  # the expert is told the goal
            told = [np.append(state[:36], own._target_pos) for state, own in zip(states, owns, strict=True)]
            wanted = [policy.get_action(state) for state in told]
            actions = np.clip(np.array(wanted) + 0.2 * actions, -1, 1).astype(np.float32)
        observations, rewards, terminated, truncated, infos = family.step(actions)
        expected = [own.step(action) for own, action in zip(owns, actions, strict=True)]
        states = [state for state, *_ in expected]
        np.testing.assert_array_equal(observations, np.float32(states))
        np.testing.assert_array_equal(rewards, np.float32([reward for _, reward, *_ in expected]))
        np.testing.assert_array_equal(infos["success"], [bool(info["success"]) for *_, info in expected])
        np.testing.assert_array_equal(truncated, [cut for _, _, _, cut, _ in expected])
        assert not terminated.any()
        solved += int(infos["success"].sum())
    return solved


@needs_metaworld
@pytest.mark.parametrize("name", SOME)
def test_steps_are_those_of_meta_world_to_the_bit(name: str) -> None:
    compare(name, 40)


@needs_metaworld
@pytest.mark.parametrize("name", ["reach-v3", "pick-place-v3"])
def test_rewards_of_the_first_version_are_those_of_meta_world(name: str) -> None:
    compare(name, 60, reward_version="v1")


@needs_metaworld
@pytest.mark.parametrize("name", ["reach-v3", "basketball-v3"])
def test_goals_are_observed_as_by_meta_world(name: str) -> None:
    compare(name, 60, hides_goal=False)


@needs_metaworld
def test_episodes_of_ml10_are_those_of_meta_world_from_their_resets_to_their_ends() -> None:
    for name in environments_of("ML10")["train"]:
        assert compare(name, HORIZON, 5, lanes=1) > 0


@needs_metaworld
def test_success_that_asks_for_a_grasp_is_that_of_meta_world() -> None:
    assert compare("stick-push-v3", 300, tasks=1) > 0


@needs_metaworld
@pytest.mark.slow
def test_episodes_of_all_environments_are_those_of_meta_world_to_the_bit() -> None:
    for name in metaworld.package().env_dict.ALL_V3_ENVIRONMENTS:
        compare(name, HORIZON, lanes=1)


@needs_metaworld
def test_the_model_that_is_stepped_has_all_that_the_physics_reads() -> None:
    """Of geoms, those that touch something: the others only have a name, or are left out."""
    own = metaworld.package().env_dict.ALL_V3_ENVIRONMENTS["drawer-close-v3"]().model
    lean = metaworld.sawyer_of("drawer-close-v3").model
    assert lean.ngeom < own.ngeom and lean.nmesh < own.nmesh
    touching = own.geom_contype | own.geom_conaffinity
    assert np.count_nonzero(lean.geom_contype | lean.geom_conaffinity) == np.count_nonzero(touching)
    for part in ("body_mass", "body_inertia", "body_ipos", "dof_invweight0", "jnt_range", "eq_data"):
        np.testing.assert_array_equal(getattr(lean, part), getattr(own, part))


@needs_metaworld
def test_a_lane_does_not_depend_on_the_lanes_and_families_beside_it() -> None:
    family, alone = make_family("Meta-World/ML10", 4, 2), make_family("Meta-World/ML10", 1, 2)
    tasks = family.sample_tasks(4, np.random.default_rng(3))
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 8, 4)).astype(np.float32)
    family.set_tasks(tasks)
    alone.set_tasks(tasks[2:3])
    family.reset(seed=0)
    alone.reset(seed=0)
    for step, action in enumerate(actions):
        if step == 20:  # another episode of one lane
            for block, lanes in ((family, 8), (alone, 2)):
                block.reset(options={"reset_mask": np.arange(lanes) == (5 if block is family else 1)})
        rows, rewards, *_ = family.step(action)
        expected, expected_rewards, *_ = alone.step(action[4:6])
        np.testing.assert_array_equal(rows[4:6], expected)
        np.testing.assert_array_equal(rewards[4:6], expected_rewards)


@needs_metaworld
@pytest.mark.parametrize("name", SOME[:3])
def test_tasks_are_those_that_meta_world_draws(name: str) -> None:
    benchmark = metaworld.package().ML1(name, seed=5)
    family = make_family(f"Meta-World/ML1-{name}", benchmark_seed=5)
    for split, own in (("train", benchmark.train_tasks), ("test", benchmark.test_tasks)):
        assert family.tasks_per_mode == len(own)
        drawn = family.sample_tasks(50, np.random.default_rng(0), split)
        assert {task.values["rand_vec"].tobytes() for task in drawn} == {rand_vec_of(task).tobytes() for task in own}


@needs_metaworld
def test_a_benchmark_has_its_environments_as_modes_in_equal_numbers() -> None:
    family = make_family("Meta-World/ML10")
    assert isinstance(family, MetaWorld)
    assert family.mode_names[:10] == family.environments["train"] and len(family.mode_names) == family.num_modes == 15
    train, test = (family.sample_tasks(40, np.random.default_rng(0), split) for split in ("train", "test"))
    assert Counter(task.mode for task in train) == dict.fromkeys(range(10), 4)
    assert Counter(task.mode for task in test) == dict.fromkeys(range(10, 15), 8)
    assert all(task.values["environment"] == family.mode_names[task.mode] for task in train + test)
    assert len({(task.mode, task.values["rand_vec"].tobytes()) for task in train}) == 40


@needs_metaworld
def test_multi_task_benchmarks_observe_the_goal_and_the_environment() -> None:
    spec = check_family("Meta-World/MT10", {}, trains=True)
    assert (spec.observation_size, spec.splits, spec.num_modes) == (39 + 10, ("train",), 10)
    assert check_family("Meta-World/MT10", {"one_hot": False}).observation_size == 39
    family = make_family("Meta-World/MT10", 10, 1)
    family.set_tasks(family.sample_tasks(10, np.random.default_rng(0)))
    observations, _ = family.reset(seed=0)
    np.testing.assert_array_equal(observations[:, 39:], np.eye(10)[[task.mode for task in family.tasks]])
    assert observations[:, 36:39].any(1).all()


@needs_metaworld
def test_training_starts_without_a_warning() -> None:
    assert check_family("Meta-World/ML1-reach-v3", {}, trains=True).warnings == NO_WARNINGS


@needs_metaworld
@pytest.mark.parametrize(
    ("env", "env_kwargs", "error"),
    [
        ("Meta-World/ML1-reech-v3", {}, "env: expected Meta-World/ and one of ML10, .* mean 'Meta-World/ML1-reach-v3'"),
        ("Meta-World/ml10", {}, "did you mean 'Meta-World/ML10'"),
        ("Meta-World/ML1", {}, "got 'Meta-World/ML1'; the names are assembly-v3, "),
        ("Meta-World/ML99", {}, "got 'Meta-World/ML99'; see docs"),
        ("Meta-World/ML1-reach-v3", {"benchmark_seed": -1}, "benchmark_seed: expected a whole number from 0"),
        ("Meta-World/ML1-reach-v3", {"one_hot": 1}, "one_hot: expected true, false or null"),
        ("Meta-World/ML1-reach-v3", {"reward_version": "v3"}, "reward_version: expected one of"),
        ("Meta-World/ML1-reach-v3", {"seed": 1}, "takes benchmark_seed, one_hot, reward_version, got 'seed'"),
        ("Meta-World/ML1-reach-v3", {"benchmark": "ML10"}, "takes benchmark_seed, .*, got 'benchmark'"),
    ],
)
def test_wrong_arguments_are_refused(env: str, env_kwargs: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        check_family(env, env_kwargs)


@pytest.mark.parametrize("env", ["Meta-World", "Meta-World/", "Meta-World/ML11"])
def test_without_a_benchmark_of_meta_world_its_names_are_given(env: str) -> None:
    """Whether it is installed or not."""
    with pytest.raises(ConfigError) as caught:
        check_family(env, {})
    line = f"{caught.value}"
    assert line.startswith("env: expected Meta-World/ and one of ML10, ") and "ML1-NAME" in line and "\n" not in line
    assert f"got '{env.removesuffix('/')}" in line
    with pytest.raises(ConfigError, match="did you mean 'Meta-World/ML10'"):
        check_family("MetaWorld/ML10", {})


@needs_metaworld
def test_tasks_of_another_family_are_refused() -> None:
    with pytest.raises(ValueError, match="'environment' to be one of"):
        make_family("Meta-World/ML1-reach-v3").set_tasks([Task(0, {"goal": 1.0})])


@needs_metaworld
def test_drawing_tasks_leaves_the_process_as_it_was() -> None:
    goals_of.cache_clear()
    before = np.random.get_state(legacy=False)
    goals_of(("push-v3",), 0)
    assert repr(np.random.get_state(legacy=False)) == repr(before)


@needs_metaworld
def test_faster_functions_give_the_same_bits() -> None:
    from metaworld.utils import reward_utils
    from scipy.spatial.transform import Rotation

    from mmaml.envs import sawyer

    rng = np.random.default_rng(0)
    for rotation in Rotation.random(500, rng):
        matrix = rotation.as_matrix()
        expected = Rotation.from_matrix(matrix).as_quat()
        np.testing.assert_array_equal(sawyer.OneRotation.from_matrix(matrix).as_quat(), expected)
    for vector in rng.standard_normal((500, 3)):
        for given in (vector, vector[:2], vector[::2], vector[0], np.float32(vector)):
            size, expected = sawyer.norm(given), np.linalg.norm(given)
            assert size == expected and type(size) is type(expected)
        for parts in ((vector[0], vector[1]), (vector, vector[:2]), (np.float32(vector[0]), vector[1])):
            np.testing.assert_array_equal(sawyer.hstack(parts), np.hstack(parts), strict=True)
    tolerance = sawyer.tolerance_of_numbers(reward_utils)
    for sigmoid in get_args(reward_utils.SIGMOID_TYPE):
        for x, low, width, margin in rng.uniform(0, 1, (100, 4)):
            for number in (x, float(x), np.float32(x), np.array([x, low]), 1):
                given = {"bounds": (low, low + 0.2 * width), "margin": float(margin), "sigmoid": sigmoid}
                ours, own = tolerance(number, **given), reward_utils.tolerance(number, **given)
                np.testing.assert_array_equal(ours, own)
                assert type(ours) is type(own)
    for sigmoid, ours in sawyer.SIGMOIDS.items():  # of many numbers: few have a square of other bits than their product
        for x in rng.uniform(0, 1, 20000):
            assert ours(float(x)) == reward_utils._sigmoids(x, sawyer.VALUE_AT_MARGIN, sigmoid)
    with pytest.raises(ValueError, match="margin"):
        tolerance(1.0, margin=-1.0)
