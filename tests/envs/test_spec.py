"""The spec of a task family: what it says, and that a run reads it once."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mmaml.cli import train
from mmaml.config.loading import build_config
from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.point_mass import MomentumPointMass
from mmaml.envs.registry import check_family, make_family
from mmaml.envs.spec import spec_of
from mmaml.errors import ConfigError
from mmaml.evaluation import held_out
from tests.helpers.probes import RightChoice, TargetAction
from tests.helpers.support import SMALL, run

HERE = __name__


class Counted(TargetAction):
    """Counts its blocks by their number of tasks."""

    built: ClassVar[list[int]] = []

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        self.built.append(num_tasks)
        super().__init__(num_tasks, rollouts_per_task)


@pytest.fixture
def built() -> Iterator[list[int]]:
    Counted.built.clear()
    yield Counted.built


def values(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    run = {"env": f"{HERE}:Counted", "algorithm": "promp", "dump_path": str(tmp_path / "run"), "n_itr": 1}
    return SMALL | run | changes


def test_a_run_builds_two_lanes_to_check_one_to_draw_tasks_and_the_block_that_samples(
    built: list[int], tmp_path: Path
) -> None:
    """From the command line to the pictures at its end."""
    assert train.run("promp", ["--overrides", json.dumps(values(tmp_path))]) == 0
    assert built == [1, 1, 1, SMALL["meta_batch_size"]]


def test_a_run_that_is_continued_builds_no_more(built: list[int], tmp_path: Path) -> None:
    run(build_config(values(tmp_path)))
    built.clear()
    more = ["--restore_path", str(tmp_path / "run"), "--overrides", '{"n_itr": 2}']
    assert train.run("promp", more) == 0
    assert built == [1, 1, 1, SMALL["meta_batch_size"]]


def test_only_blocks_of_another_size_are_built_for_an_evaluation(built: list[int], tmp_path: Path) -> None:
    run(build_config(values(tmp_path, eval_interval=1, eval_num_tasks=2)))
    assert built == [1, 1, 1, SMALL["meta_batch_size"], 2]


def test_a_run_that_is_looked_at_builds_one_lane(built: list[int], tmp_path: Path) -> None:
    run(build_config(values(tmp_path)))
    built.clear()
    config, _ = held_out.restore(tmp_path / "run")
    held_out.check_split(config, "test")
    held_out.check_memory(config, 10, 1, ("--num_tasks",))
    assert built == [1]
    held_out.restore(tmp_path / "run", config.env_spec)
    assert built == [1]


@pytest.mark.parametrize("name", ["MetaPointEnvMomentumModes", "CartPoleMassEnv", "tests.helpers.probes:RightChoice"])
def test_a_spec_is_what_the_family_says(name: str) -> None:
    spec, family = check_family(name, {}), make_family(name, 2, 3)
    assert spec == spec_of(family) == pickle.loads(pickle.dumps(spec))
    observations, _ = family.reset(seed=0)
    assert spec.observation_size == observations.shape[1]
    assert spec.action_space == family.single_action_space
    assert (spec.splits, spec.num_modes) == (family.splits, family.num_modes)


def test_sizes_classes_and_scales() -> None:
    point, choice = check_family("MetaPointEnvMomentumModes", {}), check_family("tests.helpers.probes:RightChoice", {})
    assert (point.family, choice.family) == (MomentumPointMass, GymTaskAdapter)
    assert (point.observation_size, point.action_size, point.has_discrete_actions) == (4, 2, False)
    assert (choice.observation_size, choice.action_size, choice.has_discrete_actions) == (1, 4, True)
    assert [point.action_scale(scale) for scale in ("family", 2.0, None)] == [10.0, 2.0, None]
    assert RightChoice().action_space.n == 4


@pytest.mark.parametrize(
    ("name", "kwargs", "argument"),
    [
        ("no.such:Env", {}, "env"),
        ("NoSuchFamily", {}, "env"),
        ("MetaPointEnvMomentumModes", {"nois": 1}, "env_kwargs"),
        ("MetaPointEnvMomentumModes", {"noise": "loud"}, "env_kwargs"),
    ],
)
def test_what_cannot_be_built_is_an_error_of_its_argument(name: str, kwargs: dict[str, Any], argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_family(name, kwargs)
    assert caught.value.argument == argument


def test_a_scale_that_does_not_fit_is_an_error_of_the_scale() -> None:
    with pytest.raises(ConfigError) as caught:
        check_family("CartPoleMassEnv", {}, 2.0)
    error = caught.value
    expected = ("normalization_scale", "null for an environment with discrete actions", "2.0")
    assert (error.argument, error.expected, error.got) == expected
