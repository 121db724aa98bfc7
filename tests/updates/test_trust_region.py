"""The trust-region update: conjugate gradients, the length of the step, the line search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms.maml import MAML
from mmaml.config.loading import load_config
from mmaml.errors import NotFinite
from mmaml.policies.distributions import Gaussian
from mmaml.updates.evaluate import Question
from mmaml.updates.outer_step import TrustRegion, conjugate_gradients
from tests.helpers.support import STEPPING, sampled, small_config


@pytest.mark.parametrize("size", [1, 5, 30])
def test_conjugate_gradients_solve_a_system_in_as_many_steps_as_it_has_rows(size: int) -> None:
    g = torch.Generator().manual_seed(size)
    root = torch.randn(size, size, generator=g, dtype=torch.float64)
    matrix, b = (
        root @ root.T + torch.eye(size, dtype=torch.float64),
        torch.randn(size, generator=g, dtype=torch.float64),
    )
    x, product = conjugate_gradients(lambda v: matrix @ v, b, size + 5)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(product, matrix @ x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("iterations", [3, 20])
def test_blocks_are_solved_as_if_each_were_alone(iterations: int) -> None:
    """Also where one is solved long before the other."""
    g = torch.Generator().manual_seed(0)
    blocks = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0, 0])
    matrix, b = torch.zeros(10, 10, dtype=torch.float64), torch.randn(10, generator=g, dtype=torch.float64)
    alone = {}
    for block, stiffness in ((0, 1.0), (1, 1e5)):
        inside = blocks == block
        root = torch.randn(int(inside.sum()), int(inside.sum()), generator=g, dtype=torch.float64)
        own = stiffness * (root @ root.T * block + torch.eye(len(root), dtype=torch.float64))
        matrix[inside.outer(inside)] = own.flatten()
        alone[block] = conjugate_gradients(lambda v, own=own: own @ v, stiffness * b[inside], iterations)
    target = torch.where(blocks == 1, 1e5, 1.0) * b
    together = conjugate_gradients(lambda v: matrix @ v, target, iterations, blocks)
    for block, expected in alone.items():
        for ours, theirs in zip(together, expected, strict=True):
            torch.testing.assert_close(ours[blocks == block], theirs, rtol=1e-9, atol=1e-12)


def test_the_step_of_a_value_function_is_as_long_as_if_it_were_alone() -> None:
    gradient, fisher = _problem()
    blocks = torch.tensor([0, 0, 0, 0, 1, 1])
    fisher[:4, 4:] = fisher[4:, :4] = 0
    gradient[4:] *= 1e3
    algo = MAML(load_config(None, {"hidden_sizes": [3], "cg_damping": 0.0, "max_kl": 0.02}, "maml"), 1, 1, Gaussian)
    algo.meta_update.blocks = blocks  # type: ignore[attr-defined]
    step, row = algo.update(torch.zeros(6), Quadratic(gradient, fisher, kl_factor=0.4), 0)
    assert row["LineSearchStep"] == 1.0
    for part in (slice(0, 4), slice(4, 6)):
        natural = np.linalg.solve(fisher[part, part], gradient[part])
        expected = -natural * np.sqrt(2 * 0.02 / (natural @ fisher[part, part] @ natural))
        np.testing.assert_allclose(step[part].numpy(), expected, rtol=1e-3)


def test_conjugate_gradients_of_nothing_are_nothing() -> None:
    x, product = conjugate_gradients(lambda v: v, torch.zeros(4, dtype=torch.float64), 10)
    assert not x.any() and not product.any()


class Quadratic:
    """J = gᵀθ + c ‖θ‖², KL = θᵀ F θ / 2 around θ = 0, of every one of three tasks."""

    tasks = (0, 1, 2)

    def __init__(self, gradient: np.ndarray, fisher: np.ndarray, bend: float = 0.0, kl_factor: float = 1.0) -> None:
        self.gradient, self.fisher, self.bend, self.kl_factor = gradient, fisher, bend, kl_factor
        self.tried: list[np.ndarray] = []

    def __call__(self, question: Question) -> dict[str, np.ndarray]:
        theta = question.parameters.double().numpy()
        if question.function == "fisher_product":
            assert question.vector is not None
            return {"product": np.tile(self.fisher @ question.vector.double().numpy(), (3, 1))}
        loss = self.gradient @ theta + self.bend * theta @ theta
        kl = self.kl_factor * theta @ self.fisher @ theta / 2
        parts = {"loss": np.full(3, loss), "inner_kl": np.zeros((3, 1)), "outer_kl": np.full(3, kl)}
        parts |= {"surrogate": np.full(3, loss), "clip_fraction": np.zeros(3)}
        if question.function == "meta_gradient":
            return parts | {"gradient": np.tile(self.gradient, (3, 1)).astype(np.float32)}
        self.tried.append(theta)
        return parts


def _update(evaluate: Quadratic, **overrides: Any) -> tuple[torch.Tensor, dict[str, float]]:
    settings = {"hidden_sizes": [3], "cg_iters": 50, "cg_damping": 0.0, "max_kl": 0.02} | overrides
    algo = MAML(load_config(None, settings, "maml"), 1, 1, Gaussian)
    assert isinstance(algo.meta_update, TrustRegion)
    return algo.update(torch.zeros(len(evaluate.gradient)), evaluate, 0)


def _problem(size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((size, size))
    return rng.standard_normal(size), root @ root.T + np.eye(size)


def test_the_step_is_the_natural_gradient_as_long_as_the_kl_allows() -> None:
    """Where the KL is what F says, the first try has a KL of δ, up to rounding, and the direction -F⁻¹ g."""
    gradient, fisher = _problem()
    evaluate = Quadratic(gradient, fisher, kl_factor=0.999999)
    parameters, row = _update(evaluate)
    natural = np.linalg.solve(fisher, gradient)
    expected = -natural * np.sqrt(2 * 0.02 / (natural @ fisher @ natural))
    np.testing.assert_allclose(parameters.numpy(), expected, rtol=1e-3)
    assert row["LineSearchStep"] == 1.0 and len(evaluate.tried) == 1
    assert row["KLOuter"] == pytest.approx(0.02, rel=1e-3)
    assert row["LossAfter"] < row["LossBefore"] == 0.0


def test_the_line_search_keeps_to_the_bound() -> None:
    """Where the KL is twice what F says, two steps of 0.8 make it: 2 · 0.64² < 1 < 2 · 0.8²."""
    evaluate = Quadratic(*_problem(), kl_factor=2.0)
    _, row = _update(evaluate)
    assert row["LineSearchStep"] == pytest.approx(0.64) and len(evaluate.tried) == 3
    assert row["KLOuter"] <= 0.02
    np.testing.assert_allclose(evaluate.tried[1], 0.8 * evaluate.tried[0], rtol=1e-5)


def test_the_line_search_wants_a_lower_loss() -> None:
    """gᵀx + c ‖x‖² is below 0 only for steps shorter than some length."""
    gradient, fisher = _problem()
    longest = np.linalg.norm(_update(Quadratic(gradient, fisher, kl_factor=0.9))[0].numpy())
    evaluate = Quadratic(gradient, fisher, bend=1.5 * np.linalg.norm(gradient) / longest, kl_factor=0.9)
    parameters, row = _update(evaluate)
    assert 0 < row["LineSearchStep"] < 1 and row["LossAfter"] < 0
    assert len(evaluate.tried) > 1 and parameters.any()


@pytest.mark.parametrize("evaluate", [Quadratic(*_problem(), kl_factor=1e9), Quadratic(*_problem(), kl_factor=np.nan)])
def test_where_no_step_will_do_the_parameters_stay(evaluate: Quadratic) -> None:
    parameters, row = _update(evaluate, ls_max_steps=4)
    assert not parameters.any() and row["LineSearchStep"] == 0 and len(evaluate.tried) == 4
    assert row["LossAfter"] == row["LossBefore"]


def test_a_gradient_of_zero_moves_nothing() -> None:
    evaluate = Quadratic(np.zeros(6), _problem()[1])
    parameters, row = _update(evaluate)
    assert not parameters.any() and row["LineSearchStep"] == 0 and not evaluate.tried


def test_damping_is_added_to_the_diagonal() -> None:
    gradient, fisher = _problem()
    parameters, _ = _update(Quadratic(gradient, fisher, kl_factor=0.5), cg_damping=10.0)
    natural = np.linalg.solve(fisher + 10 * np.eye(6), gradient)
    cosine = -(parameters.numpy() @ natural) / np.linalg.norm(parameters.numpy()) / np.linalg.norm(natural)
    assert cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    """Also one below all others, such as where a likelihood ratio overflows: the next shorter step is taken."""
    evaluate = Quadratic(*_problem())
    ask = Quadratic.__call__

    class Overflows(Quadratic):
        def __call__(self, question: Question) -> dict[str, np.ndarray]:
            result = ask(self, question)
            if question.function == "meta_loss" and len(self.tried) == 1:
                result["loss"][1] = value
                result["outer_kl"][:] = 0.0
            return result

    usual, row = _update(evaluate)
    shorter, other = _update(Overflows(*_problem()))
    assert row["LineSearchStep"] == 1.0 and 0 < other["LineSearchStep"] < 1 and shorter.norm() < usual.norm()


def test_a_mean_gradient_that_is_not_finite_is_told() -> None:
    gradient, fisher = _problem()
    gradient[2] = np.nan
    with pytest.raises(NotFinite, match="the mean of the tasks' meta-gradients is not finite"):
        _update(Quadratic(gradient, fisher))


@pytest.mark.parametrize("algorithm", sorted(STEPPING))
def test_on_sampled_tasks_the_loss_falls_and_the_kl_keeps_to_its_bound(algorithm: str) -> None:
    config = small_config(algorithm, meta_update="trpo", rollouts_per_meta_task=10, max_path_length=20, max_kl=0.005)
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    updated, row = worker.algorithm.update(parameters, worker.block.evaluate(), 0)
    assert not torch.equal(updated, parameters)
    assert row["LossAfter"] < row["LossBefore"]
    assert 1e-4 < row["KLOuter"] <= 0.005
    vector = torch.linspace(-1, 1, config.meta_batch_size)
    again = worker.block.answer(Question("meta_loss", updated, vector))
    assert float(again["outer_kl"].mean()) == row["KLOuter"]
