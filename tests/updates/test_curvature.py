"""Products with Hessians by the networks' written-out derivatives, against autograd alone, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmaml.algorithms.maml import step_loss_of, values_of, with_values
from mmaml.policies.distributions import Categorical
from mmaml.policies.layers import FEW_INPUTS
from mmaml.policies.mlp import MLP, cut_networks
from mmaml.policies.params import Derivative, Params
from mmaml.updates.curvature import Curvature
from tests.helpers.objectives import setting

CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("maml", 1, {}),
    ("maml", 1, {"hidden_sizes": [4]}),
    ("maml", 1, {"hidden_sizes": [5, 4, 3], "hidden_nonlinearity": "relu"}),
    ("maml", 1, {"actions": Categorical}),
    ("maml", 1, {"learn_std": False}),
    ("dice", 1, {"collect": "episodes"}),
    ("promp", 1, {}),
    ("mmaml", 2, {"use_betas": True}),
    ("cavia", 1, {}),
    ("maesn", 1, {"num_train_tasks": 3}),
    ("tesp", 2, {}),
    ("rllib_maml", 1, {"entropy_coeff": 0.1}),
]


def close(ours: Params, expected: Params) -> None:
    """To 1e-10 of the largest entry of all."""
    scale = max(float(value.abs().max()) for value in expected.values())
    assert scale > 1e-3 and ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-10 * scale)


def directions(values: Params) -> Params:
    g = torch.Generator().manual_seed(5)
    return {name: torch.randn(value.shape, generator=g, dtype=value.dtype) for name, value in values.items()}


@pytest.mark.parametrize("algorithm, inner_steps, overrides", CASES)
def test_of_an_inner_loss_and_of_a_divergence_they_are_those_of_autograd(
    algorithm: str, inner_steps: int, overrides: dict[str, Any]
) -> None:
    algo, flat, rollouts, _ = setting(algorithm, inner_steps, **overrides)
    meta = {name: value.detach() for name, value in algo.spec.per_task(flat, rollouts[0].tasks).items()}
    state = algo.begin(meta, rollouts[0].identity)
    for k in range(inner_steps - 1):
        state, _ = algo.inner_step(meta, state, rollouts[: k + 1], create_graph=False)
    values, data = values_of(state), rollouts[inner_steps - 1]

    inner_loss = step_loss_of(algo, state, data)

    def divergence(at: Params) -> tuple[Tensor, tuple]:
        return algo.divergence(with_values(state, at), data), ()

    direction = directions(values)
    with cut_networks() as networks:
        inner_loss({name: value.requires_grad_() for name, value in values.items()})
    assert networks, "nothing is written out"
    for loss, at_minimum in ((inner_loss, False), (divergence, True)):
        ours, autograd = Curvature(loss, values, at_minimum), Curvature(loss, values, cut=False)
        for _ in range(2):  # a product leaves what is computed once as it was
            close(ours.product(direction), autograd.product(direction))
    ours, autograd = Curvature(inner_loss, values), Curvature(inner_loss, values, cut=False)
    close(ours.gradient, autograd.gradient)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("inputs", [1, FEW_INPUTS, FEW_INPUTS + 1])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_networks_of_few_and_of_many_inputs(inputs: int, hidden: tuple[int, ...], nonlinearity: str) -> None:
    network = MLP("net", (inputs, *hidden, 2), nonlinearity)
    g = torch.Generator().manual_seed(0)
    values = {name: torch.randn(2, *shape, generator=g, dtype=torch.float64) for name, shape in network.shapes.items()}
    x = torch.randn(2, 30, inputs, generator=g, dtype=torch.float64)

    def loss(at: Params) -> tuple[Tensor, tuple]:
        return network.of_data(at, x).sin().sum((1, 2)), ()

    direction = directions(values)
    close(Curvature(loss, values).product(direction), Curvature(loss, values, cut=False).product(direction))


def test_a_network_whose_weights_are_the_output_of_another_is_left_to_autograd() -> None:
    first, second = MLP("first", (3, 4, 2), "tanh"), MLP("second", (2, 4, 1), "tanh")
    g = torch.Generator().manual_seed(0)
    shapes = first.shapes | second.shapes
    values = {name: torch.randn(2, *shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    x, y = (torch.randn(2, 5, size, generator=g, dtype=torch.float64) for size in (3, 2))

    def loss(at: Params) -> tuple[Tensor, tuple]:
        scale = first.of_data(at, x).sum((1, 2)).view(2, 1, 1)
        return second.of_data(at | {"second.0.bias": at["second.0.bias"] * scale}, y).square().sum((1, 2)), ()

    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    slopes = torch.autograd.grad(loss(leaves)[0].sum(), list(leaves.values()), create_graph=True)
    direction = directions(values)
    along = sum((slope * direction[name]).sum() for name, slope in zip(leaves, slopes, strict=True))
    expected = torch.autograd.grad(along, list(leaves.values()))  # type: ignore[arg-type]
    close(Curvature(loss, values).product(direction), dict(zip(leaves, expected, strict=True)))


def test_a_derivative_its_transpose_and_its_bend() -> None:
    """Of f(a, b) = (sin(a) b, c), c constant."""
    g = torch.Generator().manual_seed(0)
    a, b, v, u, w, c = (torch.randn(4, generator=g, dtype=torch.float64) for _ in range(6))
    a.requires_grad_(), b.requires_grad_()
    derivative = Derivative([a.sin() * b, c], [a, b], [w, c])
    (moved, constant), (bent_a, bent_b) = derivative.tangent([v, u])
    torch.testing.assert_close(moved, (a.cos() * b * v + a.sin() * u).detach())
    assert not constant.any()
    torch.testing.assert_close(bent_a, (w * (-a.sin() * b * v + a.cos() * u)).detach())
    torch.testing.assert_close(bent_b, (w * a.cos() * v).detach())
    for ours, expected in zip(derivative.transposed([u, c]), (u * a.cos() * b, u * a.sin()), strict=True):
        torch.testing.assert_close(ours, expected.detach())
