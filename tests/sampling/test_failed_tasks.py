"""Tasks that are sampled later than others, and tasks that drop out of a meta-batch."""

from __future__ import annotations

import re
import sys
import traceback
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.config.algorithms import ALGORITHMS
from mmaml.envs.base import Task, TaskError
from mmaml.errors import Interrupted, NotFinite, RunStopped, TasksFailed
from mmaml.sampling.environment_failures import EnvironmentFailed, failing_tasks
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker
from tests.helpers.probes import DrawsBadly, GoesWrong
from tests.helpers.support import REMEMBERING, TASKS, new_worker, small_config
from tests.helpers.user_environments import Returns


def assert_same_fields(ours: Rollouts, theirs: Rollouts) -> None:
    for name, value in ours.fields().items():
        assert torch.equal(value.nan_to_num(9e9), theirs.fields()[name].nan_to_num(9e9)), name


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("parts", [((0, 1, 2), (3, 4)), ((0, 3), (1, 2), (4,))])
def test_tasks_sampled_in_parts_are_those_sampled_at_once(algorithm: str, parts: tuple[tuple[int, ...], ...]) -> None:
    """Bit for bit: statistics, rollouts, and every function away from where they were sampled."""
    whole, parameters, items = new_worker(algorithm)
    at_once = whole.collect(parameters, None, items, 0)
    worker, _, _ = new_worker(algorithm)
    for k, part in enumerate(parts):
        found = worker.collect(parameters, None, [items[i] for i in part], 0, extend=k > 0)
        for name, value in at_once.items():
            if name != "seconds":
                np.testing.assert_array_equal(found[name], value[list(part)])
    assert whole.block is not None and worker.block is not None
    rows = torch.tensor([i for part in parts for i in part])
    for ours, theirs in zip(worker.block.rollouts, whole.block.rollouts, strict=True):
        assert_same_fields(ours, theirs.select(rows))
    random = torch.Generator().manual_seed(0)
    moved = parameters + 0.01 * torch.randn(parameters.shape, generator=random)
    credits, direction = (torch.randn(size, generator=random) for size in (TASKS, len(parameters)))
    together, apart = whole.block.evaluate(), worker.block.evaluate()
    assert together.tasks == apart.tasks == list(range(TASKS))
    for function in worker.algorithm.functions:
        vector = direction if function == "fisher_product" else credits
        for chosen in (None, [1, 3, 4]):
            expected, result = (each(Question(function, moved, vector, chosen)) for each in (together, apart))
            assert expected.keys() == result.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(result[name], value)


def test_what_a_block_is_extended_by_is_of_its_iteration_and_purpose() -> None:
    worker, parameters, items = new_worker("promp")
    for iteration, purpose, held in ((0, "train", 2), (0, "train", 4), (1, "train", 2), (1, "test", 2)):
        worker.collect(parameters, None, items[:2], iteration, purpose, extend=True)
        assert worker.block is not None and worker.block.rollouts[0].tasks == held


@pytest.mark.parametrize("extend", [False, True])
def test_a_collection_that_fails_leaves_nothing_but_what_it_was_to_extend(extend: bool) -> None:
    worker, parameters, items = new_worker("promp")
    worker.collect(parameters, None, items[:3], 0)
    before = worker.block
    with pytest.raises(RuntimeError):
        worker.collect(parameters[:-1], None, items[3:], 0, extend=extend)
    assert worker.block is (before if extend else None)
    worker.collect(parameters, None, items[3:], 0, extend=extend)
    assert worker.block is not None and worker.block.rollouts[0].tasks == (5 if extend else 2)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("meta_update", ["ppo", "trpo", "vpg"])
def test_an_update_copes_with_tasks_that_are_missing(algorithm: str, meta_update: str) -> None:
    if meta_update == "trpo" and algorithm in REMEMBERING:
        pytest.skip("which is refused")
    worker, parameters, items = new_worker(algorithm, meta_update=meta_update, num_minibatches=4)
    worker.collect(parameters, None, [items[1], items[4]], 0)
    assert worker.block is not None
    evaluate = worker.block.evaluate()
    assert evaluate.tasks == [1, 4]
    updated, row = worker.algorithm.update(parameters, evaluate, 0)
    assert torch.isfinite(updated).all() and not torch.equal(updated, parameters)
    unknown = {"MetaCosine-discount", "MetaGradient-discount"}  # in the first iteration
    assert np.isfinite([value for name, value in row.items() if name not in unknown]).all()


