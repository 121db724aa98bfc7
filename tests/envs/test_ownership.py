"""What crosses between a user's environment and training is copied: later changes of either do not reach the other."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import mmaml
from mmaml.envs.base import SingleTaskEnv, Task
from mmaml.envs.registry import make_family
from mmaml.errors import ConfigError, RunStopped
from mmaml.storage import checkpoint
from mmaml.worker import Worker
from tests.helpers import sharing_envs
from tests.helpers.sharing_envs import FamilyOfBuffers, FamilyThatChangesWhatItIsGiven, PointFamily
from tests.helpers.support import SMALL, assert_same_states, dump, progress, run, small_config

HERE, ENVS = __name__, "tests.helpers.sharing_envs"
OBJECTS = [
    "KeepsTask", "PopsTask", "ChangesTaskAtReset", "TasksOfOneArray", "TasksOfAList", "ReturnsBuffers",
    "ChangesActions", "ChangesSettings",
]  # fmt: skip
FAMILIES = ["FamilyOfBuffers", "FamilyThatChangesWhatItIsGiven", "FamilyThatKeepsTasks", "FamilyOfOddArrays"]
KEYS: dict[str, Any] = {"num_train_tasks": 6, "n_itr": 4, "eval_interval": 2, "eval_num_tasks": 3}


def trained(name: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The last checkpoint of a run in this process, and its rows without times."""
    env_kwargs = {"settings": {"speed": 0.4}} if name in ("Point", *OBJECTS) else {}
    config = small_config("promp", env=f"{ENVS}:{name}", env_kwargs=env_kwargs, dump_path=dump(folder, name), **KEYS)
    state = run(config)
    assert config.env_kwargs == env_kwargs
    return state, rows(folder / name)


def rows(folder: Path) -> list[dict[str, str]]:
    measured = ("Time", "PerSecond")
    return [{key: row[key] for key in row if not any(word in key for word in measured)} for row in progress(folder)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of those that share nothing."""
    folder = tmp_path_factory.mktemp("expected")
    return {name: trained(name, folder) for name in ("Point", "PointFamily")}


@pytest.mark.parametrize("name", OBJECTS + FAMILIES)
def test_what_an_environment_shares_changes_no_result(name: str, expected: dict[str, Any], tmp_path: Path) -> None:
    sound, sound_rows = expected["PointFamily" if name in FAMILIES else "Point"]
    state, found_rows = trained(name, tmp_path)
    assert_same_states(state, sound)
    assert found_rows == sound_rows


def test_the_probes_differ_in_what_they_share_alone(expected: dict[str, Any]) -> None:
    """The drift of a goal shows in returns, so that a drift which lasts would show."""
    (_, by_object), (_, by_array) = expected["Point"], expected["PointFamily"]
    assert len({row["Step_0-AverageReturn"] for row in by_object}) == len(by_object)
    assert by_object != by_array
    assert sharing_envs.DRIFT > 0


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["KeepsTask", "PopsTask", "FamilyThatKeepsTasks"])
def test_results_do_not_depend_on_the_ranks(name: str, tmp_path: Path) -> None:
    sound = "PointFamily" if name in FAMILIES else "Point"
    keys = SMALL | KEYS | {"algorithm": "promp"}
    one, two = (
        mmaml.train(keys | {"env": f"{ENVS}:{env}", "parallel": ranks == 2}, ranks=ranks, dump_path=dump(tmp_path, env))
        for env, ranks in ((sound, 1), (name, 2))
    )
    expected, found = (checkpoint.load(done.folder)["parameters"] for done in (one, two))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert rows(tmp_path / name) == rows(tmp_path / sound)


def test_each_lane_has_a_task_of_its_own() -> None:
    family = make_family(f"{ENVS}:KeepsTask", 2, 3)
    drawn = family.sample_tasks(2, np.random.default_rng(0))
    given = copy.deepcopy(drawn)
    family.set_tasks(drawn)
    family.reset(seed=0)
    for _ in range(4):
        family.step(np.zeros((6, 1), np.float32))
    goals = [env.goal for env in family._envs]  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        np.concatenate(goals), np.repeat([t.values["goal"][0] for t in given], 3) + 4 * sharing_envs.DRIFT
    )
    assert not any(np.shares_memory(one, other) for k, one in enumerate(goals) for other in goals[:k])
    assert [task.values["goal"] for task in drawn] == [task.values["goal"] for task in given]


class Uncopied(sharing_envs.Point):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [threading.Lock()] * n


def test_tasks_that_cannot_be_copied_end_a_run_before_it_begins() -> None:
    with pytest.raises(
        ConfigError, match=r"env: Uncopied\.sample_tasks: .*expected tasks that can be copied, got <.*lock"
    ):
        small_config("promp", env=f"{HERE}:Uncopied")


class LaterUncopied(sharing_envs.Point):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [threading.Lock()] * n if n > 1 else super().sample_tasks(n, rng)


def test_later_they_end_it_in_a_line() -> None:
    worker = Worker(small_config("promp", env=f"{HERE}:LaterUncopied"))
    with pytest.raises(RunStopped, match=r"expected tasks that can be copied, got <.*lock.*\(TypeError: cannot pickle"):
        worker.sample_tasks(2, 0)


class OnePlace(sharing_envs.Point):
    """All objects have the same space, and widen it."""

    space = gym.spaces.Box(np.zeros(1, np.float32), np.ones(1, np.float32))

    def __init__(self) -> None:
        super().__init__()
        self.action_space = self.space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.space.high[:] = 2
        return super().reset(seed=seed)


def test_spaces_are_copied_too() -> None:
    family = make_family(f"{HERE}:OnePlace")
    family.reset(seed=0)
    assert OnePlace.space.high == 2 and family.single_action_space.high == 1  # type: ignore[attr-defined]


# A family as an ordinary environment.


def test_a_single_environment_copies_what_its_family_shares() -> None:
    single, other = SingleTaskEnv(FamilyOfBuffers()), SingleTaskEnv(PointFamily())
    task = other.sample_tasks(1, np.random.default_rng(0))[0]
    seen = []
    for env in (single, other):
        observations = [env.reset(seed=3, options={"task": task})[0]]
        observations += [env.step(np.full(1, 0.3, np.float32))[0] for _ in range(2)]
        seen.append(np.stack(observations))
    np.testing.assert_array_equal(*seen)


def test_a_single_environment_gives_its_family_copies() -> None:
    env = SingleTaskEnv(FamilyThatChangesWhatItIsGiven())
    task, action = Task(0, {"goal": np.ones(1)}), np.full(1, 0.3, np.float32)
    env.set_task(task)
    env.family.reset(seed=[1])
    env.step(action)
    assert task.values == {"goal": np.ones(1)} and action == np.float32(0.3)
