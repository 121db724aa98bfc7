"""Planning over remembered transitions: against the equations one by one, and what changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from mmaml.policies import epn
from mmaml.policies.epn import Carried, PlanningNetwork
from mmaml.policies.params import Params, ParamSpec

TASKS, LANES, STEPS, SEEN, INPUTS = 3, 4, 7, 5, 9


def a_network(iterations: int = 2, length: int = STEPS) -> tuple[PlanningNetwork, Params]:
    """With parameters of each task's own, none of which is 0."""
    network = PlanningNetwork("memory", SEEN, INPUTS, length, 3, iterations)
    torch.manual_seed(0)
    spec = ParamSpec(network.shapes)
    start = spec.flatten(network.init(np.random.default_rng(0)))
    moved = [spec.unflatten(start + 0.1 * torch.randn(spec.total)) for _ in range(TASKS)]
    return network, {name: torch.stack([task[name] for task in moved]) for name in network.shapes}


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(STEPS, TASKS, LANES, INPUTS, generator=torch.Generator().manual_seed(seed))


def by_the_equations(params: dict[str, Tensor], x: Tensor, iterations: int) -> Tensor:
    """Features [C] after the last step of one lane, from x [t + 1, F] and its task's parameters, in float64."""
    params = {name.removeprefix("memory."): value.double() for name, value in params.items()}

    def layer(name: str, y: Tensor) -> Tensor:
        return y @ params[f"{name}.weight"] + params[f"{name}.bias"]

    def norm(y: Tensor) -> Tensor:
        return layer_norm(y, y.shape[-1:])

    x = x.double()
    state, goal, led = layer("state", x[:, :SEEN]), layer("goal", x[-1:, :SEEN]), layer("led", x[:, SEEN:])
    rows = []
    for s in range(len(x)):
        before = state[s - 1] if s else torch.zeros_like(state[0])
        rows.append(torch.cat([before, led[s], state[s], goal[0]]))
    y = torch.stack(rows)
    for _ in range(iterations):
        q, k, v = (norm(y) @ params["attention.weight"]).chunk(3, -1)
        weights = torch.softmax(q @ k.T / math.sqrt(y.shape[1]), -1)
        y = y + layer("attended", weights @ v)
        y = y + layer("revised", layer("hidden", norm(y)).relu())
    plans = layer("plan", layer("seen", torch.cat([norm(y), state[-1:].expand(len(y), -1)], 1)).relu())
    return layer("features", torch.cat([plans.amax(0), state[-1], goal[0]])[None]).relu()[0]


@pytest.mark.parametrize("iterations", [1, 3])
def test_features_are_those_of_the_equations(iterations: int) -> None:
    network, params = a_network(iterations)
    x = inputs()
    found = network.unroll(params, x)
    for t, task, lane in np.ndindex(STEPS, TASKS, LANES):
        of_task = {name: value[task] for name, value in params.items()}
        expected = by_the_equations(of_task, x[: t + 1, task, lane], iterations)
        torch.testing.assert_close(found[t, task, lane].double(), expected, rtol=1e-4, atol=1e-5)
    assert float(found.detach().std()) > 0.01


def test_more_iterations_have_no_more_parameters() -> None:
    shapes = [PlanningNetwork("memory", SEEN, INPUTS, STEPS, 3, iterations).shapes for iterations in (1, 8)]
    assert shapes[0] == shapes[1]


def test_later_steps_and_other_lanes_change_nothing() -> None:
    network, params = a_network()
    x, other = inputs(), inputs(2)
    whole = network.unroll(params, x)
    for t in range(STEPS):
        assert (network.unroll(params, torch.cat([x[: t + 1], other[t + 1 :]]))[: t + 1] == whole[: t + 1]).all()
    changed = torch.cat([x[:, :, :1], other[:, :, 1:]], 2)
    torch.testing.assert_close(network.unroll(params, changed)[:, :, 0], whole[:, :, 0])


