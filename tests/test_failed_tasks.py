"""Tasks that are sampled later than others, and tasks that drop out of a meta-batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms import ALGORITHMS
from mmaml.rollouts import Rollouts
from mmaml.seeding import generator
from mmaml.worker import Worker
from tests.support import small_config

TASKS = 5


def new_worker(algorithm: str, **overrides: Any) -> tuple[Worker, torch.Tensor, list[Any]]:
    """A worker, initial parameters and the items of a meta-batch."""
    config = small_config(algorithm, **{"meta_batch_size": TASKS, "num_inner_grad_steps": 2} | overrides)
    worker = Worker(config)
    parameters = worker.algorithm.spec.flatten(worker.algorithm.init(generator(config.seed, "parameters")))
    return worker, parameters, list(enumerate(worker.sample_tasks(TASKS, 0)))


def assert_same_fields(ours: Rollouts, theirs: Rollouts) -> None:
    for name, value in ours.fields().items():
        assert torch.equal(value.nan_to_num(9e9), theirs.fields()[name].nan_to_num(9e9)), name


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("parts", [((0, 1, 2), (3, 4)), ((3, 0), (4, 2), (1,))])
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
    together, apart = whole.block.evaluator(), worker.block.evaluator()
    assert together.tasks == apart.tasks == list(range(TASKS))
    for function in worker.algorithm.functions:
        vector = direction if function == "fisher_product" else credits
        for chosen in (None, [1, 3, 4]):
            expected, result = (each(function, moved, vector, chosen) for each in (together, apart))
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
    worker, parameters, items = new_worker(algorithm, meta_update=meta_update, num_minibatches=4)
    worker.collect(parameters, None, [items[1], items[4]], 0)
    assert worker.block is not None
    evaluate = worker.block.evaluator()
    assert evaluate.tasks == [1, 4]
    updated, row = worker.algorithm.update(parameters, evaluate, 0)
    assert torch.isfinite(updated).all() and not torch.equal(updated, parameters)
    assert np.isfinite(list(row.values())).all()


def test_the_credits_compare_the_tasks_that_are_left() -> None:
    """The meta-gradient of the first step is that of a meta-batch which never had the missing ones."""
    gradients = []
    for positions in ((0, 1, 2, 3, 4), (1, 3)):
        worker, parameters, items = new_worker("e_maml", meta_update="vpg")
        worker.collect(parameters, None, [items[i] for i in positions], 0)
        assert worker.block is not None
        evaluate = worker.block.evaluator()
        returns = evaluate("returns", parameters, tasks=[1, 3])["return"][:, -1]
        if len(positions) == 2:
            row = worker.algorithm.update(parameters, evaluate, 0)[1]
        credits = torch.zeros(TASKS)
        credits[[1, 3]] = torch.from_numpy((returns - returns.mean()) / (returns.std() + 1e-8)).float()
        gradients.append(evaluate("meta_gradient", parameters, credits, [1, 3])["loss"])
    np.testing.assert_array_equal(*gradients)
    assert row["LossBefore"] == float(gradients[0].mean())
