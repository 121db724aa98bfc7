"""What an environment may answer, what becomes of it in training, and what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mmaml.config.loading import build_config
from mmaml.envs import answers, block_answers
from mmaml.envs.answers import Refused
from mmaml.envs.base import TaskError
from mmaml.envs.check.examination import examine
from mmaml.envs.registry import make_family
from mmaml.errors import ConfigError, TasksFailed
from tests.helpers.sharing_envs import Point, PointFamily
from tests.helpers.support import SMALL, assert_same_states, dump, new_worker, progress, run, small_config

HERE, POINT = __name__, "tests.helpers.sharing_envs:Point"
YES = (True, 1, 1.0, np.True_, np.float32(1), np.int64(1), np.array(True), np.array([1.0]), torch.tensor(True))
NO = (False, 0, 0.0, np.False_, np.float64(0), np.uint8(0), np.array(0), np.array([False]), torch.tensor([0.0]))
NEITHER = (
    None, "no", "", float("nan"), 0.5, 2, -1, [False], (True,), [], {"__all__": False}, {}, np.zeros(0), np.zeros(2),
    np.array([False, True]), np.array("True"), np.array(None), object(), 1j, torch.zeros(2),
)  # fmt: skip


@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_truth_values_are_read_in_whatever_form(name: str) -> None:
    assert [answers.truth(name, value) for value in (*YES, *NO)] == [True] * len(YES) + [False] * len(NO)
    assert {type(answers.truth(name, value)) for value in (*YES, *NO)} == {bool}


@pytest.mark.parametrize("value", NEITHER, ids=lambda value: type(value).__name__)
def test_what_is_no_truth_value_is_refused_by_name(value: Any) -> None:
    for name in ("terminated", "truncated"):
        with pytest.raises(Refused, match=f"^{name}: expected true or false, got .*; return a bool$"):
            answers.truth(name, value)
    for key in answers.SUCCESS:
        with pytest.raises(Refused, match=rf"^info\['{key}'\]: expected true or false, got "):
            answers.success({key: value})


def test_a_list_is_shown_as_it_is() -> None:
    for value, shown in (
        ([False], "[False]"),
        ({"__all__": False}, "{'__all__': False}"),
        (np.zeros(0), "a float64 a"),
    ):
        with pytest.raises(Refused, match=re.escape(f"terminated: expected true or false, got {shown}")):
            answers.truth("terminated", value)


REWARDS = (
    -2.0, np.float32(-2), np.float64(-2), np.int64(-2), -2, np.array(-2.0), np.array([-2.0]), np.array([[-2]]), [-2.0],
    (-2,), torch.tensor(-2.0), torch.tensor([-2]),
)  # fmt: skip


def test_a_reward_is_one_number_in_whatever_form() -> None:
    assert [answers.reward(value) for value in REWARDS] == [-2.0] * len(REWARDS)
    assert answers.reward(True) == 1 and np.isnan(answers.reward(np.nan)) and answers.reward(-np.inf) == -np.inf


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"), ("1", "'1'"), ([1.0, 2.0], "[1.0, 2.0]"), ([], "[]"), ({"a": 1}, "{'a': 1}"), (1j, "1j"),
        (np.zeros(2), "a float64 array of shape (2,)"), (np.zeros((1, 2), int), "a int64 array of shape (1, 2)"),
        (np.zeros(0), "a float64 array of shape (0,)"), (np.array(["1"]), "a <U1 array of shape (1,)"),
        ([[1], [1, 2]], "[[1], [1, 2]]"), (10**400, "1000"),
    ],
)  # fmt: skip
def test_what_is_not_one_number_is_refused_with_its_shape(value: Any, shown: str) -> None:
    with pytest.raises(Refused, match=re.escape(f"reward: expected a number, got {shown}")):
        answers.reward(value)


def test_success_goes_by_two_names() -> None:
    assert answers.success({}) is None and answers.success({"successes": 1}) is None
    for key in answers.SUCCESS:
        assert (answers.success({key: np.True_}), answers.success({key: 0})) == (True, False)
    assert answers.success({"is_success": True, "success": False}) is False


# In a run.


class Answers(Point):
    """A `Point` whose steps are answered otherwise, in the way of its argument."""

    ways: ClassVar[dict[str, Any]] = {
        "as a point": lambda o, r, e, c, i: (o, r, e, c, i),
        "lists": lambda o, r, e, c, i: [o.tolist(), [r], np.array(e), np.array([c]), i],
        "arrays": lambda o, r, e, c, i: (o, np.array([r]), np.bool_(e), np.array(c), i),
        "numbers": lambda o, r, e, c, i: (o, np.float64(r), int(e), np.float32(c), i),
        "tensors": lambda o, r, e, c, i: (torch.from_numpy(o), torch.tensor([r]), torch.tensor(e), torch.tensor(c), i),
        "other infos": lambda o, r, e, c, i: (o, r, e, c, i | {"reward_type": "dense", "reward_of": {"a": [r]}, 3: 4}),
        "is_success": lambda o, r, e, c, i: (o, r, e, c, {"is_success": np.array([i["success"]])}),
        "listed end": lambda o, r, e, c, i: (o, r, [bool(e)], c, i),
        "end of all": lambda o, r, e, c, i: (o, r, {"__all__": bool(e)}, c, i),
        "no end": lambda o, r, e, c, i: (o, r, np.zeros(0), c, i),
        "listed cut": lambda o, r, e, c, i: (o, r, e, [c], i),
        "two rewards": lambda o, r, e, c, i: (o, np.array([r, r]), e, c, i),
        "four values": lambda o, r, e, c, i: (o, r, e or c, i),
        "no info": lambda o, r, e, c, i: (o, r, e, c, None),
        "rates": lambda o, r, e, c, i: (o, r, e, c, {"is_success": 0.5}),
        "text": lambda o, r, e, c, i: (str(o), r, e, c, i),
    }

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = self.ways[way]

    def step(self, action: np.ndarray) -> Any:
        return self.way(*super().step(action))


def trained(folder: Path, way: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The last checkpoint, and returns and success of each iteration."""
    keys = {"env": f"{HERE}:Answers", "env_kwargs": {"way": way}, "dump_path": dump(folder, way.replace(" ", "_"))}
    config = small_config("promp", max_path_length=11, **keys)
    state = run(config)
    rows = progress(str(config.dump_path))
    return state, [{key: row[key] for key in row if "Return" in key or "Success" in key} for row in rows]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, str]]]:
    return trained(tmp_path_factory.mktemp("sound"), "as a point")


