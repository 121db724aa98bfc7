"""One step of a batch of GRUs (`mmaml.policies.gru`), forward and back, and all steps of trials, differentiable once.

Weights are in the order of `gru_shapes`, arrays of all steps [T, M, N, …].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmaml.policies import kernel
from mmaml.policies.batch_invariant import outer, sigmoid_, sum_rows, tanh_


def step(x: Tensor, h: Tensor, weights: Sequence[Tensor], g: Tensor, q: Tensor, n: Tensor, after: Tensor) -> Tensor:
    """One step of M·N lanes: h' into `after`, and what its derivative needs into g (gates), q (h U_c) and n."""
    wg, ug, bg, wc, uc, bc = weights
    torch.baddbmm(bg, x, wg, out=g)
    sigmoid_(g.baddbmm_(h, ug))
    r, z = g.split(h.shape[-1], dim=-1)
    torch.bmm(h, uc, out=q)
    torch.baddbmm(bc, x, wc, out=n)
    tanh_(n.add_(r * q))
    return torch.sub(h, n, out=after).mul_(z).add_(n)


def step_back(dh: Tensor, h: Tensor, g: Tensor, q: Tensor, n: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """What of dh, the derivative in h' of `step`, goes to h by itself, [M, N, C], not through its products.

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


class StatesOnce(Function):
    """The states [T, M, N, C] after each step, of lanes that begin with a zero state; differentiable once."""

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
            h = step(x[t], h, weights, gates[t], products[t], candidates[t], after[t])
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
            of_gates, of_candidate, of_products = map(by_task, found)
            dx = None
            if ctx.needs_input_grad[0]:
                dx = kernel.layer([(of_gates, wg.transpose(1, 2)), (of_candidate, wc.transpose(1, 2))])
                dx = dx.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)
            # Nothing is before the first step, of which there are as many rows as lanes.
            before = by_task(after)[:, : -shape[2]]
            later = of_gates[:, shape[2] :], of_products[:, shape[2] :]
            return dx, *of_parameters(by_task(x), before, of_gates, of_candidate, *later)
        # Derivatives in q = h U_c, in both gates and in the candidate side by side: the first three are those of
        # products with h, the last three those of products with x, one product each.
        slopes = kernel.steps_of_tasks(x, 4 * cell)
        recurrent = torch.cat([uc, ug], -1).transpose(1, 2).contiguous()
        nothing = torch.zeros_like(candidates[0])
        carried = nothing
        for t in range(len(x) - 1, -1, -1):
            outputs = slopes[t].split([cell, 2 * cell, cell], dim=-1)
            h = after[t - 1] if t else nothing
            passed = step_back(carried + grad_states[t], h, gates[t], products[t], candidates[t], outputs)
            carried = passed.baddbmm_(slopes[t][..., : 3 * cell], recurrent)
        of_x = by_task(slopes[..., cell:])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.bmm(of_x, torch.cat([wg, wc], -1).transpose(1, 2))
            dx = dx.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)
        d_uc, d_ug = outer(by_task(after[:-1]), by_task(slopes[1:, ..., : 3 * cell])).split([cell, 2 * cell], dim=-1)
        d_wg, d_wc = outer(by_task(x), of_x).split([2 * cell, cell], dim=-1)
        d_bg, d_bc = sum_rows(of_x).split([2 * cell, cell], dim=-1)
        return dx, d_wg, d_ug, d_bg, d_wc, d_uc, d_bc


def of_parameters(
    x: Tensor, before: Tensor, of_gates: Tensor, of_candidate: Tensor, with_h: Tensor, of_products: Tensor
) -> tuple[Tensor, ...]:
    """Gradients in the parameters, by the kernel, in the order of `gru_shapes`.

    x: [M, n, F]. before: the states before steps, of which with_h and of_products are the derivatives in gates and in
    h U_c; of_gates, of_candidate: derivatives at all steps, [M, n, ·].
    """
    (d_wg, d_bg), (d_wc, d_bc) = kernel.outer([(x, of_gates)]), kernel.outer([(x, of_candidate)])
    d_ug, d_uc = (kernel.outer([(before, slopes)])[0] for slopes in (with_h, of_products))
    return d_wg, d_ug, d_bg, d_wc, d_uc, d_bc


def by_task(values: Tensor) -> Tensor:
    """[T, M, N, …] -> [M, T·N, …]."""
    return values.transpose(0, 1).flatten(1, 2)
