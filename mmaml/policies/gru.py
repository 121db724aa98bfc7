"""A batch of GRUs, one a task, over whole rollouts, as one differentiable primitive; and one step of them, to act.

Left to autograd, a GRU over T steps is a graph of thousands of small nodes whose weight gradients are
summed step by step. Here the steps write into buffers [T, M, N, …], and each weight gradient is one
matrix product over all steps of a task. Per step, with h the state (0 at an episode's start):

    r, z = σ(x W_g + h U_g + b_g)        gates
    n    = tanh(x W_c + b_c + r ⊙ (h U_c))      candidate
    h'   = n + z ⊙ (h - n)
(Cho et al. 2014, with the reset gate applied to the product, as in cuDNN).

On a GPU the steps of tasks that share their parameters are those of the library's GRU (`_LibraryGRU`), of which the
number of operations does not grow with T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmaml.policies import kernel
from mmaml.policies.batch_invariant import is_batched, outer, refuse_third_derivative, sigmoid_, sum_rows, tanh_
from mmaml.policies.mlp import MLP, glorot_uniform
from mmaml.policies.params import Params

CLOSED = -1e4  # what a gate reads to be 0, whatever the state


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
    return _GRU.apply(x, start, end, *_of(params, prefix))


def mean_of_final_states(
    params: Params, prefix: str, x: Tensor, start: Tensor, end: Tensor, head: MLP | None = None
) -> Tensor:
    """Mean over a task's episodes of the states at their ends, or of what a network makes of each: [M, 1, H].

    x, start, end: as in `gru_final_states`. head: a network of the states, whose parameters are among `params`. Twice
    differentiable in the parameters.
    """
    if is_batched(x):  # of all steps, of which some count: how many episodes end is not known without waiting for it
        states = _by_task(_states(x, start, _of(params, prefix)))
        states = states if head is None else head(params, states)
        counts = _by_task(end)[:, None].to(x.dtype)
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
        return _step(x.contiguous(), h.contiguous(), weights, g, q, n, after)


def gru_states(params: Params, prefix: str, x: Tensor) -> Tensor:
    """The states [T, M, N, C] after each step, from inputs x [T, M, N, F] and a zero state before the first.

    Differentiable once, in the parameters and in x.
    """
    weights = _of(params, prefix)
    if is_batched(x) and _are_shared(weights):
        return _LibraryGRU.apply(x, None, *weights)
    return _GRUStates.apply(x.contiguous(), *weights)


def _states(x: Tensor, start: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The states [T, M, N, C] after each step, as `gru_final_states` has those of some; as differentiable."""
    if _are_shared(weights):
        return _LibraryGRU.apply(x, start, *weights)
    return _GRU.apply(x, start, None, *weights)


def _are_shared(weights: Sequence[Tensor]) -> bool:
    """Whether weights are the same for all tasks, as `ParamSpec.per_task` makes them."""
    return all(value.shape[0] == 1 or value.stride(0) == 0 for value in weights)


def _of(params: Params, prefix: str) -> tuple[Tensor, ...]:
    """The parameters of one GRU, in the order of `gru_shapes`."""
    return tuple(params[name] for name in gru_shapes(prefix, 0, 0))


def _step(x: Tensor, h: Tensor, weights: Sequence[Tensor], g: Tensor, q: Tensor, n: Tensor, after: Tensor) -> Tensor:
    """One step of M·N lanes: h' into `after`, and what its derivative needs into g (gates), q (h U_c) and n."""
    wg, ug, bg, wc, uc, bc = weights
    torch.baddbmm(bg, x, wg, out=g)
    sigmoid_(g.baddbmm_(h, ug))
    r, z = g.split(h.shape[-1], dim=-1)
    torch.bmm(h, uc, out=q)
    torch.baddbmm(bc, x, wc, out=n)
    tanh_(n.add_(r * q))
    return torch.sub(h, n, out=after).mul_(z).add_(n)


