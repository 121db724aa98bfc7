"""A batch of MLPs, one a task, as one differentiable primitive.

Meta-learning differentiates the MLP twice: once in the inner step and once through it. Left to autograd,
the second pass runs through a graph of small unfused operations. Here value, gradient and the derivative
of the gradient are written out (Pearlmutter 1994, "Fast exact multiplication by the Hessian"): the second
derivative is a forward pass of directional derivatives followed by its reverse.

With y_0 = x, u_l = y_{l-1} W_l + b_l, y_l = f(u_l) for hidden layers, f' as a function of the output y:

    value       output = u_L
    gradient    d_L = g,  d_{l-1} = (d_l W_l^T) f'(y_{l-1}),   dW_l = y_{l-1}^T d_l
    tangent     r_l = y'_{l-1} W_l + y_{l-1} V_l + v_l,  y'_l = r_l f'(y_l)     (V, v: a direction for W, b)

`tests/policies/test_mlp.py` checks all three against finite differences and against plain autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from mmaml.policies.batch_invariant import (
    affine,
    broadcast_rows,
    columns,
    outer,
    refuse_third_derivative,
    row_product,
    sum_rows,
    tanh,
    tanh_,
)
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
    """
    if not torch.is_grad_enabled():
        return _forward(x, weights, biases, nonlinearity)[-1]
    return _MLP.apply(x, nonlinearity, *weights, *biases)


def _forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], nonlinearity: str) -> list[Tensor]:
    """All layer outputs y_1 … y_L."""
    outputs, y = [], x
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        y = affine(y, weight, bias)
        if layer < len(weights) - 1:
            y = tanh_(y) if nonlinearity == "tanh" else y.relu_()
        outputs.append(y)
    return outputs


def _slope(y: Tensor, nonlinearity: str) -> Tensor:
    """f'(u), from the layer's output y = f(u)."""
    if nonlinearity == "tanh":
        return (y * y).neg_().add_(1)
    return (y > 0).to(y.dtype)


class _MLP(Function):
    @staticmethod
    def forward(ctx, x, nonlinearity, *parameters):  # type: ignore[override]
        depth = len(parameters) // 2
        weights, biases = parameters[:depth], parameters[depth:]
        *hidden, output = _forward(x, weights, biases, nonlinearity)
        ctx.nonlinearity, ctx.depth = nonlinearity, depth
        # The slopes are kept, not found again: the meta-gradient comes here twice.
        ctx.save_for_backward(x, *hidden, *(_slope(y, nonlinearity) for y in hidden), *parameters)
        return output

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        data = ctx.saved_tensors[: 2 * ctx.depth - 1]
        parameters = ctx.saved_tensors[2 * ctx.depth - 1 :]
        constants = [value.detach() for value in data]
        return None, None, *_MLPGradient.apply(grad, ctx.nonlinearity, ctx.depth, *constants, *parameters)


class _MLPGradient(Function):
    """The gradient of <grad, mlp(x)> in weights and biases, itself differentiable in grad, weights, biases."""

    @staticmethod
    def forward(ctx, grad, nonlinearity, depth, *tensors):  # type: ignore[override]
        inputs, slopes, weights = (
            tensors[:depth],
            tensors[depth : 2 * depth - 1],
            tensors[2 * depth - 1 : 3 * depth - 1],
        )
        deltas = [grad]
        for layer in range(depth - 1, 0, -1):
            deltas.append(torch.bmm(deltas[-1], weights[layer].transpose(1, 2)).mul_(slopes[layer - 1]))
        deltas = deltas[::-1]
        ctx.nonlinearity, ctx.depth = nonlinearity, depth
        ctx.save_for_backward(*inputs, *weights, *deltas, *slopes)
        return *map(outer, inputs, deltas), *map(sum_rows, deltas)

    @staticmethod
    def backward(ctx, *direction):  # type: ignore[override]
        refuse_third_derivative("mlp")
        depth, saved = ctx.depth, ctx.saved_tensors
        inputs, weights = saved[:depth], saved[depth : 2 * depth]
        deltas, slopes = saved[2 * depth : 3 * depth], saved[3 * depth :]
        v_weights, v_biases = direction[:depth], direction[depth:]

        # Tangents r_l and y'_l of every layer in the given direction; the last r is the derivative in grad.
        rates, tangents = [affine(inputs[0], v_weights[0], v_biases[0])], []
        for layer in range(1, depth):
            tangents.append(rates[-1] * slopes[layer - 1])
            from_below = affine(inputs[layer], v_weights[layer], v_biases[layer])
            rates.append(from_below.baddbmm_(tangents[-1], weights[layer]))

        # Their reverse. c: the cotangent of u_l; at the output it is zero, u_L being linear in the tangents.
        grad_weights, grad_biases = [torch.zeros_like(weights[-1])], [torch.zeros_like(deltas[-1][:, :1])]
        below = None
        for layer in range(depth - 1, 0, -1):
            grad_weights[-1] = grad_weights[-1] + outer(tangents[layer - 1], deltas[layer])
            arriving = torch.bmm(deltas[layer], v_weights[layer].transpose(1, 2))
            if below is not None:
                arriving.baddbmm_(below, weights[layer].transpose(1, 2))
            c = arriving.mul_(slopes[layer - 1])
            if ctx.nonlinearity == "tanh":  # f'' = -2 y f', and (d_{l+1} W_{l+1}^T) f' = d_l
                c.sub_(rates[layer - 1].mul_(inputs[layer]).mul_(deltas[layer - 1]), alpha=2)
            grad_weights.append(outer(inputs[layer - 1], c))
            grad_biases.append(sum_rows(c))
            below = c
        return rates[-1], None, None, *(None,) * (2 * depth - 1), *grad_weights[::-1], *grad_biases[::-1]
