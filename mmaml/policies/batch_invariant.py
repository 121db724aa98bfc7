"""Arithmetic on a batch of tasks whose bits do not depend on how many tasks share the batch.

torch.sum over a middle dimension, and so the gradient of a broadcast, picks its order of summation from the
whole shape: a task alone gets other last bits than in a batch. Here every task is summed by itself. Batched
matrix products already treat each task by itself, provided MKL runs in its strict mode (`mmaml.process_settings`).
Fused elementwise operations (sigmoid, addcmul, lerp, tanh_backward) treat the last few elements of an array,
which do not fill a vector register, by other instructions; single IEEE operations and exp do not differ there.

A GPU (`is_batched`) is given all tasks of the meta-batch at once, so that nothing depends on how they are divided. What
takes time there is how many operations it is given: all tasks and all steps are one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NARROW = 16


def is_batched(x: Tensor) -> bool:
    """Whether a tensor is where all tasks are computed together, in as few operations as possible: on a GPU."""
    return x.device.type != "cpu"


def sum_rows(x: Tensor) -> Tensor:
    """[M, n, H] -> [M, 1, H]; differentiable any number of times."""
    return _SumRows.apply(x)


def broadcast_rows(x: Tensor, rows: int) -> Tensor:
    """[M, 1, H] -> [M, rows, H], each row equal to x; differentiable any number of times."""
    return _BroadcastRows.apply(x, rows)


def columns(row: Tensor, count: int) -> Tensor:
    """[M, 1, H] -> [M, H, count], each column equal to the row; differentiable any number of times."""
    return broadcast_rows(row, count).transpose(1, 2)


def row_product(row: Tensor, weight: Tensor) -> Tensor:
    """x W of one row: [M, 1, I], [M, I, H] -> [M, 1, H]. By `torch.bmm`, its bits would depend on alignment."""
    return sum_rows(weight * columns(row, weight.shape[2]))


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Σ_i values[m, i] · weights[m, i]: [M, n] -> [M]."""
    return sum_rows((values * weights)[..., None]).flatten()


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W + b: [M, n, I], [M, I, H], [M, 1 or n, H] -> [M, n, H].

    A lone row or column is computed twice: a matrix-vector product depends on the alignment of its operands even
    in MKL's strict mode, on some CPUs, and a matrix product does not.
    """
    if x.shape[1] == 1 and not is_batched(x):
        return affine(x.expand(-1, 2, -1), weight, bias)[:, :1].contiguous()
    if weight.shape[-1] == 1:
        return torch.bmm(x, weight.expand(-1, -1, 2))[..., :1] + bias
    return torch.bmm(x, laid_out(weight)).add_(bias)


def affine_by_step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x_t W + b of each step: [T, M, N, I], [M, I, H], [M, 1, H] -> [T, M, N, H]; differentiable once.

    To the bit what `affine` computes of one step alone: the bits of a product depend on how many rows it has.
    """
    if is_batched(x):
        by_task = torch.bmm(x.transpose(0, 1).flatten(1, 2), weight) + bias
        return by_task.view(x.shape[1], x.shape[0], x.shape[2], -1).transpose(0, 1)
    return _AffineByStep.apply(x, weight, bias)


def laid_out(weight: Tensor) -> Tensor:
    """The weight [M, I, H]; a narrow one with contiguous columns, with which MKL is four times faster."""
    narrow = 1 < weight.shape[-1] < NARROW
    return weight.transpose(1, 2).contiguous().transpose(1, 2) if narrow else weight


def outer(x: Tensor, y: Tensor) -> Tensor:
    """x^T y, summed over rows: [M, n, I], [M, n, H] -> [M, I, H]."""
    if y.shape[-1] < min(NARROW, x.shape[-1]):  # the narrow factor first: eight times faster in MKL
        return torch.bmm(y.transpose(1, 2), x).transpose(1, 2)
    return torch.bmm(x.transpose(1, 2), y)


def tanh_(x: Tensor) -> Tensor:
    """tanh in place, as 1 - 2 / (exp(2x) + 1): right to a unit of rounding at 1, in half the time of torch.tanh."""
    return x.mul_(2).exp_().add_(1).reciprocal_().mul_(-2).add_(1)


def tanh(x: Tensor) -> Tensor:
    """tanh of operations that are differentiable any number of times; constant beyond ±20, where it is ±1."""
    return 1 - 2 / ((2 * x.clamp(-20, 20)).exp() + 1)


def sigmoid_(x: Tensor) -> Tensor:
    """Logistic function in place, as 1 / (1 + exp(-x))."""
    return x.neg_().exp_().add_(1).reciprocal_()


def refuse_third_derivative(function: str) -> None:
    """Raise where a second derivative is to be differentiated again, which torch itself may leave out in silence."""
    if torch.is_grad_enabled():
        raise NotImplementedError(f"{function}: expected to be differentiated twice at most, got a third derivative")


class _SumRows(Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[override]
        ctx.rows = x.shape[1]
        if is_batched(x):
            return x.sum(1, keepdim=True)
        return torch.stack([task.sum(0, keepdim=True) for task in x])

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return broadcast_rows(grad, ctx.rows)


class _BroadcastRows(Function):
    @staticmethod
    def forward(ctx, x, rows):  # type: ignore[override]
        return x.expand(-1, rows, -1)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return sum_rows(grad), None


class _AffineByStep(Function):
    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        weight = laid_out(weight)
        return torch.stack([affine(step, weight, bias) for step in x])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        x, weight = ctx.saved_tensors
        shape = x.shape
        x, grad = (values.transpose(0, 1).flatten(1, 2) for values in (x, grad))
        dx = torch.bmm(grad, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        if dx is not None:
            dx = dx.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)
        return dx, outer(x, grad), sum_rows(grad)
