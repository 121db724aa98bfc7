"""What `sample_tasks` of any signature is given, and which ones are refused."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from mmaml.cli import main
from mmaml.config.loading import build_config
from mmaml.envs.check import signatures
from mmaml.errors import ConfigError
from tests.helpers.faulty_envs import Sound
from tests.helpers.support import SMALL

HERE = __name__
RNG = np.random.default_rng(0)
N, TEST = 7, "test"


def environment(parameters: str) -> Any:
    """One whose `sample_tasks` has these parameters, and returns what it is given, by their names."""
    namespace: dict[str, Any] = {}
    exec(f"def sample_tasks(self, {parameters}): return locals()", namespace)
    return type("Drawing", (Sound,), {"sample_tasks": namespace["sample_tasks"]})()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("n, rng", {"n": N, "rng": RNG}),
        ("num_tasks, rng", {"num_tasks": N, "rng": RNG}),
        ("n, rng, split", {"n": N, "rng": RNG, "split": TEST}),
        ("n, rng, split='train'", {"n": N, "rng": RNG, "split": TEST}),
        ("n, split='train', rng=None", {"n": N, "rng": RNG, "split": TEST}),
        ("n, *, rng", {"n": N, "rng": RNG}),
        ("n, *, rng=None, split='train'", {"n": N, "rng": RNG, "split": TEST}),
        ("*, n, rng", {"n": N, "rng": RNG}),
        ("rng, n", {"n": N, "rng": RNG}),
        ("split, rng, n", {"n": N, "rng": RNG, "split": TEST}),
        ("n, rng, /", {"n": N, "rng": RNG}),
        ("n, /, rng", {"n": N, "rng": RNG}),
        ("n, split, /, rng", {"n": N, "rng": RNG, "split": TEST}),
        ("n, random", {"n": N, "random": RNG}),
        ("n, rng, random=True", {"n": N, "rng": RNG, "random": True}),
        ("n, rng, seed=None", {"n": N, "rng": RNG, "seed": None}),
        ("n, generator=None", {"n": N, "generator": RNG}),
        ("n, random_state=None, easy=True", {"n": N, "random_state": RNG, "easy": True}),
        ("n=1, rng=None, split='train', extra=3", {"n": N, "rng": RNG, "split": TEST, "extra": 3}),
        ("*args", {"args": (N, RNG)}),
        ("n, *args", {"n": N, "args": (RNG,)}),
        ("n, **kwargs", {"n": N, "kwargs": {"rng": RNG}}),
        ("*args, **kwargs", {"args": (N, RNG), "kwargs": {}}),
    ],
)
def test_each_parameter_gets_what_its_name_says(parameters: str, expected: dict[str, Any]) -> None:
    env = environment(parameters)
    assert signatures.of_environment(env) == []
    given = signatures.call_sample_tasks(env, N, RNG, TEST)
    assert given.pop("self") is env
    assert given == expected
    assert signatures.takes_split(env) == ("split" in expected)


@pytest.mark.parametrize(
    "parameters",
    [
        "", "n", "num_tasks", "rng", "n, seed=None", "n, split", "num_tasks, mode='train'", "n, rng, extra",
        "n, *, difficulty", "n, rng, *, extra", "**kwargs", "n, seed", "seed, n", "seed, rng", "n, random=True",
    ],
)  # fmt: skip
def test_what_takes_no_number_and_no_generator_is_refused(parameters: str) -> None:
    env = environment(parameters)
    (finding,) = signatures.of_environment(env)
    expected = "Drawing.sample_tasks: expected sample_tasks(n, rng) or sample_tasks(n, rng, split)"
    assert str(finding) == f"{expected}, got sample_tasks({parameters}); change its parameters"
    with pytest.raises(TypeError):
        signatures.call_sample_tasks(env, N, RNG, TEST)


@pytest.mark.parametrize("parameters", ["n, source", "n, split, source", "split, n, source=None, *, easy=True"])
def test_a_generator_by_another_name_is_warned_of(parameters: str) -> None:
    found = signatures.of_environment(environment(parameters))
    if "source=" in parameters:  # it has a default, so that nothing takes the generator
        assert [finding.level for finding in found] == ["error"]
        return
    problem = "gets the generator as its parameter 'source', the second one without a default"
    assert [finding.level for finding in found] == ["warning"]
    assert str(found[0]) == f'Drawing.sample_tasks: {problem}; call that one "rng", or give it a default'


class Static(Sound):
    @staticmethod
    def sample_tasks(split: str, n: int, rng: np.random.Generator) -> Any:  # type: ignore[override]
        return split, n, rng


class OfClass(Sound):
    @classmethod
    def sample_tasks(cls, rng: np.random.Generator, n: int) -> Any:  # type: ignore[override]
        return "train", n, rng


def passed_on(function: Any) -> Any:
    @functools.wraps(function)
    def inner(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return inner


class Decorated(Sound):
    @passed_on
    def sample_tasks(self, n: int, *, rng: np.random.Generator) -> Any:
        return "train", n, rng


@pytest.mark.parametrize("kind", [Static, OfClass, Decorated])
def test_other_kinds_of_methods_are_read_too(kind: type) -> None:
    assert signatures.of_environment(kind()) == []
    split, n, rng = signatures.call_sample_tasks(kind(), N, RNG, "train")
    assert (split, n) == ("train", N) and rng is RNG


class LikeLearn2Learn(Sound):
    def sample_tasks(self, num_tasks: int) -> Any:  # type: ignore[override]
        return super().sample_tasks(num_tasks, np.random.default_rng())


class OldSeed(Sound):
    def reset(self) -> Any:  # type: ignore[override]
        return self.observe()


class OldStep(Sound):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class OldReset(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


LINES = {
    "LikeLearn2Learn": "sample_tasks: expected sample_tasks(n, rng) or sample_tasks(n, rng, split), got "
    "sample_tasks(num_tasks); change its parameters",
    "OldSeed": "reset: expected reset(*, seed=None, options=None), got reset(); Gymnasium's reset, unlike old Gym's, "
    "takes them by name",
    "OldStep": "step: expected five values (observation, reward, terminated, truncated, info), got 4 values, as in old "
    "Gym (observation, reward, done, info); return what Gymnasium's API says, which differs from old Gym's",
    "OldReset": "reset: expected (observation, info), got a float32 array of shape (2,); return what Gymnasium's API "
    "says, which differs from old Gym's",
}


@pytest.mark.parametrize("env", LINES)
def test_an_environment_of_another_toolkit_is_one_line_before_the_start(
    env: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = f'{{"env": "{HERE}:{env}", "parallel": false}}'
    assert main.main(["train", "--overrides", overrides, "--dump_path", str(tmp_path / "run")]) == 2
    line = f"env: {env}.{LINES[env]}; `mmaml check-env {HERE}:{env}` lists all that is wrong"
    assert capsys.readouterr() == ("", f"error: {line}\n") and not (tmp_path / "run").exists()
    with pytest.raises(ConfigError) as caught:
        build_config(SMALL | {"env": f"{HERE}:{env}"})
    assert str(caught.value) == line
