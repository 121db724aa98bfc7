"""The batched MLP primitive against plain autograd and finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmaml.policies.mlp import MLP, mlp


def _network(depth: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, list, list]:
    torch.manual_seed(depth)
    sizes = [3, *[5, 4, 6][:depth], 2]
    x = torch.randn(2, 7, 3, dtype=dtype)
    weights = [torch.randn(2, i, o, dtype=dtype, requires_grad=True) for i, o in itertools.pairwise(sizes)]
    biases = [torch.randn(2, 1, o, dtype=dtype, requires_grad=True) for o in sizes[1:]]
    return x, weights, biases


def _plain(x, weights, biases, nonlinearity):
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight + bias
        if layer < len(weights) - 1:
            x = torch.tanh(x) if nonlinearity == "tanh" else torch.relu(x)
    return x


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_value_gradient_and_second_derivative_equal_plain_autograd(depth: int, nonlinearity: str) -> None:
    x, weights, biases = _network(depth)
    parameters = [*weights, *biases]

    def through_a_gradient_step(network) -> tuple[torch.Tensor, ...]:
        output = network(x, weights, biases, nonlinearity)
        inner = torch.autograd.grad((output.exp().mean() + output.square().sum()), parameters, create_graph=True)
        moved = [p - 0.1 * g for p, g in zip(parameters, inner, strict=True)]
        moved_output = network(x, moved[: depth + 1], moved[depth + 1 :], nonlinearity)
        outer = torch.autograd.grad(moved_output.sin().sum() + output.sum(), parameters)
        return output, *inner, *outer

    for ours, plain in zip(through_a_gradient_step(mlp), through_a_gradient_step(_plain), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_derivatives_agree_with_finite_differences(depth: int) -> None:
    x, weights, biases = _network(depth)

    def function(*parameters):
        return mlp(x, parameters[: depth + 1], parameters[depth + 1 :], "tanh")

    assert torch.autograd.gradcheck(function, (*weights, *biases))
    assert torch.autograd.gradgradcheck(function, (*weights, *biases))


def test_a_task_alone_has_the_bits_it_has_in_a_batch() -> None:
    x, weights, biases = _network(2, torch.float32)
    together = mlp(x, weights, biases, "tanh")
    for task in range(2):
        own = slice(task, task + 1)
        alone = mlp(x[own], [w[own] for w in weights], [b[own] for b in biases], "tanh")
        assert torch.equal(alone[0], together[task])


def test_a_third_derivative_is_refused() -> None:
    x, weights, biases = _network(1)
    value = mlp(x, weights, biases, "tanh").square().sum()
    (first,) = torch.autograd.grad(value, weights[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="mlp: expected to be differentiated twice at most"):
        torch.autograd.grad(first.square().sum(), weights[0], create_graph=True)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_of_features_it_is_the_same_function_with_a_gradient_to_them(nonlinearity: str) -> None:
    network = MLP("head", (4, 5, 2), nonlinearity)
    g = torch.Generator().manual_seed(0)
    params = {name: torch.randn(3, *shape, generator=g, dtype=torch.float64) for name, shape in network.shapes.items()}
    x = torch.randn(3, 6, 4, generator=g, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(network(params, x), network.of_data(params, x), rtol=1e-12, atol=1e-12)
    names = list(params)
    values = [value.requires_grad_() for value in params.values()]
    assert torch.autograd.gradcheck(lambda x, *v: network(dict(zip(names, v, strict=True)), x), (x, *values))
    single = {name: value.detach().float() for name, value in params.items()}
    alone = {name: value[1:2] for name, value in single.items()}
    assert torch.equal(network(alone, x[1:2].float()), network(single, x.float())[1:2])
