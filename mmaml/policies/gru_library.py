"""All steps of a batch of GRUs (`mmaml.policies.gru`) by the library's own, for tasks that share their parameters."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.autograd import Function

from mmaml.policies.batch_invariant import outer, sum_rows
from mmaml.policies.gru_steps import by_task
from mmaml.policies.gru_twice import StatesTwice

CLOSED = -1e4  # what a gate reads to be 0, whatever the state


class LibraryGRU(Function):
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
            again = StatesTwice.apply(x, start, None, *weights)
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
        of_x = by_task(slopes)
        d_wg, d_wc = outer(by_task(x), of_x).split([2 * cell, cell], dim=-1)
        d_ug, d_uc = outer(by_task(before), by_task(recurrent)).split([2 * cell, cell], dim=-1)
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