@pytest.mark.parametrize("way", ["lists", "arrays", "numbers", "tensors", "other infos", "is_success"])
def test_all_that_means_the_same_trains_the_same(way: str, sound: Any, tmp_path: Path) -> None:
    state, rows = trained(tmp_path, way)
    assert_same_states(state, sound[0])
    assert rows == sound[1]
    assert all(0 <= float(row["Step_0-SuccessRate"]) <= 1 for row in rows)


def test_episodes_are_as_long_as_their_environment_says(sound: Any) -> None:
    """A point's episodes end after five steps: 4 tasks, 3 rollouts, lanes of 11 steps hold two whole ones."""
    assert {float(row["Step_0-NumEpisodes"]) for row in progress(str(sound[0]["config"]["dump_path"]))} == {24}


REFUSED = {
    "listed end": "step: terminated: expected true or false, got [False]; return a bool",
    "end of all": "step: terminated: expected true or false, got {'__all__': False}; return a bool",
    "no end": "step: terminated: expected true or false, got a float64 array of shape (0,); return a bool",
    "listed cut": "step: truncated: expected true or false, got [False]; return a bool",
    "two rewards": "step: reward: expected a number, got a float64 array of shape (2,); return float(reward)",
    "four values": "step: expected five values (observation, reward, terminated, truncated, info), got 4 values, as in",
    "no info": "step: info: expected a dict, got None; return {} for none",
    "rates": "step: info['is_success']: expected true or false, got 0.5; return a bool",
    "text": "step: observation: expected an array of numbers, got '[",
}


@pytest.mark.parametrize(("way", "line"), REFUSED.items())
def test_a_run_its_start_and_the_check_refuse_the_same(way: str, line: str) -> None:
    env, kwargs = f"{HERE}:Answers", {"way": way}
    found = [str(finding) for finding in examine(env, kwargs, steps=3, tasks=2).findings if finding.level == "error"]
    assert found[0].startswith(f"Answers.{line}")
    with pytest.raises(ConfigError) as refused:
        build_config(SMALL | {"env": env, "env_kwargs": kwargs})
    assert str(refused.value).startswith(f"env: Answers.{line}")
    family = make_family(env, 1, 2, **kwargs)
    family.reset(seed=0)
    with pytest.raises(TaskError) as failed:
        family.step(np.zeros((2, 1), np.float32))
    assert str(failed.value).startswith(f"Answers.{line}".replace("step:", "step, in rollout 0 of its task:"))


