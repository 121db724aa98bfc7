"""The layers of an MLP at one point, and its first and second derivatives there, for M tasks at once.

With y_0 = x, u_l = y_{l-1} W_l + b_l, y_l = f(u_l) for hidden layers, f' and f'' as functions of the output y:

    value       output = u_L
    gradient    d_L = g,  d_{l-1} = (d_l W_l^T) f'(y_{l-1}),   dW_l = y_{l-1}^T d_l
    tangent     r_l = y'_{l-1} W_l + y_{l-1} V_l + v_l,  y'_l = r_l f'(y_l)     (V, v: a direction for W, b)
    its gradient
                c_{l-1} = (c_l W_l^T + d_l V_l^T) f'(y_{l-1}) + (d_l W_l^T) f''(y_{l-1}) r_{l-1}
                dW'_l = y_{l-1}^T c_l + y'_{l-1}^T d_l

The last is the product of a Hessian with (V, v) (Pearlmutter 1994, "Fast exact multiplication by the Hessian"): that of
a loss with gradient g in the output, whose change c_L the caller knows. Without the terms of d it is the product of
the Gauss-Newton matrix. What does not depend on the direction, y, f', d and what `FirstLayer` holds, is computed once
for as many products as are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmaml.policies.batch_invariant import NARROW, affine, outer, sum_rows, tanh_

# Inputs up to which `FirstLayer` costs less than it saves.
FEW_INPUTS = 15


def forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], nonlinearity: str) -> list[Tensor]:
    """All layer outputs y_1 … y_L: [M, n, H] each."""
    outputs, y = [], x
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        y = affine(y, weight, bias)
        if layer < len(weights) - 1:
            y = tanh_(y) if nonlinearity == "tanh" else y.relu_()
        outputs.append(y)
    return outputs


def halves(parameters: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Weights and biases."""
    return parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]


