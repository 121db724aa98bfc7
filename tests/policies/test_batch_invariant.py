"""Sums and products whose bits do not depend on the batch, at sizes that leave tasks unaligned in memory."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmaml.policies import batch_invariant

SIZES = list(itertools.product((1, 3, 35, 2000), (4, 7, 33, 64), (1, 2, 7, 64)))


@pytest.mark.parametrize("rows, inputs, outputs", SIZES)
def test_a_task_alone_has_the_bits_it_has_in_a_batch(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(5, rows, inputs), torch.randn(5, inputs, outputs), torch.randn(5, 1, outputs)

    def results(part: slice) -> list[torch.Tensor]:
        y = batch_invariant.affine(x[part].clone(), w[part].clone(), b[part].clone())
        z = batch_invariant.tanh_(y.clone())
        weighted = batch_invariant.weighted_sum(x[part, :, 0].clone(), z[..., 0])
        one = batch_invariant.row_product(x[part, :1].clone(), w[part].clone())
        return [
            y,
            z,
            batch_invariant.sigmoid_(y.clone()),
            y.exp(),
            batch_invariant.sum_rows(z),
            weighted,
            z.sum(-1),
            one,
        ]

    together = results(slice(None))
    for task in range(5):
        for alone, batch in zip(results(slice(task, task + 1)), together, strict=True):
            assert torch.equal(alone[0], batch[task])


def test_sums_and_broadcasts_are_each_others_derivatives() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    row = torch.randn(2, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(batch_invariant.sum_rows(x), x.sum(1, keepdim=True))
    assert torch.autograd.gradgradcheck(lambda x: batch_invariant.sum_rows(x).exp(), x)
    assert torch.autograd.gradgradcheck(lambda row: batch_invariant.broadcast_rows(row, 3).exp(), row)


def test_the_product_of_a_row() -> None:
    row = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(batch_invariant.row_product(row, weight), row @ weight)
    assert torch.autograd.gradgradcheck(batch_invariant.row_product, (row, weight))


def test_tanh_and_sigmoid() -> None:
    x = torch.linspace(-20, 20, 10001)
    torch.testing.assert_close(batch_invariant.tanh_(x.clone()), torch.tanh(x), rtol=0, atol=2e-7)
    torch.testing.assert_close(batch_invariant.sigmoid_(x.clone()), torch.sigmoid(x), rtol=0, atol=2e-7)
    extremes = torch.tensor([-1e30, 1e30])
    assert batch_invariant.tanh_(extremes.clone()).tolist() == [-1, 1]
    assert batch_invariant.sigmoid_(extremes.clone()).tolist() == [0, 1]
