"""The Fisher product is the Hessian of the KL, in float64, wherever the tasks were sampled by the parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmaml import task_block as task_block_module
from mmaml.policies.distributions import Categorical
from mmaml.sampling.rollouts import Rollouts
from mmaml.task_block import TaskBlock
from mmaml.updates.evaluate import Question
from tests.helpers.objectives import VECTOR, as_if_sampled, setting

STEP = 1e-5

CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("maml", 1, {}),
    ("maml", 3, {"collect": "episodes", "inner_lr": [0.05, 0.1]}),
    ("maml", 2, {"actions": Categorical}),
    ("maml", 2, {"learn_std": False, "hidden_nonlinearity": "relu"}),
    ("meta_sgd", 2, {}),
    ("e_maml", 2, {}),
    ("dice", 2, {"collect": "episodes"}),
    ("promp", 2, {"trainable_inner_step_size": True}),
    ("mmaml", 1, {"use_betas": True}),
    ("mmaml", 3, {"collect": "episodes"}),
    ("cavia", 1, {}),
    ("cavia", 3, {"collect": "episodes", "trainable_inner_step_size": True}),
    ("cavia", 2, {"actions": Categorical}),
    ("maesn", 1, {"num_train_tasks": 3}),
    ("maesn", 3, {"num_train_tasks": 3, "adapt_latent": False, "collect": "episodes"}),
    ("maesn", 2, {"num_train_tasks": 3, "actions": Categorical}),
    ("tesp", 2, {}),
    ("tesp", 2, {"inner_lr": 2.0, "episodes_kept": "all_episodes"}),
    ("tesp", 3, {"inner_lr": 2.0, "collect": "episodes", "buffer_size": 3}),
]


def kl_gradient(algo: Any, flat: torch.Tensor, rollouts: list[Rollouts]) -> torch.Tensor:
    """∇KL(π_old,K ‖ π_θ_K) in the meta-parameters, of each task: [M, P]."""
    meta = algo.spec.per_task(flat, rollouts[0].tasks)
    kl = algo.objective(meta, rollouts, VECTOR).outer_kl
    gradients = torch.autograd.grad(kl.sum(), list(meta.values()), materialize_grads=True)
    return algo.spec.flatten_per_task(dict(zip(meta, gradients, strict=True)))


def _direction(size: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("algorithm, inner_steps, overrides", CASES)
def test_the_product_agrees_with_finite_differences(algorithm: str, inner_steps: int, overrides: dict) -> None:
    algo, flat, rollouts, _ = setting(algorithm, inner_steps, **overrides)
    as_if_sampled(algo, flat, rollouts)
    assert kl_gradient(algo, flat, rollouts).abs().max() < 1e-12
    v = _direction(len(flat))
    if overrides.get("learn_std") is False:  # then nothing moves the log-std
        algo.spec.unflatten(v)["policy.log_std"].zero_()
    ours = algo.fisher_product(flat, rollouts, v)["product"]
    plus, minus = (kl_gradient(algo, flat + sign * STEP * v, rollouts) for sign in (1, -1))
    expected = (plus - minus) / (2 * STEP)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("algorithm, overrides", [("maml", {}), ("maml", {"first_order": True}), ("mmaml", {})])
def test_the_matrix_is_symmetric_and_not_indefinite_anywhere(algorithm: str, overrides: dict) -> None:
    algo, flat, rollouts, _ = setting(algorithm, 2, **overrides)
    v, w = _direction(len(flat)), _direction(len(flat), 4)
    product, other = (algo.fisher_product(flat, rollouts, vector)["product"] for vector in (v, w))
    torch.testing.assert_close(product @ w, other @ v)
    assert (product @ v > 0).all()


def test_first_order_leaves_out_the_change_of_the_inner_gradient() -> None:
    """Then ∂θ_K/∂θ = 1, and the matrix is the Fisher matrix of θ_K itself."""
    algo, flat, rollouts, _ = setting("maml", 2, first_order=True)
    as_if_sampled(algo, flat, rollouts)
    state = algo.begin(algo.spec.per_task(flat, 3), rollouts[0].identity)
    for k in range(2):
        state = algo.adapt({}, state, rollouts[: k + 1])
    v = _direction(len(flat))
    ours = algo.fisher_product(flat, rollouts, v)["product"]
    for task in range(3):
        adapted = torch.cat([state.params[name][task].flatten() for name in algo.spec.shapes])
        alone = [collection.select(slice(task, task + 1)) for collection in rollouts[-1:]]
        expected = algo.fisher_product(adapted, alone, v)["product"][0]
        torch.testing.assert_close(ours[task], expected, rtol=1e-9, atol=1e-10)


def test_fewer_rollouts_give_the_product_of_those_rollouts() -> None:
    algo, flat, rollouts, _ = setting("maml", 2, collect="episodes")
    few = [data.only_lanes(range(2)) for data in rollouts]
    assert all(data.rewards.shape[1] == 2 for data in few)
    torch.testing.assert_close(few[0].weights.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    v = _direction(len(flat))
    ours = TaskBlock(algo, rollouts).answer(Question("fisher_product", flat, v, lanes=range(2)))["product"]
    assert np.array_equal(ours, algo.fisher_product(flat, few, v)["product"])
    assert not np.allclose(ours, algo.fisher_product(flat, rollouts, v)["product"])


def test_what_all_products_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And held for one point and one choice of tasks and lanes, as far as the memory allows, which changes no bits."""
    algo, flat, rollouts, _ = setting("maml", 2)
    asked: list[int] = []
    prepared = algo.prepared

    def counted(function: str, parameters: torch.Tensor, rollouts: list[Rollouts]) -> Any:
        asked.append(rollouts[0].tasks)
        return prepared(function, parameters, rollouts)

    monkeypatch.setattr(algo, "prepared", counted)
    vectors = [_direction(len(flat), seed) for seed in range(3)]
    expected = [algo.fisher_product(flat, rollouts, vector)["product"].numpy() for vector in vectors]
    block = TaskBlock(algo, rollouts)

    def ask(vector: torch.Tensor, **other: Any) -> np.ndarray:
        return block.answer(Question(**{"function": "fisher_product", "parameters": flat, "vector": vector} | other))[
            "product"
        ]

    for vector, product in zip(vectors, expected, strict=True):
        assert np.array_equal(ask(vector), product)
    assert asked == [3]
    assert not np.allclose(ask(vectors[0], parameters=flat + 0.1), expected[0])
    assert np.array_equal(ask(vectors[0], tasks=[0, 2]), expected[0][[0, 2]])
    ask(vectors[0], lanes=range(2))
    assert np.array_equal(ask(vectors[0]), expected[0])
    assert asked == [3, 3, 2, 3, 3]
    steps = rollouts[0].rewards[0].numel()
    monkeypatch.setattr(task_block_module, "CPU_CHUNK_STEPS", steps)  # a task at a time
    monkeypatch.setattr(task_block_module, "KEPT_STEPS", 2 * steps)
    block = TaskBlock(algo, rollouts)
    asked.clear()
    for vector, product in zip(vectors, expected, strict=True):
        assert np.array_equal(ask(vector), product)
    assert asked == [1, 1, 1, 1, 1]  # the third task's anew for each product
