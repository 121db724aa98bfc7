"""The adapter: a user's environment keeps its own rules, and its failures name the task."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.base import SPLITS, SingleTaskEnv, Task, TaskError
from mmaml.envs.check.examination import examine
from mmaml.envs.registry import check_family, make_family
from mmaml.envs.spec import spec_of
from mmaml.errors import ConfigError
from mmaml.worker import Worker
from tests.helpers.support import sampled, small_config
from tests.helpers.user_environments import Walk

HERE = __name__
UNBOUNDED = "tests.helpers.user_environments:Unbounded"


def adapter(num_tasks: int = 2, rollouts: int = 3, **env_kwargs: Any) -> GymTaskAdapter:
    family = make_family(f"{HERE}:Walk", num_tasks, rollouts, **env_kwargs)
    assert isinstance(family, GymTaskAdapter)
    return family


def tasks(family: GymTaskAdapter, *limits: float) -> list[Task]:
    """Tasks of given limits, in modes 0, 1, 0, …"""
    drawn = family.sample_tasks(len(limits), np.random.default_rng(0))
    for task, limit in zip(drawn, limits, strict=True):
        task.values["limit"] = limit  # type: ignore[index]
    return drawn


def test_lanes_are_the_users_environments_stepped_by_hand() -> None:
    family = adapter()
    family.set_tasks(tasks(family, 1.2, 2.5))
    observations, _ = family.reset(seed=[7, 8])
    alone = []
    for lane, env in enumerate(family._envs):
        alone.append(Walk())
        alone[lane].set_task({"limit": [1.2, 2.5][lane // 3]})
        np.testing.assert_array_equal(alone[lane].reset(seed=env.seeds[-1])[0], observations[lane])
    rng, ended, cut = np.random.default_rng(3), 0, 0
    for _ in range(30):
        actions = rng.normal(scale=1.0, size=(6, 2)).astype(np.float32)
        observations, rewards, terminated, truncated, infos = family.step(actions)
        assert observations.dtype == np.float64 and rewards.dtype == np.float32  # of the former, all that it is
        for lane, env in enumerate(alone):
            state, reward, ends, is_cut, _ = env.step(np.clip(actions[lane], [-1, 0], [1, 3]))
            np.testing.assert_array_equal(observations[lane], state)
            assert (rewards[lane], terminated[lane], truncated[lane]) == (np.float32(reward), ends, is_cut)
        assert infos == {}  # no success is reported, and nothing else is read
        done = terminated | truncated
        again, _ = family.reset(options={"reset_mask": done})
        np.testing.assert_array_equal(again[~done], observations[~done])
        assert (again[done, 1] == 0).all()
        for lane in np.flatnonzero(done):
            alone[lane].reset(seed=family._envs[lane].seeds[-1])
        ended, cut = ended + terminated.sum(), cut + (truncated & ~terminated).sum()
    assert ended and cut


def test_actions_come_clipped_in_the_spaces_dtype_and_are_the_environments_to_keep() -> None:
    family = adapter(1, 2)
    family.set_tasks(tasks(family, 3.0))
    family.reset(seed=0)
    given = np.array([[-5, -5], [5, 5]], np.float32)
    family.step(given)
    family.step(given[::-1])
    assert [action.tolist() for action in family._envs[0].actions] == [[-1, 0], [1, 3]]
    assert family._envs[0].actions[0].dtype == np.float64
    np.testing.assert_array_equal(given, [[-5, -5], [5, 5]])


def test_a_tasks_lanes_do_not_depend_on_the_block() -> None:
    def played(which: slice) -> list[np.ndarray]:
        family = adapter(len(range(4)[which]), 2)
        family.set_tasks(tasks(adapter(), 1.1, 2.0, 3.0, 1.5)[which])
        seen = [family.reset(seed=[5, 6, 2**63 - 1, 8][which])[0]]
        for _ in range(12):
            observations, _, terminated, truncated, _ = family.step(np.ones((family.num_envs, 2), np.float32))
            seen += [observations, family.reset(options={"reset_mask": terminated | truncated})[0]]
        return seen

    together = np.stack(played(slice(0, 4)))
    for task in range(4):
        np.testing.assert_array_equal(np.stack(played(slice(task, task + 1))), together[:, 2 * task : 2 * task + 2])
    np.testing.assert_array_equal(np.stack(played(slice(1, 3))), together[:, 2:6])
    assert len(np.unique(together[0, :, 0])) == 8


@pytest.mark.parametrize("method", ["set_task", "reset", "step"])
def test_failures_name_the_task_and_keep_their_cause(method: str) -> None:
    family = adapter(3, 2, fail=method)
    with pytest.raises(
        TaskError, match=rf"Walk\.{method}, in rollout 0 of its task: ZeroDivisionError: as asked"
    ) as error:
        family.set_tasks(tasks(family, 1.0, 2.5, 2.6))
        family.reset(seed=0)
        family.step(np.zeros((6, 2), np.float32))
    assert error.value.task == 1
    assert isinstance(error.value.__cause__, ZeroDivisionError)


class Quits(Walk):
    def _maybe_fail(self, method: str, limit: float) -> None:
        if self.fail == method and limit > 2:
            sys.exit("as asked")


@pytest.mark.parametrize("method", ["set_task", "reset", "step"])
def test_an_exit_is_a_failure_that_names_its_task_too(method: str) -> None:
    family = make_family(f"{HERE}:Quits", 3, 2, fail=method)
    assert isinstance(family, GymTaskAdapter)
    with pytest.raises(TaskError, match=rf"Quits\.{method}, in rollout 0 of its task: SystemExit: as asked") as error:
        family.set_tasks(tasks(family, 1.0, 2.5, 2.6))
        family.reset(seed=0)
        family.step(np.zeros((6, 2), np.float32))
    assert error.value.task == 1


class Succeeds(Walk):
    """Reports what it is told to."""

    successes: ClassVar[list[Any]] = []

    def step(self, action: np.ndarray) -> Any:
        *result, info = super().step(action)
        return *result, info | {"success": self.successes[len(self.actions) - 1]}


def _successes(monkeypatch: pytest.MonkeyPatch, *values: Any) -> list[bool]:
    """What the family makes of them."""
    monkeypatch.setattr(Succeeds, "successes", list(values))
    family = make_family(f"{HERE}:Succeeds")
    family.reset(seed=0)
    return [bool(family.step(np.zeros((1, 2), np.float32))[4]["success"][0]) for _ in values]


def test_success_is_true_or_false_in_whatever_form(monkeypatch: pytest.MonkeyPatch) -> None:
    yes = (True, 1, 1.0, np.True_, np.float32(1), np.array([1.0]))
    no = (False, 0, 0.0, np.False_, np.int64(0), np.array(0))
    assert _successes(monkeypatch, *yes, *no) == [True] * 6 + [False] * 6


@pytest.mark.parametrize("value", [float("nan"), 0.5, "no", None, [], np.zeros(2)])
def test_what_is_neither_success_nor_failure_is_refused(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match=r"Succeeds\.step, .* info\['success'\]: expected true or false, got "):
        _successes(monkeypatch, value)


def test_environments_are_built_once_used_again_and_all_closed() -> None:
    family = adapter(2, 3)
    assert len(Walk.built) == 1
    for limits in ((1.0, 2.0), (3.0, 1.5)):
        family.set_tasks(tasks(family, *limits))
        family.reset(seed=0)
        assert [env.limit for env in family._envs] == [limits[0]] * 3 + [limits[1]] * 3
    assert len(Walk.built) == 6
    family.close()
    family.close()
    assert all(env.closed for env in Walk.built)


def test_one_that_fails_to_close_leaves_no_other_open() -> None:
    family = adapter(2, 3, fail="close")
    family.set_tasks(tasks(family, 1.0, 1.0))
    with pytest.raises(ZeroDivisionError):
        family.close()
    assert all(env.closed for env in Walk.built)
    check_family(f"{HERE}:Walk", {"fail": "close"})  # it can be built


def test_a_single_environment_closes_its_family() -> None:
    SingleTaskEnv(adapter(1, 1)).close()
    assert [env.closed for env in Walk.built] == [True]


@dataclass(frozen=True)
class Slope:
    steepness: float
    mode: int = 3


class Slopes(Walk):
    """Tasks are objects; they come by split."""

    num_modes, normalization_scale, tasks_per_mode = 4, 2.5, 9

    def sample_tasks(self, n: int, rng: np.random.Generator, split: str = "train") -> Any:
        self.asked = split
        return (Slope(steepness) for steepness in rng.uniform(size=n))

    def set_task(self, task: Slope) -> None:
        assert isinstance(task, Slope)
        self.limit = task.steepness


class Named(Walk):
    """Arguments that have the names of `make_family`'s."""

    def __init__(self, name: str, num_tasks: int) -> None:
        super().__init__(patience=num_tasks)
        self.name = name


