"""Planning by attention over remembered transitions, one network a task (Ritter et al. 2021).

    embedded    φ = o W_φ + b,  g = o W_g + b,  ψ = [a, r, d] W_ψ + b        state, goal, what led there; E numbers each
    memory      m_s = [φ_{s-1}, ψ_s, φ_s],  s ≤ t,  φ_{-1} = 0               the last `length` transitions of the trial
    rows        y_s = [m_s, g_t]                                             D = 4 E
    planning    `iterations` times, with the same weights every time:
                y ← y + A(norm(y)),  y ← y + relu(norm(y) W_1 + b) W_2 + b   W_1: [D, 4 D]
    attention   A(y) = softmax(q kᵀ / √D) v W_o + b,  [q, k, v] = y W        of every row to every row
    plan        p = max_s relu([norm(y_s), φ_t] W_3 + b) W_4 + b             in every entry by itself
    features    f_t = relu([p, φ_t, g_t] W_5 + b)                            C = D

x_t = [o_t, a_{t-1}, r_{t-1}, d_t]. Each step plans anew, since its goal is in every row: min(t + 1, L) rows, and
T²/2 for a trial that is remembered as a whole. While learning, a step's rows are computed again for its gradient, so
that those of one step at a time are held.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm

from mmaml.policies.batch_invariant import affine, affine_by_step, broadcast_rows, is_batched
from mmaml.policies.mlp import glorot_uniform
from mmaml.policies.params import Params, pull_back

CHUNK_ROWS = 4096  # that are computed together


class Carried(NamedTuple):
    """What lanes carry on, as plain tensors.

    clock [M, N]: steps so far. state [M, N, E]: φ of the last step, zeros before the first. memory [M, N, L, 3 E]: a
    ring, in which the transition to step t is at t modulo L.
    """

    clock: Tensor
    state: Tensor
    memory: Tensor


class PlanningNetwork:
    """Sizes of the network; its parameters are passed to every call.

    prefix: of names. observation: O. inputs: F, the size of x. length: L, how many transitions are remembered.
    embedding: E. iterations: of planning.
    """

    def __init__(
        self, prefix: str, observation: int, inputs: int, length: int, embedding: int, iterations: int
    ) -> None:
        self.prefix, self.observation, self.length = prefix, observation, length
        self.embedding, self.iterations, self.features = embedding, iterations, 4 * embedding
        size = self.features
        embedding_layers = {
            "state": (observation, embedding),
            "goal": (observation, embedding),
            "led": (inputs - observation, embedding),
        }
        planning_layers = {
            "attended": (size, size),
            "hidden": (size, 4 * size),
            "revised": (4 * size, size),
            "seen": (size + embedding, size),
            "plan": (size, size),
            "features": (size + 2 * embedding, size),
        }
        self.attention = f"{prefix}.attention.weight"  # without a bias: that of keys would have no effect
        self.planning = [f"{prefix}.{layer}.{part}" for layer in planning_layers for part in ("weight", "bias")]
        self.planning.append(self.attention)
        self.shapes: dict[str, tuple[int, ...]] = {self.attention: (size, 3 * size)}
        for name, shape in (embedding_layers | planning_layers).items():
            self.shapes[f"{prefix}.{name}.weight"] = shape
            self.shapes[f"{prefix}.{name}.bias"] = (1, shape[1])

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zero biases."""
        return {
            name: glorot_uniform(rng, *shape) if name.endswith("weight") else torch.zeros(shape)
            for name, shape in self.shapes.items()
        }

    def _layer(self, params: Params, name: str) -> tuple[Tensor, Tensor]:
        return params[f"{self.prefix}.{name}.weight"], params[f"{self.prefix}.{name}.bias"]

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        """Features after each step of whole trials: [T, M, N, F] -> [T, M, N, C]; differentiable once.

        The same bits as `step`'s.
        """
        seen, came = x[..., : self.observation], x[..., self.observation :]
        state, goal = (affine_by_step(seen, *self._layer(params, name)) for name in ("state", "goal"))
        before = torch.cat([torch.zeros_like(state[:1]), state[:-1]])
        led = affine_by_step(came, *self._layer(params, "led"))
        memory = torch.cat([before, led, state], -1).permute(1, 2, 0, 3)
        features = []
        for t in range(len(x)):
            places = self._places(t, x.device)
            features.append(self._in_chunks(params, memory, places, state[t], goal[t], None))
        return torch.stack(features)

    def _places(self, t: int, device: torch.device) -> slice | Tensor:
        """Which of a trial's transitions a lane's ring holds at step t, in the ring's order."""
        if t < self.length:
            return slice(0, t + 1)
        return torch.arange(t + 1 - self.length, t + 1, device=device).roll((t + 1) % self.length)

    def start(self, x: Tensor) -> Carried:
        """What lanes carry before the first step. x [M, N, F]: any input of theirs."""
        tasks, lanes = x.shape[:2]
        clock = torch.zeros(tasks, lanes, dtype=torch.long, device=x.device)
        memory = x.new_zeros(tasks, lanes, self.length, 3 * self.embedding)
        return Carried(clock, x.new_zeros(tasks, lanes, self.embedding), memory)

    @torch.no_grad()
    def step(self, params: Params, x: Tensor, carried: tuple[Any, ...]) -> tuple[Tensor, Carried]:
        """Features [M, N, C] after one step, from inputs x [M, N, F], and what is to be carried on.

        The memory that was carried is written over.
        """
        clock, before, memory = carried
        seen, came = x[..., : self.observation], x[..., self.observation :]
        state, goal = (affine(seen, *self._layer(params, name)) for name in ("state", "goal"))
        new = torch.cat([before, affine(came, *self._layer(params, "led")), state], -1)[:, :, None]
        memory.scatter_(2, (clock % self.length)[..., None, None].expand_as(new), new)
        used = min(int(clock.max()) + 1, self.length)
        absent = torch.arange(used, device=x.device) > clock[..., None]
        places, missing = slice(0, used), absent if absent.any() else None
        features = self._in_chunks(params, memory, places, state, goal, missing)
        return features, Carried(clock + 1, state, memory)

    def _in_chunks(
        self,
        params: Params,
        memory: Tensor,
        places: slice | Tensor,
        state: Tensor,
        goal: Tensor,
        absent: Tensor | None,
    ) -> Tensor:
        """`planned` over places of the memory, of some tasks at a time, which bounds what is held; on a GPU of all."""
        rows = memory.shape[1] * (places.stop if isinstance(places, slice) else len(places))
        size = len(memory) if is_batched(memory) else max(1, CHUNK_ROWS // rows)
        parts = []
        for first in range(0, len(memory), size):
            chunk = slice(first, first + size)
            weights = [params[name][chunk] for name in self.planning]
            missing = None if absent is None else absent[chunk]
            parts.append(_Planned.apply(self, missing, places, memory[chunk], state[chunk], goal[chunk], *weights))
        return torch.cat(parts)

    def planned(self, absent: Tensor | None, memory: Tensor, state: Tensor, goal: Tensor, *weights: Tensor) -> Tensor:
        """Features [M, N, C] of one step, from the memory [M, N, n, 3 E], φ_t and g_t [M, N, E].

        absent: which of a lane's rows hold nothing yet, bool [M, N, n]; None: no row of any lane. weights: those of
        `planning`.
        """
        params = dict(zip(self.planning, weights, strict=True))
        if memory.shape[2] == 1:  # the bits of products with a lone row depend on where it lies; two alike plan as one
            memory = torch.cat([memory, memory], 2)
        shape = memory.shape[:3]
        unseen = None if absent is None else absent.expand(shape)

        def layer(name: str, y: Tensor) -> Tensor:
            weight, bias = self._layer(params, name)
            return affine(y.flatten(1, 2), weight, broadcast_rows(bias, shape[1] * shape[2])).view(*shape, -1)

        y = torch.cat([memory, _in_every_row(goal, shape[2])], -1)
        for _ in range(self.iterations):
            qkv = torch.bmm(_normalised(y).flatten(1, 2), params[self.attention]).view(*shape, -1)
            y = y + layer("attended", _attention(qkv, unseen))
            y = y + layer("revised", layer("hidden", _normalised(y)).relu())
        y = torch.cat([_normalised(y), _in_every_row(state, shape[2])], -1)
        plans = layer("plan", layer("seen", y).relu())
        if unseen is not None:
            plans = plans.masked_fill(unseen[..., None], -math.inf)
        weight, bias = self._layer(params, "features")
        f = torch.cat([plans.amax(2), state, goal], -1)
        return affine(f, weight, broadcast_rows(bias, shape[1])).relu()


def _normalised(y: Tensor) -> Tensor:
    """Each row shifted and scaled to mean 0 and variance 1."""
    return layer_norm(y, y.shape[-1:])


def _in_every_row(values: Tensor, rows: int) -> Tensor:
    """[M, N, E] -> [M, N, rows, E], the same in each row."""
    tasks, lanes, size = values.shape
    return broadcast_rows(values.reshape(tasks, 1, lanes * size), rows).view(tasks, rows, lanes, size).transpose(1, 2)


def _attention(qkv: Tensor, absent: Tensor | None) -> Tensor:
    """Of each row the mean of all rows' values by softmax(q kᵀ / √D): [M, N, n, 3 D] -> [M, N, n, D]."""
    q, k, v = (part.flatten(0, 1) for part in qkv.chunk(3, -1))
    logits = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(q.shape[-1])
    if absent is not None:
        logits = logits.masked_fill(absent.flatten(0, 1)[:, None], -math.inf)
    return torch.bmm(torch.softmax(logits, -1), v).view(*qkv.shape[:3], -1)


def _at(memory: Tensor, places: slice | Tensor) -> Tensor:
    return memory[:, :, places] if isinstance(places, slice) else memory.index_select(2, places)


class _Planned(Function):
    """`PlanningNetwork.planned`, of which nothing is kept for the gradient: it is computed again.

    The memory is kept as a whole, which all steps of a trial share.
    """

    @staticmethod
    def forward(ctx, network, absent, places, memory, *inputs):  # type: ignore[override]
        ctx.network, ctx.absent, ctx.places = network, absent, places
        ctx.save_for_backward(memory, *inputs)
        return network.planned(absent, _at(memory, places), *inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        memory, *inputs = (value.detach().requires_grad_() for value in ctx.saved_tensors)
        with torch.enable_grad():
            features = ctx.network.planned(ctx.absent, _at(memory, ctx.places), *inputs)
        return None, None, None, *pull_back([features], [memory, *inputs], [grad])
