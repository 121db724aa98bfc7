"""The contract of a task family: what a family has to write, and what happens where it does not."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from abc import ABCMeta
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import mmaml.envs
from mmaml.envs.base import StepResult, Task, TaskVectorEnv, drawn_tasks, mode_label
from mmaml.envs.check.start import check_start
from mmaml.envs.tabular_mdp import TabularMDP
from mmaml.errors import ConfigError, UsageError

BOX = gym.spaces.Box(-1, 1, (1,), np.float32)


def test_only_modes_that_have_a_name_are_called_by_one() -> None:
    assert [mode_label(mode, ["reach", "push"]) for mode in (-1, 0, 1, 2)] == ["mode -1", "reach", "push", "mode 2"]


class Bare(TaskVectorEnv):
    def __init__(self) -> None:
        super().__init__(1, 1, BOX, BOX)


CALLS: dict[str, Callable[[TaskVectorEnv], Any]] = {
    "_draw_tasks": lambda family: family.sample_tasks(1, np.random.default_rng(0)),
    "_set_tasks": lambda family: family.set_tasks([Task(0, {})]),
    "_reset_lanes": lambda family: family._reset_lanes(0, np.zeros(1, int), np.random.default_rng(0)),
    "_observe": lambda family: family._observe(),
    "step": lambda family: family.step(np.zeros((1, 1), np.float32)),
}


@pytest.mark.parametrize("method", CALLS)
def test_a_method_that_is_not_written_says_so(method: str) -> None:
    with pytest.raises(NotImplementedError, match=rf"^Bare\.{method}: is missing; write it as "):
        CALLS[method](Bare())


class Whole(Bare):
    """Writes the public methods, and none of those behind them."""

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> list[Task]:
        return [Task(0, {})] * n

    def reset(self, **_: Any) -> Any:
        return np.zeros((1, 1), np.float32), {}

    def step(self, actions: np.ndarray) -> StepResult:
        no = np.zeros(1, bool)
        return np.zeros((1, 1), np.float32), np.zeros(1, np.float32), no, no, {}

    def _set_tasks(self, tasks: Any) -> None:
        pass


def test_a_family_may_write_the_public_methods_instead() -> None:
    family = Whole()
    family.set_tasks(family.sample_tasks(1, np.random.default_rng(0)))
    family.reset(seed=0)
    assert family.step(np.zeros((1, 1), np.float32))[1] == 0


@pytest.mark.parametrize(
    ("tasks", "refused"),
    [
        ([Task(3, {})], "expected a task's mode to be a whole number from 0 to 0, as num_modes = 1 says, got 3"),
        ([Task(0, {})] * 2, "expected 1 tasks, got 2"),
        ([{"goal": 1.0}], "expected a Task whose values are a mapping, got {'goal': 1.0}"),
    ],
)
def test_what_a_sample_tasks_of_its_own_returns_is_checked_too(tasks: list[Any], refused: str) -> None:
    class Drawing(Whole):
        def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> list[Task]:
            return tasks

    with pytest.raises(UsageError, match=rf"^Drawing\.sample_tasks: {re.escape(refused)}; "):
        drawn_tasks(Drawing(), 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=rf"^env: Drawing\.sample_tasks: {re.escape(refused)}; "):
        check_start("Drawing", {}, Drawing(), Drawing)


class DrawsModes(Bare):
    num_modes = 3
    modes = (0, 1, 2)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(mode, {}) for mode in self.modes]


@pytest.mark.parametrize("mode", [-1, 3, 1.5, None, True])
def test_a_task_of_a_mode_that_the_family_does_not_have_is_refused(mode: Any) -> None:
    family = DrawsModes()
    assert [task.mode for task in family.sample_tasks(3, np.random.default_rng(0))] == [0, 1, 2]
    family.modes = (0, 1, mode)
    with pytest.raises(
        ValueError, match=rf"^DrawsModes._draw_tasks: expected .* from 0 to 2, .* got {mode}; set num_modes"
    ):
        family.sample_tasks(3, np.random.default_rng(0))


def test_an_abstract_method_of_the_toolkits_families_has_to_be_written() -> None:
    """Wherever one is declared, Python refuses to build a class without it."""
    names = [module.name for module in pkgutil.walk_packages(mmaml.envs.__path__, "mmaml.envs.")]
    declared = {
        cls
        for name in names
        for _, cls in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if any(getattr(member, "__isabstractmethod__", False) for member in vars(cls).values())
    }
    ours = {cls for cls in declared if cls.__module__.startswith("mmaml.envs")}
    assert len(ours) > 3
    assert all(isinstance(cls, ABCMeta) for cls in ours)
    base: Any = next(cls for cls in TabularMDP.__mro__ if cls in ours)
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (base,), {})(1, 1)
