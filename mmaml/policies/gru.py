"""A batch of GRUs, one a task, over whole rollouts, as one differentiable primitive; and one step of them, to act.

Left to autograd, a GRU over T steps is a graph of thousands of small nodes whose weight gradients are
summed step by step. Here the steps write into buffers [T, M, N, …], and each weight gradient is one
matrix product over all steps of a task. Per step, with h the state (0 at an episode's start):

    r, z = σ(x W_g + h U_g + b_g)        gates
    n    = tanh(x W_c + b_c + r ⊙ (h U_c))      candidate
    h'   = n + z ⊙ (h - n)
(Cho et al. 2014, with the reset gate applied to the product, as in cuDNN).

What is differentiated once is in `mmaml.policies.gru_steps`, twice in `mmaml.policies.gru_twice`. On a GPU the steps of
tasks that share their parameters are those of the library's GRU (`mmaml.policies.gru_library`), of which the number of
operations does not grow with T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.policies import kernel
from mmaml.policies.batch_invariant import is_batched
from mmaml.policies.gru_library import LibraryGRU
from mmaml.policies.gru_steps import StatesOnce, by_task, step
from mmaml.policies.gru_twice import StatesTwice
from mmaml.policies.mlp import MLP, glorot_uniform
from mmaml.policies.params import Params


def gru_shapes(prefix: str, inputs: int, cell: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a GRU's parameters."""
    return {
        f"{prefix}.gates.input": (inputs, 2 * cell),
        f"{prefix}.gates.recurrent": (cell, 2 * cell),
        f"{prefix}.gates.bias": (1, 2 * cell),
        f"{prefix}.candidate.input": (inputs, cell),
        f"{prefix}.candidate.recurrent": (cell, cell),
        f"{prefix}.candidate.bias": (1, cell),
    }


def init_with_gru(rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Params:
    """Parameters of networks, of which one is the GRU of `prefix`.

    Glorot-uniform weights, zero biases, and a recurrent kernel [H, 3H] with orthogonal rows (Saxe et al. 2014).
    """
    params = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if name.endswith((".weight", ".input")):
            params[name] = glorot_uniform(rng, *shape)
    cell = shapes[f"{prefix}.candidate.recurrent"][0]
    basis, triangle = np.linalg.qr(rng.standard_normal((3 * cell, cell)))
    recurrent = torch.from_numpy((basis * np.sign(np.diag(triangle))).T.astype(np.float32))
    params[f"{prefix}.gates.recurrent"] = recurrent[:, : 2 * cell].contiguous()
    params[f"{prefix}.candidate.recurrent"] = recurrent[:, 2 * cell :].contiguous()
    return params


def long_memory(rng: np.random.Generator, params: Params, prefix: str, steps: int) -> Params:
    """The parameters with states of the GRU that last some 1 … `steps` steps, each entry its own time.

    The bias of z is log U(1, steps - 1), so that a state shrinks by 1/e in about as many steps; with a bias of 0 it is
    halved at every step. "Chrono initialisation": Tallec & Ollivier 2018, arXiv 1804.11188.
    """
    bias = params[f"{prefix}.gates.bias"].clone()
    cell = bias.shape[1] // 2
    bias[:, cell:] = torch.from_numpy(np.log(rng.uniform(1, max(steps - 1, 1), cell)).astype(np.float32))
    return params | {f"{prefix}.gates.bias": bias}


def gru_final_states(params: Params, prefix: str, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """States at the ends of all episodes, in order of task, step, rollout: [E, H].

    x: inputs [T, M, N, F], treated as data. start, end: bool [T, M, N], the first and last steps of
    episodes; the state is zero before each first step. No step after the last end of all is computed, and the bits
    are those of the computation of all T. Twice differentiable in the parameters.
    """
    return StatesTwice.apply(x, start, end, *_of(params, prefix))


def mean_of_final_states(
    params: Params, prefix: str, x: Tensor, start: Tensor, end: Tensor, head: MLP | None = None
) -> Tensor:
    """Mean over a task's episodes of the states at their ends, or of what a network makes of each: [M, 1, H].

    x, start, end: as in `gru_final_states`. head: a network of the states, whose parameters are among `params`. Twice
    differentiable in the parameters.
    """
    if is_batched(x):  # of all steps, of which some count: how many episodes end is not known without waiting for it
        states = by_task(_states(x, start, _of(params, prefix)))
        states = states if head is None else head(params, states)
        counts = by_task(end)[:, None].to(x.dtype)
        return torch.bmm(counts / counts.sum(-1, keepdim=True), states)
    states = gru_final_states(params, prefix, x, start, end)
    # One task at a time: a task's number of episodes must not decide how another task is computed.
    means = []
    for task, own in enumerate(states.split(end.sum((0, 2)).tolist())):
        if head is not None:
            own = head({name: params[name][task : task + 1] for name in head.shapes}, own[None])[0]
        means.append(own.mean(0))
    return torch.stack(means)[:, None]


def gru_step(params: Params, prefix: str, x: Tensor, h: Tensor) -> Tensor:
    """The states [M, N, C] after one step, from inputs x [M, N, F] and the states h [M, N, C] before; no gradient.

    To the bit what `gru_states` computes of the same lanes.
    """
    weights = _of(params, prefix)
    with torch.no_grad():
        if kernel.serves(x, h, *weights):
            return kernel.gru_forward(x[None], None, h, weights, steps=1)[-1][0]
        g, q, n, after = (h.new_empty(*h.shape[:2], size * h.shape[2]) for size in (2, 1, 1, 1))
        return step(x.contiguous(), h.contiguous(), weights, g, q, n, after)


def gru_states(params: Params, prefix: str, x: Tensor) -> Tensor:
    """The states [T, M, N, C] after each step, from inputs x [T, M, N, F] and a zero state before the first.

    Differentiable once, in the parameters and in x.
    """
    weights = _of(params, prefix)
    if is_batched(x) and _are_shared(weights):
        return LibraryGRU.apply(x, None, *weights)
    return StatesOnce.apply(x.contiguous(), *weights)


def _states(x: Tensor, start: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The states [T, M, N, C] after each step, as `gru_final_states` has those of some; as differentiable."""
    if _are_shared(weights):
        return LibraryGRU.apply(x, start, *weights)
    return StatesTwice.apply(x, start, None, *weights)


def _are_shared(weights: Sequence[Tensor]) -> bool:
    """Whether weights are the same for all tasks, as `ParamSpec.per_task` makes them."""
    return all(value.shape[0] == 1 or value.stride(0) == 0 for value in weights)


def _of(params: Params, prefix: str) -> tuple[Tensor, ...]:
    """The parameters of one GRU, in the order of `gru_shapes`."""
    return tuple(params[name] for name in gru_shapes(prefix, 0, 0))
