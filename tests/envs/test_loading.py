"""Environments by class, by factory function and by Gymnasium's ids: which are taken, what is said of others."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

import mmaml
from mmaml.cli import evaluate, main
from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.loading import UnknownEnvironment
from mmaml.envs.registry import check_family, make_family
from mmaml.envs.spec import NO_WARNINGS
from mmaml.errors import ConfigError
from mmaml.storage import checkpoint
from tests.helpers.faulty_envs import Sound, SoundBlock
from tests.helpers.support import SMALL, assert_same_states, dump, run, small_config

HERE = __name__
NEEDED = "a gymnasium.Env with sample_tasks(n, rng) and set_task(task), a function that makes one, or a TaskVectorEnv"


WITHOUT = "CartPoleEnv without sample_tasks(n, rng) and set_task(task); write them in a subclass"


class Configured(Sound):
    """Sets in __init__ what others set in their class."""

    def __init__(self, modes: int = 3, scale: float | None = 5.0, size: float = 1.0) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(-size, size, (1,), np.float32)
        self.num_modes, self.normalization_scale, self.splits = modes, scale, ("train", "ood")

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> Any:
        return super().sample_tasks(n, rng)


class Half(gym.Wrapper):
    """Halves rewards, and has modes of its own."""

    num_modes = 7

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward / 2, terminated, truncated, {}  # type: ignore[operator]


class HalfWithoutModes(Half):
    num_modes = property(lambda self: (_ for _ in ()).throw(AttributeError))  # type: ignore[assignment]


class HalfOfTasks(gym.Wrapper):
    """Draws tasks itself, and leaves setting them to the environment that it wraps."""

    def sample_tasks(self, n: int, *, rng: np.random.Generator) -> Any:
        return [{"goal": 3.0, "mode": 0} for _ in range(n)]


class OnlySamples(gym.Env):
    observation_space = action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [0] * n


class OnlySets(gym.Env):
    observation_space = action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    sample_tasks = 3

    def set_task(self, task: Any) -> None:
        pass


def factory(size: float = 1.0) -> gym.Env:
    return gym.wrappers.TimeLimit(Half(Configured(size=size)), 5)


def of_wrapped_tasks() -> gym.Env:
    return HalfOfTasks(Half(Sound()))


def of_nothing() -> None:
    return None


def of_text(text: str) -> str:
    return text


def of_cart_pole() -> gym.Env:
    return gym.make("CartPole-v1")


bound = partial(Configured, modes=2)
IDS = {"mmaml-tests/Sound-v0": Sound, "MmamlTestsFactory-v1": factory}
SMALLER = SMALL | {"algorithm": "promp"}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, entry_point in IDS.items():
        gym.register(name, entry_point=entry_point, max_episode_steps=6)
    yield
    for name in IDS:
        gym.registry.pop(name, None)


@pytest.mark.parametrize(
    ("name", "splits", "modes", "scale"),
    [
        ("mmaml-tests/Sound-v0", ("train", "test"), 2, 1.0),
        ("MmamlTestsFactory-v1", ("train", "ood"), 7, 5.0),
        (f"{HERE}:factory", ("train", "ood"), 7, 5.0),
        (f"{HERE}:bound", ("train", "ood"), 2, 5.0),
        (f"{HERE}:Configured", ("train", "ood"), 3, 5.0),
        (f"{HERE}:of_wrapped_tasks", ("train", "test"), 7, 1.0),
        (f"{HERE}:MmamlTestsFactory-v1", ("train", "ood"), 7, 5.0),
    ],
)
def test_facts_are_those_of_the_object(name: str, splits: Any, modes: int, scale: float) -> None:
    spec = check_family(name, {}, trains=True)
    assert (spec.splits, spec.num_modes, spec.normalization_scale) == (splits, modes, scale)
    assert spec.warnings == NO_WARNINGS


def test_arguments_reach_the_object() -> None:
    for name in (f"{HERE}:Configured", f"{HERE}:factory", "MmamlTestsFactory-v1"):
        assert check_family(name, {"size": 4.0}).action_space.high == [4.0]  # type: ignore[union-attr]
    spec = check_family(f"{HERE}:Configured", {"modes": 9, "scale": None})
    assert (spec.num_modes, spec.normalization_scale) == (9, None)
    with pytest.raises(ConfigError, match=r"env_kwargs: '.*:factory' takes size, got 'sise'"):
        check_family(f"{HERE}:factory", {"sise": 4.0})
    with pytest.raises(ConfigError, match=r"env_kwargs: 'MmamlTestsFactory-v1' cannot be built with .*'sise'"):
        check_family("MmamlTestsFactory-v1", {"sise": 4.0})


def test_an_attribute_that_a_wrapper_lacks_is_that_of_what_it_wraps() -> None:
    spec = check_family(f"{HERE}:without_modes", {})
    assert (spec.num_modes, spec.splits) == (3, ("train", "ood"))


def without_modes() -> gym.Env:
    return gym.wrappers.TimeLimit(HalfWithoutModes(Configured()), 5)


def test_wrappers_are_stepped_and_what_they_wrap_gets_the_tasks() -> None:
    def played(name: str) -> list[np.ndarray]:
        family = make_family(name, 1, 2)
        family.set_tasks(family.sample_tasks(1, np.random.default_rng(0)))
        family.reset(seed=[0])
        rewards, cuts = [], []
        for _ in range(6):
            _, reward, _, truncated, _ = family.step(np.zeros((2, 1), np.float32))
            rewards.append(reward)
            cuts.append(truncated)
        return [np.array(rewards), np.array(cuts)]

    (whole, never), (half, cuts) = played(f"{HERE}:Configured"), played(f"{HERE}:factory")
    np.testing.assert_array_equal(half, whole / 2)
    assert not never.any() and cuts[4:].all() and not cuts[:4].any()  # by the time limit
    family: Any = make_family(f"{HERE}:of_wrapped_tasks", 2, 1)
    family.set_tasks(family.sample_tasks(2, np.random.default_rng(0)))
    assert [env.unwrapped.goal for env in family._envs] == [3.0, 3.0]


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("CartPole-v1", WITHOUT),
        (f"{HERE}:of_cart_pole", WITHOUT),
        (f"{HERE}:OnlySamples", "OnlySamples without set_task(task); write them in a subclass"),
        (f"{HERE}:OnlySets", "OnlySets without sample_tasks(n, rng); write them in a subclass"),
        (f"{HERE}:of_nothing", "None"),
        (f"{HERE}:SoundBlock.length", "SoundBlock.length"),
        (f"{HERE}:HERE", f"'{HERE}'"),
        (f"{HERE}:Path", "<class 'pathlib.Path'>"),
    ],
)
def test_what_is_missing_is_said_in_a_line(name: str, got: str) -> None:
    for function in (lambda: make_family(name), lambda: check_family(name, {})):
        with pytest.raises(UnknownEnvironment) as caught:
            function()
        line = str(caught.value)
        assert "\n" not in line and "did you mean" not in line
        if "." not in name.rpartition(":")[2]:
            assert line.startswith(f"env: expected at '{name}' {NEEDED}, got {got}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CartPole-v9", "did you mean 'CartPole-v1'?"),
        ("CartPoleMasEnv", "did you mean 'CartPoleMassEnv'?"),
        ("mmaml-tests/Sound-v3", "did you mean 'mmaml-tests/Sound-v0'?"),
        ("Xyz-v0", "known families: MetaPointEnvMomentum, "),
    ],
)
def test_a_name_that_nothing_has_gets_a_near_one(name: str, hint: str) -> None:
    with pytest.raises(UnknownEnvironment) as caught:
        check_family(name, {})
    expected = "a task family, 'package.module:ClassName' or an id of Gymnasium's registry"
    assert str(caught.value).startswith(f"env: expected {expected}, got '{name}'; {hint}")


def test_a_family_of_the_toolkit_is_itself_under_its_id() -> None:
    family = make_family("MetaPointEnvMomentumModes-v0", 2, 3)
    assert isinstance(family, TaskVectorEnv) and type(family) is type(make_family("MetaPointEnvMomentumModes"))
    assert isinstance(make_family(f"{HERE}:SoundBlock", 2, 3), SoundBlock)


def test_the_command_refuses_cart_pole_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = '{"env": "CartPole-v1", "parallel": false}'
    assert main.main(["train", "--overrides", overrides, "--dump_path", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert err.startswith(f"error: env: expected at 'CartPole-v1' {NEEDED}, got {WITHOUT}")
    assert main.main(["check-env", "CartPole-v1"]) == 2
    assert f"got {WITHOUT}" in capsys.readouterr().out
    assert main.main(["check-env", "mmaml-tests/Sound-v0"]) == 0


# One object for several lanes.

SHARED = Sound()


def of_one_object() -> gym.Env:
    return SHARED


def of_one_inner_object() -> gym.Env:
    return gym.wrappers.TimeLimit(SHARED, 5)


class OneObject(Sound):
    def __new__(cls) -> Any:
        return SHARED


class OneBlock(SoundBlock):
    made: ClassVar[list[SoundBlock]] = []

    def __new__(cls, *counts: int) -> Any:
        if not cls.made:
            cls.made.append(super().__new__(cls))
        return cls.made[0]


SAME = ["of_one_object", "of_one_inner_object", "OneObject", "OneBlock"]


@pytest.mark.parametrize("name", SAME)
def test_one_object_for_several_lanes_is_refused_at_the_start_and_by_the_check(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "OneBlock" if name == "OneBlock" else "Sound"
    line = f"env: expected a new environment each time {name} is called, got the same {kind} again; build it, and all "
    overrides = f'{{"env": "{HERE}:{name}", "parallel": false, "n_itr": 1}}'
    assert main.main(["train", "--overrides", overrides, "--dump_path", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and not (tmp_path / "run").exists()
    assert err == f"error: {line}that it wraps, in each call\n"
    assert main.main(["check-env", f"{HERE}:{name}", "--steps", "5"]) == 2
    found = [text for text in capsys.readouterr().out.splitlines() if text.startswith("error")]
    assert found == [err.strip()]


@pytest.mark.parametrize("name", SAME[:3])
def test_a_block_refuses_it_too(name: str) -> None:
    family = make_family(f"{HERE}:{name}", 1, 2)
    with pytest.raises(ConfigError, match=f"expected a new environment each time {name} is called"):
        family.set_tasks(family.sample_tasks(1, np.random.default_rng(0)))


class NotAnEnvironment:
    closed: ClassVar[int] = 0

    def close(self) -> None:
        NotAnEnvironment.closed += 1
        raise OSError("as asked")


def test_what_is_no_environment_is_closed_once_it_is_refused() -> None:
    with pytest.raises(UnknownEnvironment, match=r"got <.*NotAnEnvironment object"):
        make_family(f"{HERE}:of_no_environment")
    assert NotAnEnvironment.closed == 1


def of_no_environment() -> Any:
    return NotAnEnvironment()


# In a run.


@pytest.mark.parametrize("name", ["mmaml-tests/Sound-v0", f"{HERE}:limited"])
def test_a_run_by_any_name_is_the_same(name: str, tmp_path: Path) -> None:
    by_class = run(small_config("promp", env=f"{HERE}:Limited", dump_path=dump(tmp_path, "class")))
    found = run(small_config("promp", env=name, dump_path=dump(tmp_path, "other")))
    assert_same_states(found, by_class)


def limited() -> gym.Env:
    return gym.wrappers.TimeLimit(Sound(), 6)


class Limited(gym.Wrapper):
    """The same as a class."""

    def __init__(self) -> None:
        super().__init__(limited())


MODULE = """
import gymnasium as gym
from tests.helpers.faulty_envs import Sound

