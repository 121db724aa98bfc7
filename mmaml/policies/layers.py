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

from mmaml.policies import kernel
from mmaml.policies.batch_invariant import NARROW, affine, outer, sum_rows, tanh_

# Inputs up to which `FirstLayer` costs less than it saves.
FEW_INPUTS = 15


def forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], nonlinearity: str) -> list[Tensor]:
    """All layer outputs y_1 … y_L: [M, n, H] each."""
    outputs, y = [], x
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        y = _layer(y, weight, bias, nonlinearity if layer < len(weights) - 1 else "linear")
        outputs.append(y)
    return outputs


def _layer(x: Tensor, weight: Tensor, bias: Tensor, nonlinearity: str) -> Tensor:
    if kernel.serves(x, weight, bias):
        return kernel.layer([(x, weight)], bias, nonlinearity)
    u = affine(x, weight, bias)
    return tanh_(u) if nonlinearity == "tanh" else u.relu_() if nonlinearity == "relu" else u


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
    """The layers at one point. inputs: y_0 … y_{L-1}, [M, n, ·]; weights: W_1 … W_L.

    slopes: f' at the hidden ones; none where the kernel finds them on its way.
    """

    inputs: Sequence[Tensor]
    slopes: Sequence[Tensor]
    weights: Sequence[Tensor]
    nonlinearity: str

    @staticmethod
    def of(inputs: Sequence[Tensor], weights: Sequence[Tensor], nonlinearity: str) -> Layers:
        """With the slopes that follow from the outputs of the hidden layers."""
        kept = [] if kernel.serves(*inputs, *weights) else [slope(y, nonlinearity) for y in inputs[1:]]
        return Layers(inputs, kept, weights, nonlinearity)

    def tangent(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tangent:
        """The change of every layer in a direction (V, v)."""
        rates: list[Tensor] = []
        moved: list[Tensor] = []
        for layer, direction in enumerate(zip(weights, biases, strict=True)):
            rate, change = self._rate(layer, *direction, moved[-1] if moved else None)
            rates.append(rate)
            if change is not None:
                moved.append(change)
        return Tangent(weights, biases, rates, moved)

    def _rate(self, layer: int, weight: Tensor, bias: Tensor, moved: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """r of a layer and, if it is hidden, y' of its output. moved: y' of its input, which may change."""
        x, own, is_last = self.inputs[layer], self.weights[layer], layer == len(self.weights) - 1
        if self._is_compiled:
            terms = [(x, weight)] if moved is None else [(x, weight), (moved, own)]
            if is_last:
                return kernel.layer(terms, bias), None
            return kernel.rate(terms, bias, self.inputs[layer + 1], self.nonlinearity)
        rate = affine(x, weight, bias)
        if moved is not None:
            rate = affine(moved, own, rate) if rate.shape[-1] < NARROW else rate.baddbmm_(moved, own)
        return rate, None if is_last else rate * self.slopes[layer]

    def cotangents(self, last: Tensor, bend: Bend | None = None, tangent: Tangent | None = None) -> list[Tensor]:
        """Cotangents c_1 … c_L of u_1 … u_L, from the last.

        bend, tangent: with the terms of d in this direction, whose rates serve as memory.
        """
        found = [last]
        for layer in range(len(self.weights) - 1, 0, -1):
            if bend is None or tangent is None or layer < bend.lowest:
                found.append(self._back(layer, found[-1]))
            else:
                found.append(self._bent_back(layer, found[-1], bend, tangent))
        return found[::-1]

    def _back(self, layer: int, above: Tensor) -> Tensor:
        weight = self.weights[layer].transpose(1, 2)
        if self._is_compiled:
            return kernel.back([(above, weight)], self.inputs[layer], self.nonlinearity)
        return torch.bmm(above, weight).mul_(self.slopes[layer - 1])

    def _bent_back(self, layer: int, above: Tensor, bend: Bend, tangent: Tangent) -> Tensor:
        weight, direction = self.weights[layer].transpose(1, 2), tangent.weights[layer].transpose(1, 2)
        y, rate = self.inputs[layer], tangent.rates[layer - 1]
        delta, above_delta = bend.deltas[layer - 1 : layer + 1]
        if self._is_compiled:
            terms = [(above_delta, direction), (above, weight)]
            if bend.curved:
                return kernel.bent_back(terms, y, rate, delta)
            return kernel.back(terms, y, self.nonlinearity)
        c = torch.bmm(above_delta, direction).baddbmm_(above, weight).mul_(self.slopes[layer - 1])
        return c.sub_(rate.mul_(y).mul_(delta), alpha=2) if bend.curved else c

    def gradient(
        self, cotangents: Sequence[Tensor], bend: Bend | None = None, tangent: Tangent | None = None
    ) -> list[Tensor]:
        """What the cotangents are in all weights and then all biases; with the terms of d as above."""
        pairs = [[pair] for pair in zip(self.inputs, cotangents, strict=True)]
        if bend is not None and tangent is not None:
            for layer in range(bend.lowest, len(pairs)):
                pairs[layer].append((tangent.moved[layer - 1], bend.deltas[layer]))
        weights, biases = map(list, zip(*map(_outer, pairs), strict=True))
        if bend is not None and tangent is not None and bend.first is not None:
            bend.first.add_to(weights, biases, tangent)
        return [*weights, *biases]

    @property
    def _is_compiled(self) -> bool:
        return kernel.serves(*self.inputs, *self.weights)


def slope(y: Tensor, nonlinearity: str) -> Tensor:
    """f', as a function of the output."""
    return (y * y).neg_().add_(1) if nonlinearity == "tanh" else (y > 0).to(y.dtype)


def _outer(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Σ x^T d over pairs, and the sum of the first d over rows."""
    if kernel.serves(*pairs[0]):
        return kernel.outer(pairs)
    weight, *more = [outer(x, d) for x, d in pairs]
    return sum(more, start=weight), sum_rows(pairs[0][1])


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
        x, above = layers.inputs[0], bend.deltas[1]
        slope_1 = layers.slopes[0] if layers.slopes else slope(layers.inputs[1], layers.nonlinearity)
        ones = torch.ones_like(x[..., :1])
        x = torch.cat([x, ones], -1)
        columns = [x[..., i : i + 1] for i in range(x.shape[-1])]
        self.mixed = torch.stack([_outer([(above, slope_1 * column)])[0] for column in columns], 2)
        curving = [layers.inputs[1] * bend.deltas[0] * column for column in columns] if bend.curved else []
        self.pure = [_outer([(x, values)])[0] for values in curving]

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