def _step_back(dh: Tensor, h: Tensor, g: Tensor, q: Tensor, n: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """What of dh, the derivative in h' of `_step`, goes to h by itself, [M, N, C], not through its products.

    outputs: where the derivatives go in q, in g and in n, of the latter two before their nonlinearities.
    """
    dq, dg, dn = outputs
    r, z = g.split(h.shape[-1], dim=-1)
    dr, dz = dg.split(h.shape[-1], dim=-1)
    torch.sub(h, n, out=dz).mul_(dh)
    carried = dh * z
    torch.sub(dh, carried, out=dn).mul_((n * n).neg_().add_(1))
    torch.mul(dn, q, out=dr)
    torch.mul(dn, r, out=dq)
    dg.mul_(g).mul_(g.neg().add_(1))
    return carried


class _GRUStates(Function):
    @staticmethod
    def forward(ctx, x, *weights):  # type: ignore[override]
        cell = weights[4].shape[-1]
        h = x.new_zeros(*x.shape[1:3], cell)
        if kernel.serves(x, *weights):
            gates, products, candidates, _, after = kernel.gru_forward(x, None, h, weights, steps=len(x))
            ctx.save_for_backward(x, gates, products, candidates, after, *weights)
            return after
        gates = x.new_empty(*x.shape[:3], 2 * cell)
        products, candidates = x.new_empty(2, *x.shape[:3], cell).unbind(0)
        after = kernel.steps_of_tasks(x, cell)
        for t in range(len(x)):
            h = _step(x[t], h, weights, gates[t], products[t], candidates[t], after[t])
        ctx.save_for_backward(x, gates, products, candidates, after, *weights)
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states):  # type: ignore[override]
        x, gates, products, candidates, after, wg, ug, _, wc, uc, _ = ctx.saved_tensors
        shape, cell = x.shape, after.shape[-1]
        if kernel.serves(x, after):
            forward = gates, products, candidates, None, after
            found = kernel.gru_backward(None, ug, uc, forward, torch.empty_like(after).copy_(grad_states), len(x))
            of_gates, of_candidate, of_products = map(_by_task, found)
            dx = None
            if ctx.needs_input_grad[0]:
                dx = kernel.layer([(of_gates, wg.transpose(1, 2)), (of_candidate, wc.transpose(1, 2))])
                dx = dx.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)
            # Nothing is before the first step, of which there are as many rows as lanes.
            before = _by_task(after)[:, : -shape[2]]
            later = of_gates[:, shape[2] :], of_products[:, shape[2] :]
            return dx, *_of_parameters(_by_task(x), before, of_gates, of_candidate, *later)
        # Derivatives in q = h U_c, in both gates and in the candidate side by side: the first three are those of
        # products with h, the last three those of products with x, one product each.
        slopes = kernel.steps_of_tasks(x, 4 * cell)
        recurrent = torch.cat([uc, ug], -1).transpose(1, 2).contiguous()
        nothing = torch.zeros_like(candidates[0])
        carried = nothing
        for t in range(len(x) - 1, -1, -1):
            outputs = slopes[t].split([cell, 2 * cell, cell], dim=-1)
            h = after[t - 1] if t else nothing
            passed = _step_back(carried + grad_states[t], h, gates[t], products[t], candidates[t], outputs)
            carried = passed.baddbmm_(slopes[t][..., : 3 * cell], recurrent)
        of_x = _by_task(slopes[..., cell:])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.bmm(of_x, torch.cat([wg, wc], -1).transpose(1, 2))
            dx = dx.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)
        d_uc, d_ug = outer(_by_task(after[:-1]), _by_task(slopes[1:, ..., : 3 * cell])).split([cell, 2 * cell], dim=-1)
        d_wg, d_wc = outer(_by_task(x), of_x).split([2 * cell, cell], dim=-1)
        d_bg, d_bc = sum_rows(of_x).split([2 * cell, cell], dim=-1)
        return dx, d_wg, d_ug, d_bg, d_wc, d_uc, d_bc


