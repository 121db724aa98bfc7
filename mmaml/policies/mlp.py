"""A batch of MLPs, one a task, as one differentiable primitive.

Meta-learning differentiates the MLP twice: once in the inner step and once through it. Left to autograd,
the second pass runs through a graph of small unfused operations. Here value, gradient and the derivative
of the gradient are written out (`mmaml.policies.layers`).

`tests/policies/test_mlp.py` checks all three against finite differences and against plain autograd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from mmaml.policies.batch_invariant import broadcast_rows, columns, refuse_third_derivative, row_product, tanh
from mmaml.policies.layers import Bend, Layers, forward, halves
from mmaml.policies.params import Params


def glorot_uniform(rng: np.random.Generator, inputs: int, outputs: int) -> Tensor:
    """Weights [inputs, outputs] ~ U(±sqrt(6 / (inputs + outputs))) (Glorot & Bengio 2010)."""
    limit = math.sqrt(6.0 / (inputs + outputs))
    return torch.from_numpy(rng.uniform(-limit, limit, (inputs, outputs)).astype(np.float32))


class MLP:
    """An MLP of each task; it holds names and sizes, and its parameters are passed to every call.

    prefix: of the names, "prefix.layer.weight" [inputs, outputs] and "prefix.layer.bias" [1, outputs]. sizes: of the
    input, of each hidden layer and of the output; the last layer is linear. nonlinearity: "tanh" or "relu".
    context_size: C of a network of [x, c], which `conditioned` makes one of x; 0 for one of x alone.
    """

    def __init__(self, prefix: str, sizes: Sequence[int], nonlinearity: str, context_size: int = 0) -> None:
        self.prefix, self.sizes, self.nonlinearity = prefix, tuple(sizes), nonlinearity
        self.context_size, self.context_weight = context_size, f"{prefix}.context"
        self.depth = len(self.sizes) - 1
        self.shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            self.shapes[f"{prefix}.{layer}.weight"] = (inputs, outputs)
            self.shapes[f"{prefix}.{layer}.bias"] = (1, outputs)
        if context_size:
            self.shapes[self.context_weight] = (context_size, self.sizes[1])

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zero biases."""
        params = {
            name: glorot_uniform(rng, *shape) if name.endswith("weight") else torch.zeros(shape)
            for name, shape in self.shapes.items()
        }
        if self.context_size:  # the first layer is one of [x, c]
            inputs = self.sizes[0]
            both = glorot_uniform(rng, inputs + self.context_size, self.sizes[1])
            params |= {f"{self.prefix}.0.weight": both[:inputs].clone(), self.context_weight: both[inputs:].clone()}
        return params

    def conditioned(self, params: Params, context: Tensor, spread: Tensor | None = None) -> Params:
        """Parameters of the network of [x, c], c being the context, as a function of x alone.

        A context that is the same for every x is a change of the first bias. context, spread: [M, 1, C]. With a
        spread, c = context + spread ⊙ ε, and the result is a function of [x, ε]. Differentiable in all.
        """
        first, weight = f"{self.prefix}.0", params[self.context_weight]
        changed = {f"{first}.bias": params[f"{first}.bias"] + row_product(context, weight)}
        if spread is not None:
            scaled = weight * columns(spread, weight.shape[2])
            changed[f"{first}.weight"] = torch.cat([params[f"{first}.weight"], scaled], dim=1)
        return params | changed

    def of_data(self, params: Params, x: Tensor) -> Tensor:
        """[M, n, inputs] -> [M, n, outputs], twice differentiable in the parameters, by `mlp`; x is data."""
        names = [f"{self.prefix}.{layer}" for layer in range(self.depth)]
        weights = [params[f"{name}.weight"] for name in names]
        return mlp(x, weights, [params[f"{name}.bias"] for name in names], self.nonlinearity)

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """[M, n, inputs] -> [M, n, outputs], differentiable in the parameters and in x any number of times."""
        for layer in range(self.depth):
            bias = broadcast_rows(params[f"{self.prefix}.{layer}.bias"], x.shape[1])
            x = torch.baddbmm(bias, x, params[f"{self.prefix}.{layer}.weight"])
            if layer < self.depth - 1:
                x = x.relu() if self.nonlinearity == "relu" else tanh(x)
        return x


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], nonlinearity: str) -> Tensor:
    """Apply one MLP per task.

    x: [M, n, inputs], treated as data (no gradient flows to it).
    weights, biases: per layer [M, inputs, outputs] and [M, 1, outputs]; the last layer is linear.
    nonlinearity: "tanh" or "relu". Returns [M, n, outputs], twice differentiable in weights and biases.
    Within `cut_networks` the output is a leaf instead.
    """
    if not torch.is_grad_enabled():
        return forward(x, weights, biases, nonlinearity)[-1]
    if _cuts:
        _cuts[-1].append(CutNetwork(x, [*weights, *biases], nonlinearity))
        return _cuts[-1][-1].output
    return _MLP.apply(x, nonlinearity, *weights, *biases)


