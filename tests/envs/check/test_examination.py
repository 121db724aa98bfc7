"""The examination of environments: what it reports, and that nothing stops it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.envs.check.examination import examine
from mmaml.envs.registry import FAMILIES, make_family
from tests.helpers.examining import PLAYS, lines
from tests.helpers.faulty_envs import Sound, SoundBlock, place

HERE = __name__


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes(name: str) -> None:
    rare = {"DiscountingChain": 100, "GridNavi": 40, "KrazyWorld": 40, "SparsePointRobot": 100}  # rewards
    steps = 12 if name.startswith("MetaPoint") else rare.get(name, 4)
    assert lines(examine(name, steps=steps, tasks=3)) == []


@pytest.mark.parametrize("name", ["MetaPointEnvMomentumModes", place("Sound"), place("SoundBlock")])
def test_what_was_seen_is_reported(name: str) -> None:
    facts, family = examine(name, **PLAYS).facts, make_family(name)
    assert facts["observations"] == str(family.single_observation_space)
    assert facts["actions"] == str(family.single_action_space)
    assert facts["splits"] == ", ".join(family.splits)
    assert facts["modes"] == str(family.num_modes)
    assert facts["tasks"].startswith("3 drawn, the first: ")


def test_rewards_and_episodes_are_reported() -> None:
    assert examine(place("Sound"), **PLAYS).facts["episodes"] == "3 ended, after 12 to 12 steps"
    facts = examine(place("Sound"), steps=5, tasks=3).facts
    assert facts["episodes"] == "none ended within 5 steps; max_path_length ends them"
    low, high = map(float, re.fullmatch(r"(\S+) to (\S+) a step", facts["rewards"]).groups())  # type: ignore[union-attr]
    assert low < high <= 1


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("NoSuchFamily", {}, "error env: expected a task family, 'package.module:ClassName' or an id of Gym"),
        ("no.such:Env", {}, "error env: 'no.such:Env' cannot be loaded"),
        ("gymnasium:Env", {}, "error env: expected at 'gymnasium:Env' a gymnasium.Env with sample_tasks(n, rng) and"),
        ("MetaPointEnvMomentumModes", {"nois": 1}, "error env_kwargs: 'MetaPointEnvMomentumModes' takes centers"),
        ("MetaPointEnvMomentumModes", {"noise": -1}, "error MomentumPointMass(): raises ValueError: noise: expected"),
        (place("Sound"), {"goal": 1}, f"error env_kwargs: '{place('Sound')}' takes no arguments, got 'goal'"),
    ],
)
def test_what_cannot_be_built_is_found(name: str, kwargs: dict[str, Any], expected: str) -> None:
    (line,) = lines(examine(name, kwargs, **PLAYS))
    assert line.startswith(expected)


def test_arguments_reach_the_environment() -> None:
    assert examine("MetaPointEnvMomentumModes", {"centers": [[1, 1]]}, **PLAYS).facts["modes"] == "1"


class Unequal:
    """Cannot be compared, shown, copied or asked for attributes."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("as asked")

    def __repr__(self) -> str:
        raise RuntimeError("as asked")

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("as asked")

    __hash__ = None  # type: ignore[assignment]


STRANGE = [
    None, True, 3, float("nan"), "text", b"bytes", [], [1, [2, 3]], {}, {1: 2, "reward_": None, "success": []}, object,
    Unequal(), np.zeros(0), np.zeros((2, 2)), np.array(["a"]), np.array([None, {}], object), np.array(1 + 2j),
    np.datetime64("2020-01-01"), lambda: 0, torch.zeros(2), (1, 2), (1, 2, 3, 4, 5), 10**400, np.float64(1e300),
]  # fmt: skip


class Strange(Sound):
    """Has one strange value, in what `reset` or `step` returns, in a task or as an attribute."""

    def __init__(self, where: str, value: int) -> None:
        super().__init__()
        self.where, self.value = where, STRANGE[value]
        if where in ("observation_space", "action_space", *ATTRIBUTES):
            setattr(self, where, self.value)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        if self.where == "tasks":
            return self.value
        return [self.value] * n if self.where == "task" else super().sample_tasks(n, rng)

    def set_task(self, task: Any) -> None:
        if self.where not in ("task", "tasks"):
            super().set_task(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        values = list(super().reset(seed=seed))
        if self.where == "reset":
            return self.value
        if self.where in ("reset 0", "reset 1"):
            values[int(self.where[-1])] = self.value
        return tuple(values)

    def step(self, action: np.ndarray) -> Any:
        values = list(super().step(np.zeros(1)))
        if self.where == "step":
            return self.value
        if self.where[:5] == "step ":
            values[int(self.where[-1])] = self.value
        return tuple(values)


class StrangeBlock(SoundBlock):
    """As `Strange`, a family."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, where: str, value: int) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self.where, self.value = where, STRANGE[value]
        if where in (*ATTRIBUTES, "num_envs", "single_observation_space"):
            setattr(self, where, self.value)

    def reset(self, **options: Any) -> Any:
        values = list(super().reset(**options))
        if self.where == "reset":
            return self.value
        if self.where in ("reset 0", "reset 1"):
            values[int(self.where[-1])] = self.value
        return tuple(values)

    def step(self, actions: np.ndarray) -> Any:
        values = list(super().step(actions))
        if self.where == "step":
            return self.value
        if self.where[:5] == "step ":
            values[int(self.where[-1])] = self.value
        return tuple(values)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> Any:
        if self.where == "tasks":
            return self.value
        return [self.value] * n if self.where == "task" else super()._draw_tasks(n, rng, split)


RETURNED = ["reset", "reset 0", "reset 1", "step", "step 0", "step 1", "step 2", "step 3", "step 4", "task", "tasks"]
ATTRIBUTES = ["num_modes", "tasks_per_mode", "splits", "normalization_scale", "finite_horizon"]


@pytest.mark.parametrize("where", [*RETURNED, *ATTRIBUTES, "observation_space", "action_space"])
def test_no_value_of_an_environment_stops_the_examination(where: str) -> None:
    for value in range(len(STRANGE)):
        for line in lines(examine(f"{HERE}:Strange", {"where": where, "value": value}, steps=2, tasks=2)):
            assert re.match(r"(error|warning) (Strange|env|env_kwargs|normalization_scale)\b", line), line
            assert "\n" not in line


@pytest.mark.parametrize("where", [*RETURNED, *ATTRIBUTES, "num_envs", "single_observation_space"])
def test_no_value_of_a_family_stops_the_examination(where: str) -> None:
    for value in range(len(STRANGE)):
        for line in lines(examine(f"{HERE}:StrangeBlock", {"where": where, "value": value}, steps=2, tasks=2)):
            assert re.match(r"(error|warning) (StrangeBlock|env|env_kwargs|normalization_scale)\b", line), line
            assert "\n" not in line
