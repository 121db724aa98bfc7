"""Causal networks over trials, one a task: temporal convolutions and attention (Mishra et al. 2018).

    input       y = x W + b                                                              F channels
    TC block    for d = 1, 2, 4, … below T:  y = [y, tanh(u) ⊙ σ(v)],  [u, v] = y_t W_0 + y_{t-d} W_1 + b     F each
    attention   y = [y, Σ_s p_s v_s],  p = softmax_s(q_t · k_s / √K) over the last T steps s ≤ t,  [q, k, v] = y W + b

Over whole trials each layer is one product of all steps. While acting, a lane carries what later steps need of earlier
ones: of each convolution y W_1 of the last d steps, and keys and values of the last T.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from mmaml.policies.batch_invariant import affine, broadcast_rows, sigmoid_, tanh_
from mmaml.policies.mlp import glorot_uniform
from mmaml.policies.params import Params

BLOCKS = 2  # of convolutions


class Carried(NamedTuple):
    """What lanes carry on, as plain tuples of tensors [M, N, …]. D = 2 F.

    clock [M, N]: steps so far. convolved: of each convolution [M, N, d, D], keys, values: [M, N, T, K]; rings, in which
    step t is at t modulo their length.
    """

    clock: Tensor
    convolved: tuple[Tensor, ...]
    keys: Tensor
    values: Tensor


class SNAILNetwork:
    """Sizes of the network; its parameters are passed to every call.

    prefix: of names. inputs: of x. length: T, steps of a trial in training. filters: F. attention: K.
    """

    def __init__(self, prefix: str, inputs: int, length: int, filters: int, attention: int) -> None:
        self.prefix, self.length, self.filters, self.attention = prefix, length, filters, attention
        layers = max(1, (length - 1).bit_length())
        self.dilations = [2**layer for layer in range(layers)] * BLOCKS
        self.shapes: dict[str, tuple[int, ...]] = {
            f"{prefix}.input.weight": (inputs, filters),
            f"{prefix}.input.bias": (1, filters),
        }
        channels = filters
        for layer in range(len(self.dilations)):
            self.shapes[f"{prefix}.{layer}.weight"] = (channels, 4 * filters)
            self.shapes[f"{prefix}.{layer}.bias"] = (1, 2 * filters)
            channels += filters
        self.shapes[f"{prefix}.attention.weight"] = (channels, 3 * attention)
        self.shapes[f"{prefix}.attention.bias"] = (1, 3 * attention)
        self.features = channels + attention

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zero biases."""
        return {
            name: glorot_uniform(rng, *shape) if name.endswith("weight") else torch.zeros(shape)
            for name, shape in self.shapes.items()
        }

    def _layer(self, params: Params, name: str | int) -> tuple[Tensor, Tensor]:
        return params[f"{self.prefix}.{name}.weight"], params[f"{self.prefix}.{name}.bias"]

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        """Features after each step of whole trials: [M, N, T, F] -> [M, N, T, C]; differentiable once."""
        shape = x.shape[:3]

        def product(y: Tensor, weight: Tensor) -> Tensor:
            return torch.bmm(y.flatten(1, 2), weight).view(*shape, -1)

        def shifted(values: Tensor, bias: Tensor) -> Tensor:
            return values + broadcast_rows(bias, values.shape[1] * values.shape[2]).view(values.shape)

        weight, bias = self._layer(params, "input")
        y = shifted(product(x, weight), bias)
        for layer, dilation in enumerate(self.dilations):
            weight, bias = self._layer(params, layer)
            now, later = product(y, weight).chunk(2, dim=-1)
            if dilation < shape[2]:
                now = now + pad(later[:, :, :-dilation], (0, 0, dilation, 0))
            y = torch.cat([y, _Gate.apply(shifted(now, bias))], -1)
        weight, bias = self._layer(params, "attention")
        q, k, v = (part.flatten(0, 1) for part in shifted(product(y, weight), bias).chunk(3, dim=-1))
        return torch.cat([y, _Attention.apply(q, k, v, self.length).view(*shape, -1)], -1)

    def start(self, x: Tensor) -> Carried:
        """What lanes carry before the first step. x [M, N, F]: any input of theirs."""
        tasks, lanes = x.shape[:2]
        convolved = tuple(x.new_zeros(tasks, lanes, dilation, 2 * self.filters) for dilation in self.dilations)
        keys, values = (x.new_zeros(tasks, lanes, self.length, self.attention) for _ in range(2))
        return Carried(torch.zeros(tasks, lanes, dtype=torch.long, device=x.device), convolved, keys, values)

    @torch.no_grad()
    def step(self, params: Params, x: Tensor, carried: tuple[Any, ...]) -> tuple[Tensor, Carried]:
        """Features [M, N, C] after one step, from inputs x [M, N, F], and what is to be carried on.

        What was carried is written over.
        """
        clock, convolved, keys, values = carried
        y = x.new_empty(*x.shape[:2], self.features)
        channels = self.filters
        y[..., :channels] = affine(x, *self._layer(params, "input"))
        for layer, ring in enumerate(convolved):
            weight, bias = self._layer(params, layer)
            now, later = torch.bmm(y[..., :channels], weight).chunk(2, dim=-1)
            now = now + _exchanged(ring, clock, later) + bias
            y[..., channels : channels + self.filters] = _gated(*now.chunk(2, dim=-1))[0]
            channels += self.filters
        q, k, v = affine(y[..., :channels], *self._layer(params, "attention")).chunk(3, dim=-1)
        _exchanged(keys, clock, k)
        _exchanged(values, clock, v)
        y[..., channels:] = self._attended(q, keys, values, clock)
        return y, Carried(clock + 1, convolved, keys, values)

    def _attended(self, q: Tensor, keys: Tensor, values: Tensor, clock: Tensor) -> Tensor:
        """Attention of one step: queries [M, N, K] -> [M, N, K]. A lone row is computed twice, as in `affine`."""
        used = min(int(clock.max()) + 1, self.length)
        queries = q.flatten(0, 1)[:, None].expand(-1, 2, -1)
        absent = torch.arange(used, device=q.device) > clock.flatten()[:, None]
        weights = _softmax(queries, keys[:, :, :used].flatten(0, 1), absent[:, None])
        return torch.bmm(weights, values[:, :, :used].flatten(0, 1))[:, 0].view(q.shape)