def test_tasks_may_be_any_object() -> None:
    slopes, numbers = make_family(f"{HERE}:Slopes"), make_family(UNBOUNDED)
    drawn = slopes.sample_tasks(2, np.random.default_rng(0))
    assert [task.mode for task in drawn] == [3, 3]
    assert pickle.loads(pickle.dumps(drawn)) == drawn
    slopes.set_tasks(drawn[:1])
    assert slopes._envs[0].limit == drawn[0].values["task"].steepness  # type: ignore[attr-defined]
    (number,) = numbers.sample_tasks(1, np.random.default_rng(0))
    assert number.mode == 0 and isinstance(number.values["task"], float)
    with pytest.raises(ValueError, match="tasks: expected tasks from this family's sample_tasks"):
        slopes.set_tasks([Task(0, {"goal": [1, 2]})])


def test_class_attributes_describe_the_family() -> None:
    walk, slopes, unbounded = map(make_family, (f"{HERE}:Walk", f"{HERE}:Slopes", UNBOUNDED))
    assert (walk.num_modes, walk.normalization_scale, walk.splits) == (2, 1.0, ("train", "test"))
    assert (slopes.num_modes, slopes.normalization_scale, slopes.splits) == (4, 2.5, SPLITS)
    assert (walk.tasks_per_mode, slopes.tasks_per_mode) == (None, 9)
    assert (unbounded.normalization_scale, unbounded.splits) == (None, ("train", "ood"))