def _of_parameters(
    x: Tensor, before: Tensor, of_gates: Tensor, of_candidate: Tensor, with_h: Tensor, of_products: Tensor
) -> tuple[Tensor, ...]:
    """Gradients in the parameters, by the kernel, in the order of `gru_shapes`.

    x: [M, n, F]. before: the states before steps, of which with_h and of_products are the derivatives in gates and in
    h U_c; of_gates, of_candidate: derivatives at all steps, [M, n, ·].
    """
    (d_wg, d_bg), (d_wc, d_bc) = kernel.outer([(x, of_gates)]), kernel.outer([(x, of_candidate)])
    d_ug, d_uc = (kernel.outer([(before, slopes)])[0] for slopes in (with_h, of_products))
    return d_wg, d_ug, d_bg, d_wc, d_uc, d_bc


class _GRU(Function):
    """The states at the ends of episodes; after every step, [T, M, N, C], where `end` is None."""

    @staticmethod
    def forward(ctx, x, start, end, wg, ug, bg, wc, uc, bc):  # type: ignore[override]
        (tasks, lanes), cell = x.shape[1:3], wc.shape[-1]
        steps = len(x) if end is None else int(end.flatten(1).any(1).nonzero()[-1]) + 1
        weights = wg, ug, bg, wc, uc, bc
        continues = (~start).to(x.dtype).unsqueeze(-1)
        restarts = [True] * steps if end is None else start.flatten(1).any(1).tolist()
        h = x.new_zeros(tasks, lanes, cell)
        if kernel.serves(x, *weights):
            gates, products, candidates, before, after = kernel.gru_forward(x, continues, h, weights, steps)
            assert before is not None
        else:
            gates = x.new_empty(*x.shape[:3], 2 * cell)
            candidates, products, before, after = x.new_empty(4, *x.shape[:3], cell).unbind(0)
            for t in range(steps):
                h_in = before[t]
                if restarts[t]:
                    torch.mul(h, continues[t], out=h_in)
                else:
                    h_in.copy_(h)
                h = _step(x[t], h_in, weights, gates[t], products[t], candidates[t], after[t])
        before[steps:] = 0
        ctx.save_for_backward(x, continues, end, gates, candidates, products, before, wg, ug, bg, wc, uc, bc)
        ctx.steps, ctx.restarts = steps, restarts
        return after if end is None else after.transpose(0, 1)[end.transpose(0, 1)]

    @staticmethod
    def backward(ctx, grad_states):  # type: ignore[override]
        return None, None, None, *_GRUGradient.apply(grad_states, ctx.steps, ctx.restarts, *ctx.saved_tensors)