def test_the_credits_compare_the_tasks_that_are_left() -> None:
    """The meta-gradient of the first step is that of a meta-batch which never had the missing ones."""
    gradients = []
    for positions in ((0, 1, 2, 3, 4), (1, 3)):
        worker, parameters, items = new_worker("e_maml", meta_update="vpg")
        worker.collect(parameters, None, [items[i] for i in positions], 0)
        assert worker.block is not None
        evaluate = worker.block.evaluate()
        returns = evaluate(Question("returns", parameters, tasks=[1, 3]))["return"][:, -1]
        if len(positions) == 2:
            row = worker.algorithm.update(parameters, evaluate, 0)[1]
        credits = torch.zeros(TASKS)
        credits[[1, 3]] = torch.from_numpy((returns - returns.mean()) / (returns.std() + 1e-8)).float()
        gradients.append(evaluate(Question("meta_gradient", parameters, credits, [1, 3]))["loss"])
    np.testing.assert_array_equal(*gradients)
    assert row["LossBefore"] == float(gradients[0].mean())


# Environments that fail.

PROBE = {"env": "tests.helpers.probes:GoesWrong", "num_inner_grad_steps": 1}


def collect(positions: Any, algorithm: str = "promp", **env_kwargs: Any) -> Worker:
    """A worker that has collected some tasks of a meta-batch of `GoesWrong`."""
    worker, parameters, items = new_worker(algorithm, **PROBE, env_kwargs=env_kwargs)
    worker.collect(parameters, None, [items[k] for k in positions], 0)
    return worker


@pytest.mark.parametrize("fault", ["error", "nameless error", "exit"])
@pytest.mark.parametrize("blocks", [[range(5)], [[0, 1], [2, 3, 4]], [[k] for k in range(5)]])
def test_tasks_whose_environment_fails_are_found_on_any_division_into_blocks(fault: str, blocks: list[Any]) -> None:
    found, traces = [], set()
    for block in blocks:
        try:
            collect(block, fault=fault, tasks=[1, 3, 4], collection=1, step=2)
        except TasksFailed as error:
            assert [one.item_index for one in error.failures] == sorted({one.item_index for one in error.failures})
            found += [(block[one.item_index], one.error) for one in error.failures]
            traces |= {one.trace for one in error.failures}
    text = "the probe fails as asked"
    told = {"error": text, "nameless error": f"RuntimeError: {text}", "exit": "RuntimeError: it calls sys.exit(0)"}
    assert found == [(k, told[fault]) for k in (1, 3, 4)]
    (trace,) = traces
    assert trace.startswith("Traceback") and "in _fail" in trace


@pytest.mark.parametrize("index", [-1, 5, None])
def test_a_task_that_is_named_wrongly_is_found_all_the_same(index: Any) -> None:
    def sample(items: list[str]) -> None:
        if "bad" in items:
            raise EnvironmentFailed(TaskError("as asked", index))

    with pytest.raises(EnvironmentFailed) as error:
        sample(["bad"])
    assert [one.item_index for one in failing_tasks(sample, ["good", "bad", "good", "bad", "good"], error.value)] == [
        1,
        3,
    ]


def test_the_tasks_that_are_left_have_the_bits_of_a_block_without_failures() -> None:
    kwargs = {"fault": "error", "tasks": [1, 3], "step": 2}
    worker, parameters, items = new_worker("mmaml", **PROBE, env_kwargs=kwargs)
    with pytest.raises(TasksFailed):
        worker.collect(parameters, None, items, 0)
    assert worker.block is None
    worker.collect(parameters, None, [items[0]], 0)
    before = worker.block
    with pytest.raises(TasksFailed) as error:
        worker.collect(parameters, None, items[1:4], 0, extend=True)
    assert [one.item_index for one in error.value.failures] == [0, 2] and worker.block is before
    worker.collect(parameters, None, [items[2], items[4]], 0, extend=True)
    expected = collect(range(5), "mmaml", fault="error", tasks=[]).block
    assert worker.block is not None and expected is not None
    for ours, theirs in zip(worker.block.rollouts, expected.rollouts, strict=True):
        assert_same_fields(ours, theirs.select(torch.tensor([0, 2, 4])))


