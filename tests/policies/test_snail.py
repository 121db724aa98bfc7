"""SNAIL's network, against its equations."""

from __future__ import annotations

import pytest
import torch

from mmaml.policies.snail import SNAILNetwork


@pytest.mark.parametrize("length", [1, 2, 4, 5, 8, 9])
def test_dilations_double_as_long_as_they_are_below_the_trial(length: int) -> None:
    block = [2**power for power in range(10) if power == 0 or 2**power < length]
    assert SNAILNetwork("n", 4, length, 3, 2).dilations == block * 2


def test_features_are_those_of_the_equations() -> None:
    """Of every task and lane by itself, one step after another."""
    tasks, lanes, length, inputs, filters, attention = 2, 2, 6, 4, 3, 2
    network = SNAILNetwork("n", inputs, length, filters, attention)
    g = torch.Generator().manual_seed(0)
    params = {name: torch.randn(tasks, *shape, generator=g).double() for name, shape in network.shapes.items()}
    x = torch.randn(tasks, lanes, length, inputs, generator=g).double()
    found = network.unroll(params, x)
    for task in range(tasks):
        own = {name.removeprefix("n."): value[task] for name, value in params.items()}
        for lane in range(lanes):
            y = x[task, lane] @ own["input.weight"] + own["input.bias"]
            for layer, dilation in enumerate([1, 2, 4, 1, 2, 4]):
                now, earlier = own[f"{layer}.weight"].chunk(2, -1)
                before = torch.cat([torch.zeros_like(y[:dilation]), y[:-dilation]])
                u, v = (y @ now + before @ earlier + own[f"{layer}.bias"]).chunk(2, -1)
                y = torch.cat([y, u.tanh() * v.sigmoid()], -1)
            q, k, v = (y @ own["attention.weight"] + own["attention.bias"]).chunk(3, -1)
            read = [(q[t] @ k[: t + 1].T / attention**0.5).softmax(-1) @ v[: t + 1] for t in range(length)]
            torch.testing.assert_close(found[task, lane], torch.cat([y, torch.stack(read)], -1))
