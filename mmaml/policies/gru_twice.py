"""All steps of a batch of GRUs (`mmaml.policies.gru`) with episodes of any length, differentiable twice, written out.

Arrays of all steps are [T, M, N, …]; a name with `_dot` is a derivative in a direction of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from mmaml.policies import kernel
from mmaml.policies.batch_invariant import outer, refuse_third_derivative, sum_rows
from mmaml.policies.gru_steps import by_task, of_parameters, step, step_back


class StatesTwice(Function):
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
                h = step(x[t], h_in, weights, gates[t], products[t], candidates[t], after[t])
        before[steps:] = 0
        ctx.save_for_backward(x, continues, end, gates, candidates, products, before, wg, ug, bg, wc, uc, bc)
        ctx.steps, ctx.restarts = steps, restarts
        return after if end is None else after.transpose(0, 1)[end.transpose(0, 1)]

    @staticmethod
    def backward(ctx, grad_states):  # type: ignore[override]
        return None, None, None, *_Gradient.apply(grad_states, ctx.steps, ctx.restarts, *ctx.saved_tensors)


def _gradient(
    grad_states: Tensor, steps: int, restarts: Sequence[bool], tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives in gates and candidates, before their nonlinearities, in products with U_c, and in the states.

    tensors: what `StatesTwice` keeps.
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
        passed = step_back(dh, before[t], gates[t], products[t], candidates[t], outputs)
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


class _Gradient(Function):
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
        x, before, d_gates, d_candidates, d_products = map(by_task, (x, before, d_gates, d_candidates, d_products))
        if kernel.serves(x, before):
            return of_parameters(x, before, d_gates, d_candidates, d_gates, d_products)
        return (
            *(outer(x, d_gates), outer(before, d_gates), sum_rows(d_gates)),
            *(outer(x, d_candidates), outer(before, d_products), sum_rows(d_candidates)),
        )

    @staticmethod
    def backward(ctx, *direction):  # type: ignore[override]
        """Derivatives in a direction of the parameters: of what `StatesTwice.forward` finds, then of the above."""
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
            by_task, (x, before, before_dot, d_gates, d_products, d_gates_dot, d_candidates_dot, d_products_dot)
        )
        moved = (
            *(outer(x, d_gates_dot), outer(before_dot, d_gates) + outer(before, d_gates_dot), sum_rows(d_gates_dot)),
            outer(x, d_candidates_dot),
            outer(before_dot, d_products) + outer(before, d_products_dot),
            sum_rows(d_candidates_dot),
        )
        return states_dot, None, None, *(None,) * 7, *moved


def _ends_by_step(end: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each step: which episodes of the output end there, and in which lane of the block."""
    steps, _, lanes = end.shape
    task, step, lane = end.transpose(0, 1).nonzero(as_tuple=True)
    order = step.argsort(stable=True)
    counts = torch.bincount(step, minlength=steps).tolist()
    return list(zip(order.split(counts), (task * lanes + lane)[order].split(counts), strict=True))