class Tangent(NamedTuple):
    """A direction and how the layers move in it.

    weights, biases: V, v. rates: r_1 … r_L; the last is the change of the output. moved: y'_1 … y'_{L-1}.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    rates: Sequence[Tensor]
    moved: Sequence[Tensor]


class Layers(NamedTuple):
    """The layers at one point. inputs: y_0 … y_{L-1}, [M, n, ·]; slopes: f' at the hidden ones; weights: W_1 … W_L."""

    inputs: Sequence[Tensor]
    slopes: Sequence[Tensor]
    weights: Sequence[Tensor]

    @staticmethod
    def of(inputs: Sequence[Tensor], weights: Sequence[Tensor], nonlinearity: str) -> Layers:
        """With the slopes that follow from the outputs of the hidden layers."""
        if nonlinearity == "tanh":
            return Layers(inputs, [(y * y).neg_().add_(1) for y in inputs[1:]], weights)
        return Layers(inputs, [(y > 0).to(y.dtype) for y in inputs[1:]], weights)

    def tangent(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tangent:
        """The change of every layer in a direction (V, v)."""
        rates, moved = [affine(self.inputs[0], weights[0], biases[0])], []
        for layer in range(1, len(self.weights)):
            moved.append(rates[-1] * self.slopes[layer - 1])
            rate = affine(self.inputs[layer], weights[layer], biases[layer])
            narrow = rate.shape[-1] < NARROW
            weight = self.weights[layer]
            rates.append(affine(moved[-1], weight, rate) if narrow else rate.baddbmm_(moved[-1], weight))
        return Tangent(weights, biases, rates, moved)

    def cotangents(self, last: Tensor, bend: Bend | None = None, tangent: Tangent | None = None) -> list[Tensor]:
        """Cotangents c_1 … c_L of u_1 … u_L, from the last.

        bend, tangent: with the terms of d in this direction, whose rates serve as memory.
        """
        found = [last]
        for layer in range(len(self.weights) - 1, 0, -1):
            weight = self.weights[layer].transpose(1, 2)
            if bend is None or tangent is None or layer < bend.lowest:
                c = torch.bmm(found[-1], weight).mul_(self.slopes[layer - 1])
            else:
                c = torch.bmm(bend.deltas[layer], tangent.weights[layer].transpose(1, 2)).baddbmm_(found[-1], weight)
                c.mul_(self.slopes[layer - 1])
                if bend.curved:
                    curving = tangent.rates[layer - 1].mul_(self.inputs[layer]).mul_(bend.deltas[layer - 1])
                    c.sub_(curving, alpha=2)
            found.append(c)
        return found[::-1]

    def gradient(
        self, cotangents: Sequence[Tensor], bend: Bend | None = None, tangent: Tangent | None = None
    ) -> list[Tensor]:
        """What the cotangents are in all weights and then all biases; with the terms of d as above."""
        weights, biases = list(map(outer, self.inputs, cotangents)), list(map(sum_rows, cotangents))
        if bend is not None and tangent is not None:
            for layer in range(bend.lowest, len(weights)):
                weights[layer] = weights[layer] + outer(tangent.moved[layer - 1], bend.deltas[layer])
            if bend.first is not None:
                bend.first.add_to(weights, biases, tangent)
        return [*weights, *biases]


class Bend(NamedTuple):
    """The second-order terms of a loss with gradient d_L in the output.

    deltas: d_1 … d_L. curved: whether f'' is -2 y f', as of tanh, so that (d_l W_l^T) f'' = -2 y d; else it is 0.
    first: what takes the terms of the first two layers, where that pays.
    """

    deltas: Sequence[Tensor]
    curved: bool
    first: FirstLayer | None = None

    @property
    def lowest(self) -> int:
        """Index from 0 on of the first layer whose terms are not in `first`."""
        return 1 if self.first is None else 2

    def for_many(self, layers: Layers) -> Bend:
        """For many products."""
        if len(layers.weights) == 1 or layers.inputs[0].shape[-1] > FEW_INPUTS:
            return self
        return self._replace(first=FirstLayer(layers, self))


class FirstLayer:
    """The terms of d that the first two layers have, for a network of few inputs, without products over the steps.

    r_1 = x̃ Ṽ, where x̃ = [x, 1] and Ṽ = [V_1; v_1], so that these terms are a quadratic form:

        Σ_n d_2 · (y'_1 V_2) + ½ (d_2 W_2^T) f''_1 · r_1²
            = Σ_jih C[j, i, h] V_2[h, j] Ṽ[i, h] - Σ_ikh E[i, k, h] Ṽ[i, h] Ṽ[k, h]
        C[j, i, h] = Σ_n d_2[j] x̃[i] f'_1[h],   E[i, k, h] = Σ_n x̃[i] x̃[k] (y_1 d_1)[h]
    """

    def __init__(self, layers: Layers, bend: Bend) -> None:
        x, slope, above = layers.inputs[0], layers.slopes[0], bend.deltas[1]
        ones = torch.ones_like(x[..., :1])
        x = torch.cat([x, ones], -1)
        columns = [x[..., i : i + 1] for i in range(x.shape[-1])]
        self.mixed = torch.stack([outer(above, slope * column) for column in columns], 2)
        curving = [layers.inputs[1] * bend.deltas[0] * column for column in columns] if bend.curved else []
        self.pure = [outer(x, values) for values in curving]

    def add_to(self, weights: list[Tensor], biases: list[Tensor], tangent: Tangent) -> None:
        """Add the gradient of the form in the direction of the tangent."""
        moved = torch.cat([tangent.weights[0], tangent.biases[0]], 1)
        above = tangent.weights[1].transpose(1, 2)
        rows = [moved[:, i : i + 1] for i in range(moved.shape[1])]
        for i, row in enumerate(rows):
            weights[1] = weights[1] + (self.mixed[:, :, i] * row).transpose(1, 2)
        first = sum_rows((self.mixed * above[:, :, None]).flatten(2)).view(moved.shape)
        for row, pure in zip(rows, self.pure, strict=False):
            first.sub_(pure * row, alpha=2)
        weights[0], biases[0] = weights[0] + first[:, :-1], biases[0] + first[:, -1:]