class Timed(Walk):
    """Says of each object whether its horizon is finite."""

    def __init__(self, finite_horizon: Any = True) -> None:
        super().__init__()
        self.finite_horizon = finite_horizon


def test_a_finite_horizon_is_declared_by_the_class_or_the_object() -> None:
    assert make_family(f"{HERE}:Walk").finite_horizon is False
    for finite in (True, False):
        family = make_family(f"{HERE}:Timed", finite_horizon=finite)
        assert family.finite_horizon is spec_of(family).finite_horizon is finite
    with pytest.raises(ConfigError, match=r"env: Timed\.finite_horizon: expected True or False, got 'no'"):
        check_family(f"{HERE}:Timed", {"finite_horizon": "no"})


def test_any_argument_reaches_the_class() -> None:
    family = make_family(f"{HERE}:Named", 1, 2, name="x", num_tasks=5)
    family.reset(seed=0)
    assert family.num_envs == 2 and {(env.name, env.patience) for env in family._envs} == {("x", 5)}  # type: ignore[attr-defined]


def test_splits_draw_different_tasks_and_are_told_to_who_asks() -> None:
    for name in ("Walk", "Slopes"):
        family = make_family(f"{HERE}:{name}")
        one, again, other = (
            family.sample_tasks(30, np.random.default_rng(1), split) for split in ("train", "train", "test")
        )
        assert one == again
        assert not {repr(task) for task in one} & {repr(task) for task in other}
    assert family._envs[0].asked == "test"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="split: expected one of"):
        adapter().sample_tasks(1, np.random.default_rng(0), "ood")


class WithMethod:
    """As tensors and tables have, which are tasks as any other object."""

    def mode(self) -> int:
        return 7


class OfOddModes(Walk):
    num_modes = 4

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [torch.ones(2), WithMethod(), Slope(1.0), {"mode": 1}, 2.0]


def test_a_method_is_no_mode() -> None:
    drawn = make_family(f"{HERE}:OfOddModes").sample_tasks(5, np.random.default_rng(0))
    assert [task.mode for task in drawn] == [0, 0, 3, 1, 0]
    assert not any("mode" in str(finding) for finding in examine(f"{HERE}:TensorTasks", steps=2, tasks=2).findings)


class TensorTasks(Walk):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [torch.tensor([limit]) for limit in rng.uniform(1, 3, n)]

    def set_task(self, task: torch.Tensor) -> None:  # type: ignore[override]
        self.limit = task.item()


def test_a_run_samples_whole_episodes_of_a_users_environment() -> None:
    """No episode is longer than the environment's patience; its own cut is a truncation."""
    config = small_config("promp", env=f"{HERE}:Walk", env_kwargs={"patience": 4}, max_path_length=11)
    worker, _, statistics = sampled(config)
    assert isinstance(worker, Worker) and worker.block is not None
    for data in worker.block.rollouts:
        steps = data.observations[..., 1]
        assert steps.max() == 3 and (steps[data.episode_start] == 0).all()
        np.testing.assert_array_equal(data.truncated & ~data.terminated, (steps == 3) & ~data.terminated)
        assert data.terminated.any()
    assert np.isnan(statistics["success"]).all()
    worker.close()
    assert all(env.closed for env in Walk.built)