class Solved(Point):
    """Reports success by one name, then by the other, then not at all."""

    def step(self, action: np.ndarray) -> Any:
        *values, _ = super().step(action)
        key = {1: "success", 2: "is_success"}.get(int(self.state[1]))
        return *values, {key: True} if key else {}


def test_success_is_reported_at_every_step_by_either_name() -> None:
    family = make_family(f"{HERE}:Solved")
    family.reset(seed=0)
    assert [family.step(np.zeros((1, 1)))[4]["success"].tolist() for _ in range(2)] == [[True], [True]]
    with pytest.raises(TaskError, match=r"info\['success'\]: expected at every step or at none, got at some"):
        family.step(np.zeros((1, 1)))


# Families of arrays.


class NamedSuccess(PointFamily):
    def step(self, actions: np.ndarray) -> Any:
        *values, infos = super().step(actions)
        return *values, {"is_success": infos["success"], "reward_type": "dense", "reward_of": {"a": 1}}


def test_a_family_names_its_success_either_way(tmp_path: Path) -> None:
    rows = []
    for env in ("tests.helpers.sharing_envs:PointFamily", f"{HERE}:NamedSuccess"):
        config = small_config("promp", env=env, dump_path=dump(tmp_path, env[-9:]))
        run(config)
        rows.append([row["Step_1-SuccessRate"] for row in progress(str(config.dump_path))])
    assert rows[0] == rows[1]


class RareSuccess(PointFamily):
    """Reports success at its first step, or at the others."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, first: bool) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self.first, self.steps = first, 0

    def step(self, actions: np.ndarray) -> Any:
        *values, infos = super().step(actions)
        self.steps += 1
        return *values, infos if (self.steps == 1) == self.first else {}


@pytest.mark.parametrize("first", [True, False])
def test_a_family_reports_success_at_every_step_or_at_none(first: bool) -> None:
    env, kwargs = f"{HERE}:RareSuccess", {"first": first}
    worker, parameters, items = new_worker("promp", env=env, env_kwargs=kwargs)
    with pytest.raises(TasksFailed) as caught:
        worker.collect(parameters, None, items, 0)
    line = "RareSuccess.step: infos['success']: expected at every step or at none, got at some; report false until the "
    assert {failure.error for failure in caught.value.failures} == {f"{line}task is solved"}
    (found,) = [finding for finding in examine(env, kwargs, steps=5, tasks=2).findings if "success" in finding.where]
    assert (found.level, found.expected) == ("error", "at every step or at none")


def test_arrays_of_a_family_are_copied_and_its_other_infos_left_alone() -> None:
    given = PointFamily(1, 2)
    given.reset(seed=0)
    output = given.step(np.zeros((2, 1), np.float32))
    output[4]["success"] = np.array([True, False])
    taken = block_answers.of_step((*output[:4], output[4] | {"reward_type": "dense"}), (2, 2))
    assert list(taken[4]) == ["success"]
    for ours, theirs in zip((*taken[:4], taken[4]["success"]), (*output[:4], output[4]["success"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not np.shares_memory(ours, theirs)


@pytest.mark.parametrize(
    ("index", "value", "line"),
    [
        (
            0,
            np.zeros((2, 2), np.float16),
            "observations: expected a float32 or float64 array of shape (2, 2), got a float16 array of shape (2",
        ),
        (
            1,
            np.zeros((2, 1), np.float32),
            "rewards: expected a float32 array of shape (2,), got a float32 array of sha",
        ),
        (1, [0.0, 0.0], "rewards: expected a float32 array of shape (2,), got [0.0, 0.0]"),
        (2, np.zeros(2, int), "terminated: expected a bool array of shape (2,), got a int64 array of shape (2,)"),
        (3, False, "truncated: expected a bool array of shape (2,), got False"),
        (4, None, "infos: expected a dict, got None"),
        (
            4,
            {"is_success": np.zeros(2)},
            "infos['is_success']: expected a bool array of shape (2,), got a float64 arra",
        ),
        (4, {"blow_up": True}, "infos['blow_up']: expected a bool array of shape (2,), got True"),
    ],
)
def test_arrays_of_another_form_are_refused_by_name(index: int, value: Any, line: str) -> None:
    arrays = (np.zeros((2, 2), np.float32), np.zeros(2, np.float32), np.zeros(2, bool), np.zeros(2, bool))
    values: list[Any] = [*arrays, {}]
    values[index] = value
    with pytest.raises(Refused) as refused:
        block_answers.of_step(tuple(values), (2, 2))
    assert str(refused.value).startswith(line)