class CutNetwork:
    """One evaluation of an MLP within `cut_networks`.

    parameters: weights and biases, with their graph. nonlinearity, layers: the network there. output [M, n, outputs]:
    a leaf.
    """

    def __init__(self, x: Tensor, parameters: Sequence[Tensor], nonlinearity: str) -> None:
        self.parameters, self.nonlinearity = list(parameters), nonlinearity
        with torch.no_grad():
            weights, biases = halves([value.detach() for value in parameters])
            *hidden, output = forward(x, weights, biases, nonlinearity)
            self.layers = Layers.of([x, *hidden], weights, nonlinearity)
        self.output = output.requires_grad_()


_cuts: list[list[CutNetwork]] = []


@contextmanager
def cut_networks() -> Iterator[list[CutNetwork]]:
    """Within it, what `mlp` puts out does not depend on its parameters: the graph is cut there, and each cut listed.

    So a loss becomes a small graph over the networks' outputs, and the networks are differentiated by their `Layers`.
    """
    _cuts.append([])
    try:
        yield _cuts[-1]
    finally:
        _cuts.pop()


class _MLP(Function):
    @staticmethod
    def forward(ctx, x, nonlinearity, *parameters):  # type: ignore[override]
        weights, biases = halves(parameters)
        *hidden, output = forward(x, weights, biases, nonlinearity)
        layers = Layers.of([x, *hidden], weights, nonlinearity)
        ctx.nonlinearity, ctx.depth = nonlinearity, len(weights)
        # The slopes are kept, not found again: the meta-gradient comes here twice.
        ctx.save_for_backward(*layers.inputs, *layers.slopes, *parameters)
        return output

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        parameters = ctx.saved_tensors[-2 * ctx.depth :]
        constants = [value.detach() for value in ctx.saved_tensors[: -2 * ctx.depth]]
        return None, None, *_MLPGradient.apply(grad, ctx.nonlinearity, ctx.depth, *constants, *parameters)


class _MLPGradient(Function):
    """The gradient of <grad, mlp(x)> in weights and biases, itself differentiable in grad, weights, biases."""

    @staticmethod
    def forward(ctx, grad, nonlinearity, depth, *tensors):  # type: ignore[override]
        weights, _ = halves(tensors[-2 * depth :])
        layers = Layers(tensors[:depth], tensors[depth : -2 * depth], weights, nonlinearity)
        deltas = layers.cotangents(grad)
        ctx.nonlinearity, ctx.depth = nonlinearity, depth
        ctx.save_for_backward(*layers.inputs, *layers.weights, *deltas, *layers.slopes)
        return tuple(layers.gradient(deltas))

    @staticmethod
    def backward(ctx, *direction):  # type: ignore[override]
        refuse_third_derivative("mlp")
        depth, saved = ctx.depth, ctx.saved_tensors
        layers = Layers(saved[:depth], saved[3 * depth :], saved[depth : 2 * depth], ctx.nonlinearity)
        bend = Bend(saved[2 * depth : 3 * depth], curved=ctx.nonlinearity == "tanh")
        tangent = layers.tangent(*halves(direction))
        # Nothing arrives at the output, u_L being linear in the tangents.
        cotangents = layers.cotangents(torch.zeros_like(tangent.rates[-1]), bend, tangent)
        gradient = layers.gradient(cotangents, bend, tangent)
        return tangent.rates[-1], None, None, *(None,) * (depth + len(layers.slopes)), *gradient
