"""The GRU of all tasks on a GPU, by the stand-in for one: what the CPU computes, in as many operations for any T."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmaml.policies.gru import gru_shapes, gru_states, mean_of_final_states
from mmaml.policies.mlp import MLP

stand_in = pytest.importorskip("tests.helpers.device")  # of the oldest versions of torch
DEVICE, counted = stand_in.DEVICE, stand_in.counted

M, N, F, H = 3, 4, 5, 7
HEAD = MLP("head", (H, 6, H), "relu")
Params = dict[str, Tensor]


def parameters(shared: bool) -> Params:
    """Of the GRU and of a network after it, of M tasks. shared: by all tasks."""
    g = torch.Generator().manual_seed(0)
    shapes = gru_shapes("g", F, H) | HEAD.shapes
    count = 1 if shared else M
    own = {name: 0.5 * torch.randn(count, *shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: value.expand(M, *value.shape[1:]) for name, value in own.items()}


def ragged(steps: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [T, M, N, F] with episodes of many lengths, the first and last steps of them; large junk in padding."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(steps, M, N, F, generator=g, dtype=torch.float64)
    start = torch.rand(steps, M, N, generator=g) < 0.3
    start[0] = True
    end = torch.cat([start[1:], torch.ones(1, M, N, dtype=torch.bool)])
    start[3:, :, -1], end[:, :, -1] = False, False
    end[2, :, -1] = True
    x[3:, :, -1] = 1e3
    return x, start, end


def moved(params: Params, shared: bool) -> Params:
    """Parameters on the device, of which those of all tasks share their memory, as `ParamSpec.per_task` makes them."""
    if not shared:
        return {name: value.to(DEVICE).requires_grad_() for name, value in params.items()}
    return {
        name: value[0].to(DEVICE).expand(M, *value.shape[1:]).detach().requires_grad_()
        for name, value in params.items()
    }


def mean(params: Params, x: Tensor, start: Tensor, end: Tensor, head: MLP | None = HEAD) -> Tensor:
    return mean_of_final_states(params, "g", x, start, end, head)


@pytest.mark.parametrize("head", [HEAD, None])
@pytest.mark.parametrize("shared", [True, False])
def test_the_mean_of_final_states_and_its_derivatives_are_those_of_the_cpu(shared: bool, head: MLP | None) -> None:
    params, data = parameters(shared), ragged()
    found = []
    for values, own in ((moved(params, shared), [part.to(DEVICE) for part in data]), (params, data)):
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        value = mean(leaves, *own, head)
        once = torch.autograd.grad(value.sin().sum(), list(leaves.values()), retain_graph=True, materialize_grads=True)
        twice = torch.autograd.grad(value.sin().sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
        size = torch.stack([part.square().sum() for part in twice]).sum()
        second = torch.autograd.grad(size, list(leaves.values()), materialize_grads=True)
        found.append([part.detach().cpu() for part in (value, *once, *twice, *second)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_all_states_and_their_gradient_are_those_of_the_cpu(shared: bool) -> None:
    params, (x, _, _) = parameters(shared), ragged()
    found = []
    for values, inputs in ((moved(params, shared), x.to(DEVICE)), (params, x)):
        leaves = [inputs.detach().requires_grad_(), *(value.detach().requires_grad_() for value in values.values())]
        states = gru_states(dict(zip(values, leaves[1:], strict=True)), "g", leaves[0])
        slopes = torch.autograd.grad(states.sin().sum(), leaves, materialize_grads=True)
        found.append([part.detach().cpu() for part in (states, *slopes)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_library_does_not_round_its_products_to_ten_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward compute in float32, even where the process allows TF32."""
    library, cudnn, rounds = torch.gru, torch.backends.cudnn, set()

    def noted(*arguments: Any) -> Any:
        rounds.add(("forward", cudnn.allow_tf32))
        states, last = library(*arguments)
        states.register_hook(lambda _: rounds.add(("back", cudnn.allow_tf32)))
        return states, last

    monkeypatch.setattr(torch, "gru", noted)
    with cudnn.flags(allow_tf32=True):
        params = moved(parameters(True), True)
        states = gru_states(params, "g", ragged()[0].to(DEVICE))
        torch.autograd.grad(states.sum(), list(params.values()), allow_unused=True)
        assert rounds == {("forward", False), ("back", False)} and cudnn.allow_tf32


@pytest.mark.parametrize("size", [0.0, 1.0, 1e6])
def test_a_state_is_forgotten_before_a_start_however_large_it_is(size: float) -> None:
    """And however close to 1 the gates are."""
    x, start, _ = ragged()
    params = parameters(shared=True)
    ends = torch.ones_like(start)
    alone = mean(params, size * x[4:], torch.ones_like(start[4:]), ends[4:], None)
    start[4:] = True
    lanes = [value.to(DEVICE) for value in (size * x, start, torch.cat([torch.zeros_like(ends[:4]), ends[4:]]))]
    torch.testing.assert_close(mean(moved(params, True), *lanes, None).cpu(), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("whole", [True, False])
def test_the_number_of_operations_does_not_grow_with_the_horizon(whole: bool) -> None:
    """Nor is the device waited for."""
    counts = []
    for steps in (6, 60):
        params, data = moved(parameters(True), True), [value.to(DEVICE) for value in ragged(steps)]
        with counted() as count:
            states = gru_states(params, "g", data[0]) if whole else mean(params, *data)
            torch.autograd.grad(states.sum(), list(params.values()), allow_unused=True)
        assert not count.synchronisations
        counts.append(count.operations)
    assert counts[0] == counts[1]


def test_a_second_derivative_of_all_states_is_refused() -> None:
    params = moved(parameters(True), True)
    states = gru_states(params, "g", ragged()[0].to(DEVICE))
    with pytest.raises(NotImplementedError, match="gru_states: expected to be differentiated once"):
        torch.autograd.grad(states.sum(), list(params.values()), create_graph=True, allow_unused=True)