def _exchanged(ring: Tensor, clock: Tensor, new: Tensor) -> Tensor:
    """Replace what is d steps old in the ring [M, N, d, D] by `new` [M, N, D], and return it."""
    length, rows = ring.shape[2], ring.view(-1, ring.shape[3])
    index = torch.arange(clock.numel(), device=clock.device) * length + clock.flatten() % length
    old = rows.index_select(0, index).view(new.shape)
    rows.index_copy_(0, index, new.flatten(0, 1))
    return old


def _gated(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tanh(u) ⊙ σ(v), and both factors."""
    u, v = tanh_(u.clone()), sigmoid_(v.clone())
    return u * v, u, v


def _softmax(q: Tensor, k: Tensor, absent: Tensor) -> Tensor:
    """softmax(q kᵀ / √K) where it is not absent: [B, n, K], [B, s, K], bool [1 or B, 1 or n, s] -> [B, n, s]."""
    weights = torch.bmm(q, k.transpose(1, 2)).mul_(1 / math.sqrt(q.shape[-1])).masked_fill_(absent, -math.inf)
    weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    ones = weights.new_ones(1, weights.shape[-1], 2).expand(len(weights), -1, -1)
    return weights.div_(torch.bmm(weights, ones)[..., :1])


class _Gate(Function):
    """[u, v] -> tanh(u) ⊙ σ(v)."""

    @staticmethod
    def forward(ctx, both):  # type: ignore[override]
        out, u, v = _gated(*both.chunk(2, dim=-1))
        ctx.save_for_backward(u, v)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        u, v = ctx.saved_tensors
        return torch.cat([(u * u).neg_().add_(1).mul_(v).mul_(grad), v.neg().add_(1).mul_(v).mul_(u).mul_(grad)], -1)


class _Attention(Function):
    """Of each query the mean of values by softmax(q kᵀ / √K), over its own step and the `reach` - 1 before it."""

    @staticmethod
    def forward(ctx, q, k, v, reach):  # type: ignore[override]
        steps = torch.arange(q.shape[1], device=q.device)
        age = steps[:, None] - steps
        weights = _softmax(q, k, ((age < 0) | (age >= reach))[None])
        out = torch.bmm(weights, v)
        ctx.save_for_backward(q, k, v, weights, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        q, k, v, weights, out = ctx.saved_tensors
        slope = torch.bmm(grad, v.transpose(1, 2)).sub_((grad * out).sum(-1, keepdim=True))
        slope.mul_(weights).mul_(1 / math.sqrt(q.shape[-1]))
        return torch.bmm(slope, k), torch.bmm(slope.transpose(1, 2), q), torch.bmm(weights.transpose(1, 2), grad), None