def test_which_tasks_fail_may_change_from_one_iteration_to_the_next() -> None:
    worker, parameters, _ = new_worker("promp", **PROBE, env_kwargs={"fault": "error", "share": 0.4})
    failed = set()
    for iteration in range(4):
        items = list(enumerate(worker.sample_tasks(TASKS, iteration)))
        expected = [k for k, task in items if task.values["bad"]]
        found: list[int] = []
        try:
            worker.collect(parameters, None, items, iteration)
        except TasksFailed as error:
            found = [one.item_index for one in error.failures]
        assert found == expected
        failed.add(tuple(found))
    assert len(failed) > 1


@pytest.mark.parametrize("fault", ["error", "nameless error", "exit"])
@pytest.mark.parametrize("crowd", [1, 5])
@pytest.mark.parametrize("blocks", [[range(5)], [[0, 1], [2, 3, 4]], [[k] for k in range(5)]])
def test_an_error_that_passes_costs_no_task_and_no_bit_on_any_division_into_blocks(
    blocks: list[Any], crowd: int, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of tasks which fail when they first come to that, and that of five tasks together."""
    fail = GoesWrong._fail
    failed: set[int] = set()

    def once(self: GoesWrong, _: int) -> None:
        for row, task in enumerate(self.tasks):
            if task.values["bad"] and task.values["place"] not in failed:
                failed.add(task.values["place"])
                fail(self, row)

    monkeypatch.setattr(GoesWrong, "_fail", once)
    bad = [1, 3, 4] if crowd == 1 else [1]
    wrong = {"fault": fault, "tasks": bad, "crowd": crowd, "collection": 1, "step": 2}
    worker, parameters, items = new_worker("promp", **PROBE, env_kwargs=wrong)
    items = [(k, replace(task, values={**task.values, "place": k})) for k, task in items]
    for block in blocks:
        worker.collect(parameters, None, [items[k] for k in block], 0, extend=True)
    expected = collect(range(5), fault="error", tasks=[]).block
    assert worker.block is not None and expected is not None
    for ours, theirs in zip(worker.block.rollouts, expected.rollouts, strict=True):
        assert_same_fields(ours, theirs)
    assert failed == (set(bad) if len(blocks) == 1 or crowd == 1 else set())
    told = capsys.readouterr().err.count("warning: an environment failed (")
    assert told == sum(not failed.isdisjoint(block) for block in blocks)


def test_a_task_fails_that_fails_again_by_itself() -> None:
    """Not for what happens to others, nor for what another was named for."""
    tried: list[list[str]] = []

    def sample(items: list[str]) -> None:
        tried.append(items)
        if "bad" in items:
            raise EnvironmentFailed(TaskError("as asked", 0))  # whoever comes first

    with pytest.raises(EnvironmentFailed) as error:
        sample(["good", "fine", "bad"])
    assert [one.item_index for one in failing_tasks(sample, ["good", "fine", "bad"], error.value)] == [2]
    assert tried[1:] == [["good"], ["fine", "bad"], ["fine"], ["bad"], ["bad"]]


@pytest.mark.parametrize(
    ("fault", "text"), [("nameless error", r"the probe fails\nas asked"), ("exit", r"it calls sys\.exit\(0\)")]
)
def test_an_error_that_no_task_meets_alone_is_raised_as_it_is(fault: str, text: str) -> None:
    """It is told where it arose, with nothing of the search."""
    with pytest.raises(RuntimeError, match=f"^{text}$") as error:
        collect(range(5), fault=fault, crowd=5)
    assert type(error.value) is RuntimeError
    trace = "".join(traceback.format_exception(error.value))
    assert "in _fail\n" in trace and "failing_tasks" not in trace and "EnvironmentFailed" not in trace


@pytest.mark.parametrize(
    ("fault", "kind"), [("signal", Interrupted), ("interrupt", KeyboardInterrupt), ("memory", MemoryError)]
)
def test_what_says_nothing_of_a_task_ends_the_collection(fault: str, kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        collect(range(5), fault=fault, tasks=[2])


def test_an_environment_that_fails_to_be_built_later_fails_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a block of another size, whose construction is the user's code too."""
    worker, parameters, items = new_worker("promp", **PROBE, env_kwargs={"tasks": []})
    worker.collect(parameters, None, items, 0)
    build = GoesWrong.__init__

    def once_more(self: GoesWrong, num_tasks: int = 1, *arguments: Any, **options: Any) -> None:
        if num_tasks < TASKS:
            raise RuntimeError("no more of them")
        build(self, num_tasks, *arguments, **options)

    monkeypatch.setattr(GoesWrong, "__init__", once_more)
    with pytest.raises(TasksFailed) as error:
        worker.collect(parameters, None, items[:3], 0)
    assert [(one.item_index, one.error) for one in error.value.failures] == [
        (k, "RuntimeError: no more of them") for k in range(3)
    ]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_environments_that_fail_to_close_cost_nothing(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, parameters, items = new_worker("promp", **PROBE, env_kwargs={"tasks": []})
    closed = []

    def refuse(self: GoesWrong, **_: Any) -> None:
        closed.append(self.num_tasks)
        raise error("it does not close")

    monkeypatch.setattr(GoesWrong, "close_extras", refuse)
    worker.collect(parameters, None, items[:2], 0)
    worker.collect(parameters, None, items[2:], 0, extend=True)  # in one that is for this block alone
    worker.collect(parameters, None, items, 1)  # in place of the first
    worker.close()
    assert closed == [3, 2, 1, 5]


def test_our_own_errors_are_no_failures_of_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, parameters, items = new_worker("promp", **PROBE, env_kwargs={"tasks": []})

    def adapt(*_: Any) -> None:
        raise RuntimeError("a fault of the algorithm")

    monkeypatch.setattr(worker.algorithm, "adapt", adapt)
    with pytest.raises(RuntimeError, match=r"^a fault of the algorithm$"):
        worker.collect(parameters, None, items, 0)


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        ("shape", "a float32 array of shape (3, 0)"),
        ("type", "a float16 array of shape (3, 1)"),
        ("nothing", "None"),
    ],
)
def test_arrays_that_are_not_as_agreed_are_failures(fault: str, got: str) -> None:
    expected = "observations: expected a float32 or float64 array of shape (3, 1)"
    text = f"{expected}, got {got}; convert it within the class"
    with pytest.raises(TasksFailed) as error:
        collect(range(5), fault=fault, tasks=[2])
    (failure,) = error.value.failures
    assert (failure.item_index, failure.error) == (2, f"GoesWrong.step: {text}")


