"""A batch of GRUs, one a task, over whole rollouts, as one differentiable primitive.

Left to autograd, a GRU over T steps is a graph of thousands of small nodes whose weight gradients are
summed step by step. Here the steps write into buffers [T, M, N, …], and each weight gradient is one
matrix product over all steps of a task. Per step, with h the state (0 at an episode's start):

    r, z = σ(x W_g + h U_g + b_g)        gates
    n    = tanh(x W_c + b_c + r ⊙ (h U_c))      candidate
    h'   = n + z ⊙ (h - n)
(Cho et al. 2014, with the reset gate applied to the product, as in cuDNN).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from mmaml.params import Params
from mmaml.taskwise import broadcast_rows, outer, sigmoid, sigmoid_, sum_rows, tanh, tanh_


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


def gru_final_states(params: Params, prefix: str, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """States at the ends of all episodes, in order of task, step, rollout: [E, H].

    x: inputs [T, M, N, F], treated as data. start, end: bool [T, M, N], the first and last steps of
    episodes; the state is zero before each first step. Differentiable in the parameters any number of times;
    from the second on by a graph of single operations.
    """
    names = gru_shapes(prefix, 0, 0)
    return _GRU.apply(x, start, end, *(params[name] for name in names))


class _GRU(Function):
    @staticmethod
    def forward(ctx, x, start, end, wg, ug, bg, wc, uc, bc):  # type: ignore[override]
        steps, tasks, lanes, _ = x.shape
        cell = wc.shape[-1]
        gates = x.new_empty(steps, tasks, lanes, 2 * cell)
        candidates, products, before, after = x.new_empty(4, steps, tasks, lanes, cell).unbind(0)
        continues = (~start).to(x.dtype).unsqueeze(-1)
        restarts = start.flatten(1).any(1).tolist()
        h = x.new_zeros(tasks, lanes, cell)
        for t in range(steps):
            h_in, g, n, q = before[t], gates[t], candidates[t], products[t]
            if restarts[t]:
                torch.mul(h, continues[t], out=h_in)
            else:
                h_in.copy_(h)
            torch.baddbmm(bg, x[t], wg, out=g)
            sigmoid_(g.baddbmm_(h_in, ug))
            r, z = g.split(cell, dim=-1)
            torch.bmm(h_in, uc, out=q)
            torch.baddbmm(bc, x[t], wc, out=n)
            tanh_(n.add_(r * q))
            h = torch.sub(h_in, n, out=after[t]).mul_(z).add_(n)
        ctx.save_for_backward(x, continues, end, gates, candidates, products, before, wg, ug, bg, wc, uc, bc)
        ctx.restarts = restarts
        return after.transpose(0, 1)[end.transpose(0, 1)]

    @staticmethod
    def backward(ctx, grad_states):  # type: ignore[override]
        if torch.is_grad_enabled():  # to be differentiated again
            return None, None, None, *_gradient_with_graph(ctx, grad_states)
        x, continues, end, gates, candidates, products, before, _, ug, _, _, uc, _ = ctx.saved_tensors
        steps, tasks, lanes, cell = candidates.shape
        d_gates, d_candidates, d_products = (torch.empty_like(v) for v in (gates, candidates, products))
        arriving = _rows_by_step(end)
        ug_t, uc_t = ug.transpose(1, 2).contiguous(), uc.transpose(1, 2).contiguous()
        dh = x.new_zeros(tasks, lanes, cell)
        for t in range(steps - 1, -1, -1):
            rows, positions = arriving[t]
            if len(rows):
                dh.view(-1, cell).index_add_(0, positions, grad_states.index_select(0, rows))
            g, n, q = gates[t], candidates[t], products[t]
            r, z = g.split(cell, dim=-1)
            dg, dn, dq = d_gates[t], d_candidates[t], d_products[t]
            dr, dz = dg.split(cell, dim=-1)
            torch.sub(before[t], n, out=dz).mul_(dh)
            carried = dh * z
            torch.sub(dh, carried, out=dn).mul_((n * n).neg_().add_(1))
            torch.mul(dn, q, out=dr)
            torch.mul(dn, r, out=dq)
            dg.mul_(g).mul_(g.neg().add_(1))
            dh = carried.baddbmm_(dg, ug_t).baddbmm_(dq, uc_t)
            if ctx.restarts[t]:
                dh.mul_(continues[t])
        x, before, d_gates, d_candidates, d_products = (
            value.transpose(0, 1).flatten(1, 2) for value in (x, before, d_gates, d_candidates, d_products)
        )
        gradients = (
            (outer(x, d_gates), outer(before, d_gates), sum_rows(d_gates)),
            (outer(x, d_candidates), outer(before, d_products), sum_rows(d_candidates)),
        )
        return None, None, None, *gradients[0], *gradients[1]


def _gradient_with_graph(ctx, grad_states):  # type: ignore[no-untyped-def]
    """The gradient in the parameters, itself differentiable in them and in grad_states."""
    x, continues, end, *_ = ctx.saved_tensors
    parameters = ctx.saved_tensors[-6:]
    # Copies, so that only what is computed here is differentiated; they keep their place in the graph around it.
    states = _final_states(x, continues, end, *(value.view_as(value) for value in parameters))
    return torch.autograd.grad(states, parameters, grad_states, create_graph=True, materialize_grads=True)


def _final_states(x, continues, end, wg, ug, bg, wc, uc, bc):  # type: ignore[no-untyped-def]
    """`gru_final_states` out of differentiable operations."""
    steps, tasks, lanes, _ = x.shape
    cell = wc.shape[-1]
    bg, bc = broadcast_rows(bg, lanes), broadcast_rows(bc, lanes)
    h, after = x.new_zeros(tasks, lanes, cell), []
    for t in range(steps):
        h = h * continues[t]
        r, z = sigmoid(torch.bmm(x[t], wg) + torch.bmm(h, ug) + bg).split(cell, dim=-1)
        n = tanh(torch.bmm(x[t], wc) + bc + r * torch.bmm(h, uc))
        h = n + z * (h - n)
        after.append(h)
    return torch.stack(after, 1)[end.transpose(0, 1)]


def _rows_by_step(end: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each step: which rows of the output end there, and in which lane of the block."""
    steps, _, lanes = end.shape
    task, step, lane = end.transpose(0, 1).nonzero(as_tuple=True)
    order = step.argsort(stable=True)
    counts = torch.bincount(step, minlength=steps).tolist()
    return list(zip(order.split(counts), (task * lanes + lane)[order].split(counts), strict=True))
