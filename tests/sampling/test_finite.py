"""NaN and infinity: found where they appear, named, and the same on any division into blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.errors import NotFinite
from mmaml.policies.params import ParamSpec
from mmaml.sampling import finite
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates.evaluate import Evaluate, Question
from mmaml.updates.finite import checked, not_finite_results, require_finite
from tests.helpers.support import TASKS, new_worker

CARTPOLE = {"env": "CartPoleMassEnv"}
STEPS, LANES = 7, 3
# What messages call the tensors; those of one number a step are without an entry.
CALLED = {
    "observations": "observation",
    "final_observations": "observation",
    "actions": "action",
    "mean": "mean of the action",
    "log_std": "log-std of the action",
    "logits": "logit",
    "log_probs": "log-probability",
    "rewards": "reward",
    "advantages": "advantage",
    "value_targets": "value target",
}
SCALARS = {"log_probs", "rewards", "advantages", "value_targets"}
TENSORS = [(name, CARTPOLE if name == "logits" else {}) for name in CALLED]


def collected(**overrides: Any) -> tuple[Rollouts, list[Any]]:
    """A collection of five tasks that is finite, and the tasks."""
    worker, parameters, items = new_worker("promp", **overrides)
    worker.collect(parameters, None, items, 0)
    assert worker.block is not None
    return worker.block.rollouts[0], [task for _, task in items]


def look(data: Rollouts, tasks: Sequence[Any], collection: int = 0) -> None:
    for names in (finite.SAMPLED, finite.PROCESSED):
        finite.check_rollouts(data, tasks, collection, names)


def test_every_floating_point_tensor_that_learning_reads_is_looked_at() -> None:
    for overrides in ({}, CARTPOLE):
        data, tasks = collected(**overrides)
        floating = {name for name, value in data.fields().items() if value.is_floating_point()}
        # Ours alone, or for reporting.
        assert floating - {"mask", "weights", "episode_noise", "success", "blow_ups"} <= set(CALLED)
        look(data, tasks)
        assert finite.findings(data) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "overrides"), TENSORS)
def test_the_place_is_named(name: str, overrides: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng([seed, len(name)])
    data, tasks = collected(**overrides)
    value = (math.nan, math.inf, -math.inf)[seed]
    row, lane, step, collection = (int(rng.integers(n)) for n in (TASKS, LANES, STEPS, 3))
    tensor = data.fields()[name]
    entry = int(rng.integers(tensor.shape[-1])) if name not in SCALARS else None
    if name == "log_std":  # one for all steps
        step, lane = 0, 0
        tensor[row, 0, 0, entry] = value
    elif name == "final_observations":
        step = STEPS
        tensor[row, lane, entry] = value
        data.terminated[row, lane, -1] = False
    elif entry is None:
        tensor[row, lane, step] = value
    else:
        tensor[row, lane, step, entry] = value
    what = CALLED[name] + ("" if entry is None else f"[{entry}]")
    place = f"task {row} (mode {tasks[row].mode}), collection {collection}, step {step} of rollout {lane}"
    with pytest.raises(NotFinite) as error:
        look(data, tasks, collection)
    assert str(error.value) == f"{place}: {what} is {value}"
    assert error.value.order[0] == collection and error.value.order[2] == row
    (found,) = finite.findings(data)
    assert found[:5] == (row, name, step, lane, entry) and found.entries == 1


def test_the_first_task_is_named_and_in_it_what_came_first() -> None:
    data, tasks = collected()
    data.rewards[3, 1, 5] = math.inf
    data.observations[3, 2, 6, 0] = math.nan
    data.advantages[3] = math.nan
    data.log_probs[3, 0, 6] = math.nan
    data.observations[4, 0, 0, 0] = math.nan
    with pytest.raises(NotFinite, match=r"^task 3 .*, step 5 of rollout 1: reward is inf$"):
        look(data, tasks)
    assert [(one.block_index, one.name) for one in finite.findings(data)] == [
        (3, "rewards"), (3, "observations"), (3, "log_probs"), (3, "advantages"), (4, "observations"),
    ]  # fmt: skip
    assert finite.findings(data)[3].entries == LANES * STEPS
    data.task_index = torch.tensor([4, 3, 2, 1, 0])
    with pytest.raises(NotFinite, match=r"^task 0 .*, step 0 of rollout 0: observation\[0\] is nan$"):
        look(data, tasks)


def test_padding_does_not_count_and_can_do_no_harm() -> None:
    data, tasks = collected(env="tests.helpers.probes:RandomLengths", env_kwargs={"longest": 4}, collect="episodes")
    padding = data.mask == 0
    assert padding.any()
    for name in ("observations", "actions", "rewards", "mean", "log_probs"):
        data.fields()[name][padding] = math.nan
    data.final_observations[padding[..., -1]] = math.inf
    look(data, tasks)
    assert all(value.isfinite().all() for name, value in data.fields().items() if name in finite.EXAMINED)
    real = int(data.mask[2, 1].sum()) - 1
    data.observations[2, 1, real + 1 :] = math.nan
    data.observations[2, 1, real, 1] = math.inf
    with pytest.raises(NotFinite, match=rf"^task 2 .*, step {real} of rollout 1: observation\[1\] is inf$"):
        look(data, tasks)


def test_an_observation_after_which_nothing_follows_does_not_count() -> None:
    data, tasks = collected(env="tests.helpers.probes:GoesWrong", env_kwargs={"length": STEPS, "step": 1000})
    assert data.terminated[..., -1].all()
    data.final_observations[:] = math.nan
    look(data, tasks)


def test_large_numbers_are_finite() -> None:
    """Also where their sum is not."""
    data, tasks = collected()
    for name in finite.EXAMINED:
        if name in data.fields():
            data.fields()[name].fill_(3e38)
    look(data, tasks)


PROBE = {"env": "tests.helpers.probes:GoesWrong", "num_inner_grad_steps": 2}


def raised(positions: Sequence[int], overrides: dict[str, Any]) -> NotFinite | None:
    """What a rank that holds these tasks raises."""
    worker, parameters, items = new_worker("mmaml", **PROBE | overrides)
    try:
        worker.collect(parameters, None, [items[k] for k in positions], 0)
    except NotFinite as finding:
        assert worker.block is None
        return finding
    return None


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (
            {"fault": "reward", "tasks": [3, 4], "collection": 1, "step": 5, "lane": 2},
            "task 3 (mode 1), collection 1, step 5 of rollout 2: reward is nan",
        ),
        (
            {"fault": "reward", "value": "-inf", "tasks": [2], "collection": 2, "step": 0},
            "task 2 (mode 0), collection 2, step 0 of rollout 0: reward is -inf",
        ),
        (
            {"fault": "observation", "value": "inf", "collection": 2, "step": 3, "lane": 1},
            "task 0 (mode 0), collection 2, step 3 of rollout 1: observation[0] is inf",
        ),
        (
            {"fault": "observation", "tasks": [4], "collection": 0, "step": 0, "refuses": True},
            "task 4 (mode 0), collection 0, step 0 of rollout 0: observation[0] is nan",
        ),
        (
            {"fault": "observation", "tasks": [1], "collection": 1, "step": STEPS, "lane": 1},
            f"task 1 (mode 1), collection 1, step {STEPS} of rollout 1: observation[0] is nan",
        ),
    ],
)
@pytest.mark.parametrize("blocks", [[range(5)], [range(2), range(2, 5)], [[k] for k in range(5)]])
def test_an_environments_numbers_are_named_by_the_least_of_all_blocks(
    kwargs: dict[str, Any], text: str, blocks: list[Sequence[int]]
) -> None:
    found = [finding for block in blocks if (finding := raised(block, {"env_kwargs": kwargs})) is not None]
    assert str(min(found, key=lambda finding: finding.order)) == text


def test_a_run_of_finite_numbers_raises_nothing() -> None:
    assert raised(range(5), {"env_kwargs": {"step": 1000}}) is None


def large(value: str, **overrides: Any) -> dict[str, Any]:
    kwargs = {"fault": "rewards", "value": value}
    return {"env_kwargs": kwargs, "baseline": "ZeroBaseline", "normalize_adv": False} | overrides


def test_rewards_too_large_for_advantages_are_named() -> None:
    found = raised([4, 2, 3], large("3e38"))
    assert str(found) == "task 2 (mode 0), collection 0, step 0 of rollout 0: value target is inf"


def test_adapted_parameters_are_named() -> None:
    found = raised([3, 1], large("2e37", inner_lr=1000.0))
    assert found is not None and found.order == (0, 3, 1)
    assert str(found).startswith("task 1 (mode 1), inner step 1: adapted parameter policy.")
    _, tasks = collected()
    params = {"a": torch.zeros(5, 2), "b": torch.ones(5, 1, 3)}
    finite.check_adapted(params, range(5), tasks, 0)
    params["b"][4, 0, 2], params["a"][2, 1], params["a"][3, 0] = math.nan, -math.inf, math.nan
    with pytest.raises(NotFinite) as error:
        finite.check_adapted(params, [4, 1, 3, 2, 0], tasks, 1)
    assert str(error.value) == f"task 0 (mode {tasks[4].mode}), inner step 2: adapted parameter b[0, 2] is nan"


# On the master.

SPEC = ParamSpec({"layer.weight": (2, 3), "layer.bias": (1, 3)})


ASKED = [0, 2, 3, 7]


def given(**results: np.ndarray) -> Evaluate:
    """Of four tasks; answers with what it was given."""

    def answer(question: Question) -> dict[str, np.ndarray]:
        chosen = [ASKED.index(task) for task in (ASKED if question.tasks is None else question.tasks)]
        return {name: value[chosen] for name, value in results.items()}

    return Evaluate(answer, ASKED, list)


def ask(evaluate: Evaluate, function: str, tasks: Any = None) -> dict[str, np.ndarray]:
    return evaluate(Question(function, torch.zeros(SPEC.total), None, tasks))


def test_a_gradient_is_named_by_function_task_evaluation_and_tensor() -> None:
    gradient = np.ones((4, SPEC.total), np.float32)
    evaluate = checked(given(gradient=gradient, loss=np.zeros(4)), SPEC)
    assert evaluate.tasks == ASKED
    np.testing.assert_array_equal(ask(evaluate, "meta_gradient")["gradient"], gradient)
    gradient[3, 7], gradient[2, 4] = math.nan, math.inf
    ask(evaluate, "meta_gradient", tasks=[0, 2])
    with pytest.raises(NotFinite) as error:
        ask(evaluate, "meta_gradient", tasks=[2, 3, 7])
    assert str(error.value) == (
        "task 3, meta_gradient, evaluation 3 of the update: gradient of layer.weight[1, 1] is inf"
    )
    with pytest.raises(NotFinite, match=r"^task 7, hessian, evaluation 4 .*: gradient of layer.bias\[0, 1\] is nan$"):
        ask(evaluate, "hessian", tasks=[7])
    assert len(not_finite_results(SPEC, "hessian", 1, ASKED, {"gradient": gradient})) == 2
    gradient[:] = 3e38
    ask(evaluate, "meta_gradient")


def test_losses_count_where_the_gradient_is_taken_and_nowhere_else() -> None:
    """A line search meets what is not finite, and refuses it."""
    losses = np.array([1.0, 2.0, math.inf, 0.0])
    evaluate = checked(given(gradient=np.ones((4, SPEC.total)), loss=losses), SPEC)
    with pytest.raises(NotFinite, match=r"^task 3, meta_gradient, evaluation 1 of the update: loss is inf$"):
        ask(evaluate, "meta_gradient")
    evaluate = checked(given(loss=losses, outer_kl=losses), SPEC)
    ask(evaluate, "meta_loss")


def test_meta_parameters_are_named() -> None:
    parameters = torch.full((SPEC.total,), 3e38)
    require_finite(SPEC, parameters)
    parameters[5] = -math.inf
    with pytest.raises(NotFinite, match=r"^after the update: parameter layer.weight\[1, 2\] is -inf$"):
        require_finite(SPEC, parameters)


def test_an_update_too_far_is_caught_at_the_next_gradient() -> None:
    worker, parameters, items = new_worker("promp", learning_rate=1e25, num_promp_steps=3)
    worker.collect(parameters, None, items, 0)
    assert worker.block is not None
    evaluate = checked(worker.block.evaluate(), worker.algorithm.spec)
    with pytest.raises(NotFinite, match=r"^task \d, meta_gradient, evaluation 2 of the update: "):
        worker.algorithm.update(parameters, evaluate, 0)


@pytest.mark.parametrize("algorithm", ["promp", "maml", "e_maml", "mmaml"])
def test_checking_changes_no_bit(algorithm: str) -> None:
    updated = []
    for check in (False, True):
        worker, parameters, items = new_worker(algorithm)
        worker.collect(parameters, None, items, 0)
        assert worker.block is not None
        evaluate = worker.block.evaluate()
        evaluate = checked(evaluate, worker.algorithm.spec) if check else evaluate
        updated.append(worker.algorithm.update(parameters, evaluate, 0)[0])
    assert torch.equal(*updated)