def _gradient(
    grad_states: Tensor, steps: int, restarts: Sequence[bool], tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives in gates and candidates, before their nonlinearities, in products with U_c, and in the states.

    tensors: what `_GRU` keeps.
    """
    _, continues, end, gates, candidates, products, before, _, ug, _, _, uc, _ = tensors
    cell = candidates.shape[-1]
    d_gates, d_candidates, d_products, d_after = (
        torch.empty_like(value) for value in (gates, candidates, products, candidates)
    )
    arriving = None if end is None else _ends_by_step(end)
    ug_t, uc_t = ug.transpose(1, 2).contiguous(), uc.transpose(1, 2).contiguous()
    carried = torch.zeros_like(candidates[0])
    for t in range(steps - 1, -1, -1):
        if arriving is None:
            dh = torch.add(carried, grad_states[t], out=d_after[t])
        else:
            dh = d_after[t].copy_(carried)
            episodes, lanes = arriving[t]
            if len(episodes):
                dh.view(-1, cell).index_add_(0, lanes, grad_states.index_select(0, episodes))
        outputs = d_products[t], d_gates[t], d_candidates[t]
        passed = _step_back(dh, before[t], gates[t], products[t], candidates[t], outputs)
        carried = passed.baddbmm_(d_gates[t], ug_t).baddbmm_(d_products[t], uc_t)
        if restarts[t]:
            carried.mul_(continues[t])
    return d_gates, d_candidates, d_products, d_after


def _compiled_gradient(
    grad_states: Tensor, steps: int, tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_gradient`."""
    _, continues, end, gates, candidates, products, before, _, ug, _, _, uc, _ = tensors
    d_after = torch.zeros_like(candidates)
    if end is None:
        d_after.copy_(grad_states)
    else:
        d_after.transpose(0, 1)[end.transpose(0, 1)] = grad_states
    forward = gates, products, candidates, before, None
    return *kernel.gru_backward(continues, ug, uc, forward, d_after, steps), d_after


class _GRUGradient(Function):
    """The gradient of <grad_states, states> in the parameters, itself differentiable in grad_states and parameters."""

    @staticmethod
    def forward(ctx, grad_states, steps, restarts, *tensors):  # type: ignore[override]
        x, _, _, _, candidates, _, before, *_ = tensors
        if kernel.serves(x, candidates):
            found = _compiled_gradient(grad_states, steps, tensors)
        else:
            found = _gradient(grad_states, steps, restarts, tensors)
        d_gates, d_candidates, d_products, d_after = found
        for value in (d_gates, d_candidates, d_products):
            value[steps:] = 0
        ctx.save_for_backward(*tensors, d_gates, d_candidates, d_products, d_after)
        ctx.steps, ctx.restarts = steps, restarts
        x, before, d_gates, d_candidates, d_products = map(_by_task, (x, before, d_gates, d_candidates, d_products))
        if kernel.serves(x, before):
            return _of_parameters(x, before, d_gates, d_candidates, d_gates, d_products)
        return (
            *(outer(x, d_gates), outer(before, d_gates), sum_rows(d_gates)),
            *(outer(x, d_candidates), outer(before, d_products), sum_rows(d_candidates)),
        )

    @staticmethod
    def backward(ctx, *direction):  # type: ignore[override]
        """Derivatives in a direction of the parameters, ẋ of x: of all of `_GRU.forward`, then of all of the above."""
        refuse_third_derivative("gru_final_states")
        x, continues, end, gates, candidates, products, before, _, ug, _, _, uc, _, *gradients = ctx.saved_tensors
        d_gates, d_candidates, d_products, d_after = gradients
        wg_dot, ug_dot, bg_dot, wc_dot, uc_dot, bc_dot = direction
        cell = candidates.shape[-1]
        gates_dot, candidates_dot, products_dot, before_dot, after_dot = (
            torch.empty_like(value) for value in (gates, candidates, products, candidates, candidates)
        )
        slopes, candidate_slopes = gates * (1 - gates), 1 - candidates * candidates
        h_dot = torch.zeros_like(candidates[0])
        for t in range(ctx.steps):
            h_in, n, q = before[t], candidates[t], products[t]
            r, z = gates[t].split(cell, dim=-1)
            h_in_dot, g_dot, n_dot, q_dot = before_dot[t], gates_dot[t], candidates_dot[t], products_dot[t]
            if ctx.restarts[t]:
                torch.mul(h_dot, continues[t], out=h_in_dot)
            else:
                h_in_dot.copy_(h_dot)
            torch.baddbmm(bg_dot, x[t], wg_dot, out=g_dot)
            g_dot.baddbmm_(h_in, ug_dot).baddbmm_(h_in_dot, ug).mul_(slopes[t])
            r_dot, z_dot = g_dot.split(cell, dim=-1)
            torch.bmm(h_in, uc_dot, out=q_dot).baddbmm_(h_in_dot, uc)
            torch.baddbmm(bc_dot, x[t], wc_dot, out=n_dot)
            n_dot.add_(r_dot * q).add_(r * q_dot).mul_(candidate_slopes[t])
            h_dot = torch.sub(h_in_dot, n_dot, out=after_dot[t]).mul_(z).add_(n_dot).add_((h_in - n).mul_(z_dot))

        d_gates_dot, d_candidates_dot, d_products_dot = (
            torch.empty_like(value) for value in (gates, candidates, products)
        )
        ug_t, uc_t, ug_dot_t, uc_dot_t = (value.transpose(1, 2).contiguous() for value in (ug, uc, ug_dot, uc_dot))
        dh_dot = torch.zeros_like(candidates[0])
        for t in range(ctx.steps - 1, -1, -1):
            n, q, dh, dg, dn, dq = candidates[t], products[t], d_after[t], d_gates[t], d_candidates[t], d_products[t]
            n_dot, q_dot = candidates_dot[t], products_dot[t]
            r, z = gates[t].split(cell, dim=-1)
            r_dot, z_dot = gates_dot[t].split(cell, dim=-1)
            dg_dot, dn_dot, dq_dot = d_gates_dot[t], d_candidates_dot[t], d_products_dot[t]
            dr_dot, dz_dot = dg_dot.split(cell, dim=-1)
            passed = dh_dot * z + dh * z_dot  # what h = … + z ⊙ h_in lets through, and its complement to n
            torch.sub(dh_dot, passed, out=dn_dot).mul_(candidate_slopes[t])
            dn_dot.sub_((dh - dh * z).mul_(n).mul_(n_dot).mul_(2))
            torch.mul(dn_dot, q, out=dr_dot).add_(dn * q_dot)
            torch.mul(dn_dot, r, out=dq_dot).add_(dn * r_dot)
            difference = before[t] - n
            torch.mul(dh_dot, difference, out=dz_dot).add_((before_dot[t] - n_dot).mul_(dh))
            dg_dot.mul_(slopes[t])
            # The change of the slopes, g (1 - g), where dg without its slope is [dn ⊙ q, dh ⊙ (h_in - n)].
            dr_dot.add_((1 - 2 * r).mul_(r_dot).mul_(dn).mul_(q))
            dz_dot.add_((1 - 2 * z).mul_(z_dot).mul_(dh).mul_(difference))
            dh_dot = passed.baddbmm_(dg_dot, ug_t).baddbmm_(dg, ug_dot_t).baddbmm_(dq_dot, uc_t).baddbmm_(dq, uc_dot_t)
            if ctx.restarts[t]:
                dh_dot.mul_(continues[t])
        for value in (before_dot, d_gates_dot, d_candidates_dot, d_products_dot):
            value[ctx.steps :] = 0

        states_dot = after_dot if end is None else after_dot.transpose(0, 1)[end.transpose(0, 1)]
        x, before, before_dot, d_gates, d_products, d_gates_dot, d_candidates_dot, d_products_dot = map(
            _by_task, (x, before, before_dot, d_gates, d_products, d_gates_dot, d_candidates_dot, d_products_dot)
        )
        moved = (
            *(outer(x, d_gates_dot), outer(before_dot, d_gates) + outer(before, d_gates_dot), sum_rows(d_gates_dot)),
            outer(x, d_candidates_dot),
            outer(before_dot, d_products) + outer(before, d_products_dot),
            sum_rows(d_candidates_dot),
        )
        return states_dot, None, None, *(None,) * 7, *moved


class _LibraryGRU(Function):
    """The states [T, M, N, C] after each step, zero before each start, for tasks that share their parameters.

    The library (`torch.gru`, cuDNN on a GPU) reads x W + b through an identity, and so gives the derivatives in it, of
    which those in each task's parameters are products over all steps. Its state cannot be set back within a lane. In
    its place a first step has gates of 0, r = z = 0, and as its candidate the h' = (1 - z) n that follows the state 0.
    """

    @staticmethod
    def forward(ctx, x, start, *weights):  # type: ignore[override]
        wg, ug, bg, wc, uc, bc = (value[0] for value in weights)
        inputs = x @ torch.cat([wg, wc], -1) + torch.cat([bg, bc], -1)
        learns = any(ctx.needs_input_grad)
        with torch.set_grad_enabled(learns), _exact():
            inputs.requires_grad_(learns)
            read = inputs if start is None else _restarting(inputs, start)
            identity, recurrent = torch.eye(inputs.shape[-1], dtype=x.dtype, device=x.device), torch.cat([ug, uc], -1).T
            # In one piece of memory, as cuDNN wants them.
            parts = torch.cat([identity.flatten(), recurrent.flatten()]).split([identity.numel(), recurrent.numel()])
            kernels = [part.view_as(like) for part, like in zip(parts, (identity, recurrent), strict=True)]
            nothing = read.new_zeros(1, x.shape[1] * x.shape[2], uc.shape[0])
            states = torch.gru(read.flatten(1, 2), nothing, kernels, False, 1, 0.0, learns, False, False)[0]
            states = states.view(*x.shape[:3], -1)
        result = states.detach()
        ctx.inner = (inputs, states)
        ctx.save_for_backward(x, start, result, *weights)
        return result

    @staticmethod
    def backward(ctx, grad_states):  # type: ignore[override]
        x, start, states, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, for which the steps are written out
            if start is None or ctx.needs_input_grad[0]:
                raise NotImplementedError("gru_states: expected to be differentiated once, got a second derivative")
            again = _GRU.apply(x, start, None, *weights)
            return None, None, *torch.autograd.grad(again, weights, grad_states, create_graph=True)
        wg, ug, _, wc, _, _ = weights
        cell, (inputs, with_graph) = states.shape[-1], ctx.inner
        with _exact():
            (slopes,) = torch.autograd.grad(with_graph, inputs, grad_states, retain_graph=True)
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
        if start is not None:
            before = before.masked_fill(start[..., None], 0.0)
        # Those of products with h: of the candidate's, through the reset gate.
        r = (inputs.detach()[..., :cell] + before @ ug[0, :, :cell]).sigmoid()
        recurrent = torch.cat([slopes[..., : 2 * cell], slopes[..., 2 * cell :] * r], -1)
        dx = slopes @ torch.cat([wg[0], wc[0]], -1).T if ctx.needs_input_grad[0] else None
        of_x = _by_task(slopes)
        d_wg, d_wc = outer(_by_task(x), of_x).split([2 * cell, cell], dim=-1)
        d_ug, d_uc = outer(_by_task(before), _by_task(recurrent)).split([2 * cell, cell], dim=-1)
        d_bg, d_bc = sum_rows(of_x).split([2 * cell, cell], dim=-1)
        return dx, None, d_wg, d_ug, d_bg, d_wc, d_uc, d_bc


def _restarting(inputs: Tensor, start: Tensor) -> Tensor:
    """x W + b [T, M, N, 3C] with which the library's GRU forgets its state before each start, bool [T, M, N]."""
    _, z, n = inputs.chunk(3, dim=-1)
    limit = 1 - torch.finfo(inputs.dtype).eps
    candidate = ((1 - z.sigmoid()) * n.tanh()).clamp(-limit, limit).atanh()
    closed = torch.full_like(candidate, CLOSED)
    return torch.where(start[..., None], torch.cat([closed, closed, candidate], -1), inputs)


def _exact() -> AbstractContextManager[None]:
    """While this lasts, cuDNN computes in float32: by default its products are rounded to ten bits."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def _by_task(values: Tensor) -> Tensor:
    """[T, M, N, …] -> [M, T·N, …]."""
    return values.transpose(0, 1).flatten(1, 2)


def _ends_by_step(end: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each step: which episodes of the output end there, and in which lane of the block."""
    steps, _, lanes = end.shape
    task, step, lane = end.transpose(0, 1).nonzero(as_tuple=True)
    order = step.argsort(stable=True)
    counts = torch.bincount(step, minlength=steps).tolist()
    return list(zip(order.split(counts), (task * lanes + lane)[order].split(counts), strict=True))
