"""What the adapter refuses of a user's environment, in one line that says what is wrong."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.base import TaskError
from mmaml.envs.loading import UnknownEnvironment
from mmaml.envs.registry import check_family, make_family
from mmaml.errors import ConfigError
from tests.helpers.user_environments import Walk

HERE = __name__


class OldStep(Walk):
    def step(self, action: np.ndarray) -> Any:
        return super().step(action)[:4]


class WrongShape(Walk):
    def _observe(self) -> np.ndarray:
        return np.zeros(3)


class LateSuccess(Walk):
    """Reports success only when an episode ends."""

    def step(self, action: np.ndarray) -> Any:
        *result, info = super().step(action)
        return *result, info | ({"success": True} if result[3] else {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OldStep", "OldStep.step, in rollout 0 of its task: expected five values .*, got 4 values"),
        ("WrongShape", r"WrongShape.reset, .* observation: expected shape \(2,\), as its space says, got shape \(3,\)"),
        ("LateSuccess", r"LateSuccess.step, .* info\['success'\]: expected at every step or at none"),
    ],
)
def test_broken_environments_are_told_what_is_wrong(name: str, message: str) -> None:
    family = make_family(f"{HERE}:{name}", 2, 2)
    with pytest.raises(TaskError, match=message):
        family.set_tasks(family.sample_tasks(2, np.random.default_rng(0)))
        family.reset(seed=0)
        for _ in range(7):
            family.step(np.zeros((4, 2), np.float32))


class FewTasks(Walk):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [1.0]


class NamedMode(Walk):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"mode": "left"}] * n


class SecondOfTwo(Walk):
    """Counts its two modes from 1."""

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"mode": np.int64(1 + k % 2)} for k in range(n)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FewTasks", "FewTasks.sample_tasks: expected 4 tasks, got 1"),
        (
            "NamedMode",
            "NamedMode.sample_tasks: expected a task's mode to be a whole number from 0 to 1, as .* got 'left'",
        ),
        (
            "SecondOfTwo",
            "SecondOfTwo.sample_tasks: expected .* from 0 to 1, as num_modes = 2 says, got 2; set num_modes",
        ),
    ],
)
def test_wrong_tasks_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_family(f"{HERE}:{name}").sample_tasks(4, np.random.default_rng(0))


class Switches(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.MultiDiscrete([3])  # type: ignore[assignment]


class Image(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 1, (8, 8))


class NoTasks(gym.Env):
    pass


class NotAnEnvironment:
    sample_tasks = set_task = print


def walks() -> GymTaskAdapter:
    """A factory of what is no environment of one task."""
    family = make_family(f"{HERE}:Walk")
    assert isinstance(family, GymTaskAdapter)
    return family


class Broken(Walk):
    def __init__(self) -> None:
        raise OSError("no\nlicence")


@pytest.mark.parametrize(
    ("name", "env_kwargs", "kind", "message"),
    [
        (
            "Switches",
            {},
            ValueError,
            r"env: Switches\.action_space: expected a Box of numbers in one dimension, or Discrete",
        ),
        ("Image", {}, ValueError, r"env: Image\.observation_space: expected a Box of numbers in one dimension"),
        ("NoTasks", {}, UnknownEnvironment, r"got NoTasks without sample_tasks\(n, rng\) and set_task\(task\)"),
        ("NotAnEnvironment", {}, UnknownEnvironment, "env: expected at .* a gymnasium.Env with sample_tasks"),
        ("walks", {}, UnknownEnvironment, r"env: expected at .*:walks' .*, got GymTaskAdapter\("),
        ("HERE", {}, UnknownEnvironment, "env: expected at"),
        ("Walk", {"pateince": 3}, ValueError, "env_kwargs: '.*:Walk' takes patience, fail, got 'pateince'"),
        ("Switches", {"fail": 3}, ValueError, "env_kwargs: '.*:Switches' takes no arguments, got 'fail'"),
        ("Broken", {}, ValueError, r"env_kwargs: '.*:Broken' cannot be built with {} \(OSError: no licence\)"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(
    name: str, env_kwargs: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        check_family(f"{HERE}:{name}", env_kwargs)
    assert "\n" not in str(error.value)


class ClosesItself(Walk):
    sample_tasks = None  # type: ignore[assignment]


@pytest.mark.parametrize("name", ["Switches", "Image", "ClosesItself"])
def test_what_is_refused_is_closed(name: str) -> None:
    with pytest.raises(ConfigError):
        make_family(f"{HERE}:{name}")
    assert [env.closed for env in Walk.built] == [True]