def test_numbers_that_are_not_finite_are_told_before_failures() -> None:
    """On one rank as on several, of which one finds the number and another the failure."""
    worker, parameters, items = new_worker("promp", **PROBE, env_kwargs={"fault": "nameless error", "tasks": [4]})
    check_finite, looked = worker.check_finite, []

    def find(data: Rollouts, tasks: Any, *arguments: Any) -> None:
        looked.append(data.task_index.tolist())
        if 1 in looked[-1]:
            data.rewards[looked[-1].index(1), 0, 0] = np.nan
        check_finite(data, tasks, *arguments)

    worker.check_finite = find  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match=r"^task 1 "):
        worker.collect(parameters, None, items, 0)
    assert [0, 1] in looked


# Tasks that are not to be had.


def _exit(tasks: list[Task]) -> None:
    sys.exit(0)


@pytest.mark.parametrize("finite", [None, 7])
@pytest.mark.parametrize(
    ("drawn", "text"),
    [
        (lambda tasks: 1 / 0, "ZeroDivisionError: division by zero"),
        (_exit, r"RuntimeError: it calls sys.exit\(0\)"),
        (lambda tasks: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda tasks: tasks[1:], r"UsageError: DrawsBadly._draw_tasks: expected \d tasks, got \d; .*"),
        (lambda tasks: [*tasks[1:], "one"], "UsageError: DrawsBadly._draw_tasks: expected a Task.* got 'one'; .*"),
        (lambda tasks: [Task(0, 3.0) for _ in tasks], "UsageError: .* expected a Task whose values are a mapping, .*"),  # type: ignore[arg-type]
        (
            lambda tasks: [Task("left", {}) for _ in tasks],
            "UsageError: .* to be a whole number from 0 to 0, .* got 'left'; .*",
        ),  # type: ignore[arg-type]
    ],
)
def test_tasks_that_cannot_be_drawn_end_the_run_in_a_line(
    drawn: Any, text: str, finite: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(small_config("promp", env="tests.helpers.probes:DrawsBadly", num_train_tasks=finite))
    monkeypatch.setattr(DrawsBadly, "drawn", drawn)
    with pytest.raises(RunStopped) as error:
        worker.sample_tasks(TASKS, 0)
    expected = rf'stopped: sample_tasks failed for the split "train" \({text}\); fix it'
    assert re.fullmatch(expected, str(error.value)), str(error.value)
    assert error.value.trace.startswith("Traceback") and "sample_tasks" in error.value.trace


# What environments may not return.


@pytest.mark.parametrize(
    ("returns", "text"),
    [
        ((np.zeros(3), 1.0, False, False, {}), r"observation: expected shape \(2,\), .* got shape \(3,\); return .*"),
        ((None, 1.0, False, False, {}), "observation: expected an array of numbers, got None"),
        (([None, 0.0], 1.0, False, False, {}), r"observation: expected an array of numbers, got \[None, 0.0\]"),
        ((["a", "b"], 1.0, False, False, {}), r"observation: expected an array of numbers, got \['a', 'b'\]"),
        ((np.zeros(2), None, False, False, {}), "reward: expected a number, got None; return .*"),
        ((np.zeros(2), "1", False, False, {}), "reward: expected a number, got '1'; return .*"),
        ((np.zeros(2), [1.0, 2.0], False, False, {}), r"reward: expected a number, got \[1.0, 2.0\]; return .*"),
        ((np.zeros(2), 1.0, None, False, {}), "terminated: expected true or false, got None; return a bool"),
        ((np.zeros(2), 1.0, False, "no", {}), "truncated: expected true or false, got 'no'; return a bool"),
        ((np.zeros(2), 1.0, False, False, None), "info: expected a dict, got None; return {} for none"),
        ((np.zeros(2), 1.0, False, False), "expected five values .*, got 4 values, as in old Gym .*"),
        (None, "expected five values .*, got None; .*"),
    ],
)
def test_what_a_users_environment_may_not_return_is_told_with_its_task(
    returns: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Returns, "returns", returns)
    worker, parameters, items = new_worker("promp", env="tests.helpers.user_environments:Returns")
    with pytest.raises(TasksFailed) as error:
        worker.collect(parameters, None, items, 0)
    (failure,) = error.value.failures
    assert failure.item_index == 3
    assert re.fullmatch(rf"Returns\.step, in rollout 0 of its task: {text}", failure.error)


@pytest.mark.parametrize(
    ("returns", "text"),
    [
        ((np.array([0, np.nan]), 1.0, False, False, {}), "step 1 of rollout 0: observation[1] is nan"),
        ((np.zeros(2), -np.inf, False, False, {}), "step 0 of rollout 0: reward is -inf"),
    ],
)
def test_a_users_numbers_that_are_not_finite_are_told(returns: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Returns, "returns", returns)
    worker, parameters, items = new_worker("promp", env="tests.helpers.user_environments:Returns")
    with pytest.raises(NotFinite) as error:
        worker.collect(parameters, None, items, 0)
    assert str(error.value) == f"task 3 (mode 0), collection 0, {text}"