gym.register("{name}", entry_point=Sound, max_episode_steps=6)


def make():
    return gym.make("{name}")
"""
COUNT = itertools.count()


@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["id", "factory"])
def test_ranks_and_checkpoints_find_it_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = next(COUNT)
    module, name = f"registering_module_{number}", f"MmamlTestsRegistered{number}-v0"
    (tmp_path / f"{module}.py").write_text(MODULE.format(name=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    env = f"{module}:{name if kind == 'id' else 'make'}"
    keys = SMALLER | {"parallel": True, "env": env}
    runs = {ranks: mmaml.train(keys, ranks=ranks, dump_path=dump(tmp_path, f"{ranks}"), show=False) for ranks in (1, 2)}
    one, two = (checkpoint.load(runs[ranks].folder) for ranks in (1, 2))
    assert_same_states(two, one)

    gym.registry.pop(name, None)
    sys.modules.pop(module)  # as in another process
    assert evaluate.main([str(runs[2].folder), "--num_tasks", "3"]) == 0
    assert mmaml.load(runs[2].folder).config.env == env
    again = mmaml.train({"restore_path": str(runs[2].folder), "n_itr": 3}, show=False)
    whole = mmaml.train(keys | {"n_itr": 3}, dump_path=dump(tmp_path, "whole"), show=False)
    assert_same_states(checkpoint.load(again.folder), checkpoint.load(whole.folder))
    gym.registry.pop(name, None)