def test_the_order_of_what_is_remembered_does_not_matter() -> None:
    network, params = a_network()
    weights = [params[name] for name in network.planning]
    memory, state, goal = torch.randn(TASKS, LANES, 6, 9), torch.randn(TASKS, LANES, 3), torch.randn(TASKS, LANES, 3)
    expected = network.planned(None, memory, state, goal, *weights)
    found = network.planned(None, memory[:, :, torch.randperm(6)], state, goal, *weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = network.planned(None, memory, state, goal + 1, *weights)
    assert float((other - expected).abs().max()) > 1e-3


def test_rows_that_hold_nothing_yet_change_nothing() -> None:
    network, params = a_network()
    weights = [params[name] for name in network.planning]
    memory, state, goal = torch.randn(TASKS, LANES, 6, 9), torch.randn(TASKS, LANES, 3), torch.randn(TASKS, LANES, 3)
    absent = torch.zeros(TASKS, LANES, 6, dtype=torch.bool)
    absent[..., 4:] = True
    expected = network.planned(None, memory[:, :, :4], state, goal, *weights)
    torch.testing.assert_close(network.planned(absent, memory, state, goal, *weights), expected, rtol=1e-4, atol=1e-5)


def test_only_as_many_transitions_are_remembered_as_the_memory_has_places() -> None:
    network, params = a_network(length=3)
    x, other = inputs(), inputs(2)
    found = network.unroll(params, torch.cat([other[:3], x[3:]]))[-1]
    torch.testing.assert_close(found, network.unroll(params, x)[-1])
    assert float((network.unroll(params, torch.cat([other[:4], x[4:]]))[-1] - found).abs().max()) > 1e-4


@pytest.mark.parametrize("length", [1, 2, 3, STEPS])
def test_a_step_has_the_bits_of_the_whole_trial_also_once_the_memory_is_full(length: int) -> None:
    network, params = a_network(length=length)
    x = inputs()
    carried = network.start(x[0])
    for t, expected in enumerate(network.unroll(params, x)):
        features, carried = network.step(params, x[t], carried)
        np.testing.assert_array_equal(features, expected)


@pytest.mark.parametrize("length", [3, STEPS])
def test_tasks_at_a_time_change_no_bits(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor while acting, in lanes that remember more or less."""
    network, params = a_network(length=length)
    clock, state = torch.arange(TASKS * LANES).view(TASKS, LANES) % STEPS, torch.randn(TASKS, LANES, 3)
    memory, results = torch.randn(TASKS, LANES, length, 9), []
    for rows in (10**6, 2 * LANES * STEPS, 1):
        monkeypatch.setattr(epn, "CHUNK_ROWS", rows)
        own = {name: value.clone().requires_grad_() for name, value in params.items()}
        x = inputs().requires_grad_()
        features = network.unroll(own, x)
        acted, _ = network.step(params, inputs()[0], Carried(clock, state, memory.clone()))
        results.append([acted, features.detach(), *torch.autograd.grad(features.square().sum(), [x, *own.values()])])
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("length", [1, 3])
def test_the_gradient_of_a_memory_that_is_full_is_that_of_the_last_transitions(length: int) -> None:
    """Of each step by itself, of a trial that is no longer than the memory, but for the state before its first."""
    network, params = a_network(length=length)
    whole, _ = a_network()
    x = inputs().requires_grad_()
    found = network.unroll(params, x)
    for t in range(length, STEPS):
        (gradient,) = torch.autograd.grad(found[t].square().sum(), x, retain_graph=True)
        recent = x[t - length : t + 1].detach().requires_grad_()
        (expected,) = torch.autograd.grad(_without_the_first(whole, params, recent).square().sum(), recent)
        torch.testing.assert_close(gradient[t - length : t + 1], expected, rtol=1e-4, atol=1e-5)
        assert not gradient[: t - length].any() and not gradient[t + 1 :].any()


def _without_the_first(network: PlanningNetwork, params: Params, x: Tensor) -> Tensor:
    """Features after the last of some steps, of which the first is remembered as the state before alone."""
    seen, came = x[..., :SEEN], x[..., SEEN:]
    state, goal, led = (
        torch.einsum("tmnf,mfe->tmne", values, params[f"memory.{name}.weight"]) + params[f"memory.{name}.bias"][None]
        for name, values in (("state", seen), ("goal", seen), ("led", came))
    )
    memory = torch.cat([state[:-1], led[1:], state[1:]], -1).permute(1, 2, 0, 3)
    return network.planned(None, memory, state[-1], goal[-1], *(params[name] for name in network.planning))


def test_a_shorter_memory_holds_no_more_for_the_gradient() -> None:
    """Than one of the whole trial: all steps share the trial's embedded transitions."""

    def held(length: int) -> int:
        network, params = a_network(length=length)
        own = {name: value.clone().requires_grad_() for name, value in params.items()}
        storages: dict[int, int] = {}

        def note(saved: Tensor) -> Tensor:
            storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            features = network.unroll(own, inputs())
        assert features.requires_grad
        return sum(storages.values())

    assert held(4) <= held(STEPS)
