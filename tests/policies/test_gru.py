"""The batched GRU primitive against torch.nn.GRU, finite differences and ragged brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmaml.policies.gru import gru_final_states, gru_shapes, gru_states, gru_step, init_with_gru, long_memory

M, T, N, F, H = 3, 6, 4, 5, 7


def _parameters(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = gru_shapes("g", F, H)
    return {name: 0.5 * torch.randn(M, *shape, dtype=dtype) for name, shape in shapes.items()}


def _ragged(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs with episodes of many lengths; the last lane of each task ends in padding."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(M, T, N, F, generator=generator, dtype=dtype)
    start = torch.rand(M, T, N, generator=generator) < 0.3
    start[:, 0] = True
    end = torch.cat([start[:, 1:], torch.ones(M, 1, N, dtype=torch.bool)], dim=1)
    start[:, 1:, -1], end[:, :, -1] = False, False
    end[:, 2, -1] = True
    return x, start, end


def _states(params: dict[str, torch.Tensor], *data: torch.Tensor) -> torch.Tensor:
    """The primitive, given data with the task dimension first."""
    return gru_final_states(params, "g", *(value.transpose(0, 1) for value in data))


def _torch_gru(params: dict[str, torch.Tensor], task: int, episode: torch.Tensor) -> torch.Tensor:
    """Final state of torch.nn.GRU over one episode [t, F]; torch's h' = (1-z) n + z h and gate order r, z, n agree."""
    gru = torch.nn.GRU(F, H, dtype=episode.dtype)
    own = {name.split(".", 1)[1]: value[task] for name, value in params.items()}
    with torch.no_grad():
        gru.weight_ih_l0.copy_(torch.cat([own["gates.input"], own["candidate.input"]], 1).T)
        gru.weight_hh_l0.copy_(torch.cat([own["gates.recurrent"], own["candidate.recurrent"]], 1).T)
        gru.bias_ih_l0.copy_(torch.cat([own["gates.bias"], own["candidate.bias"]], 1)[0])
        gru.bias_hh_l0.zero_()
    return gru(episode[:, None])[1][0, 0]


def test_states_equal_torchs_gru_run_on_each_episode_alone() -> None:
    params = _parameters()
    x, start, end = _ragged()
    states = _states(params, x, start, end)
    rows = end.nonzero().tolist()
    assert len(rows) == len(states)
    for row, (task, last, lane) in enumerate(rows):
        first = max(t for t in range(last + 1) if start[task, t, lane])
        expected = _torch_gru(params, task, x[task, first : last + 1, lane])
        torch.testing.assert_close(states[row], expected, rtol=1e-12, atol=1e-12)


def test_gradient_agrees_with_finite_differences_on_ragged_episodes() -> None:
    params = {name: value.requires_grad_() for name, value in _parameters().items()}
    x, start, end = _ragged()

    def function(*values):
        return _states(dict(zip(params, values, strict=True)), x, start, end)

    assert torch.autograd.gradcheck(function, tuple(params.values()))
    assert torch.autograd.gradgradcheck(function, tuple(params.values()), fast_mode=True)


def _two_derivatives(x: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> list[torch.Tensor]:
    """The states, their gradient, and the gradient of that, in float32."""
    params = {name: value.requires_grad_() for name, value in _parameters(torch.float32).items()}
    states = _states(params, x, start, end)
    first = torch.autograd.grad(states.square().sum(), list(params.values()), create_graph=True)
    sizes = torch.stack([value.square().sum() for value in first])
    return [states, *first, *torch.autograd.grad(sizes.sum(), list(params.values()))]


def test_padding_as_large_as_it_may_be_is_read_by_no_derivative() -> None:
    x, start, end = _ragged(torch.float32)
    large = x.clone()
    large[:, 3:, -1] = 1e30
    for ours, expected in zip(_two_derivatives(large, start, end), _two_derivatives(x, start, end), strict=True):
        assert torch.equal(ours, expected)


def test_steps_that_no_task_needs_change_no_bits() -> None:
    """Of the tasks in a block, the one whose last episode ends last decides how many steps are computed."""
    x, start, end = _ragged(torch.float32)
    end[:, 4:] = False
    ours = _two_derivatives(x, start, end)
    end[-1, 5] = True
    later = _two_derivatives(x, start, end)
    counts = end.sum((1, 2)).tolist()
    assert torch.equal(torch.cat(later[0].split(counts)[:-1]), ours[0][: sum(counts[:-1])])
    for value, expected in zip(later[1:], ours[1:], strict=True):
        assert torch.equal(value[:-1], expected[:-1]) and not torch.equal(value[-1], expected[-1])


def test_steps_after_the_last_end_do_not_matter() -> None:
    params = _parameters()
    x, start, end = _ragged()
    changed = x.clone()
    changed[:, 3:, -1] = 1e3
    assert torch.equal(_states(params, x, start, end), _states(params, changed, start, end))


@pytest.mark.parametrize("lanes", [N, 1])
def test_a_task_alone_has_the_bits_it_has_in_a_batch(lanes: int) -> None:
    params = {name: value.requires_grad_() for name, value in _parameters(torch.float32).items()}
    x, start, end = (value[:, :, :lanes] for value in _ragged(torch.float32))
    together = _states(params, x, start, end)
    gradients = torch.autograd.grad(together.square().sum(), list(params.values()))
    rows = together.split(end.sum((1, 2)).tolist())
    for task in range(M):
        own = {name: value[task : task + 1].detach().requires_grad_() for name, value in params.items()}
        alone = _states(own, x[task : task + 1], start[task : task + 1], end[task : task + 1])
        assert torch.equal(alone, rows[task])
        alone_gradients = torch.autograd.grad(alone.square().sum(), list(own.values()))
        for ours, expected in zip(alone_gradients, gradients, strict=True):
            assert torch.equal(ours[0], expected[task])


def test_a_third_derivative_is_refused() -> None:
    params = {name: value.requires_grad_() for name, value in _parameters().items()}
    weight = params["g.candidate.input"]
    (first,) = torch.autograd.grad(_states(params, *_ragged()).square().sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="gru_final_states: expected to be differentiated twice at most"):
        torch.autograd.grad(first.square().sum(), weight, create_graph=True)


def test_a_step_is_to_the_bit_what_is_computed_of_whole_lanes() -> None:
    """Whatever the numbers of steps and of other tasks; both are torch's GRU."""
    params = _parameters(torch.float32)
    x = torch.randn(T, M, N, F, generator=torch.Generator().manual_seed(2))
    states, h = gru_states(params, "g", x), torch.zeros(M, N, H)
    for t in range(T):
        h = gru_step(params, "g", x[t], h)
        assert torch.equal(h, states[t]) and not h.requires_grad
    assert torch.equal(gru_states(params, "g", x[:2]), states[:2])
    alone = {name: value[1:2] for name, value in params.items()}
    assert torch.equal(gru_states(alone, "g", x[:, 1:2]), states[:, 1:2])
    expected = _torch_gru({name: value.double() for name, value in params.items()}, 1, x[:, 1, 3].double())
    torch.testing.assert_close(states[-1, 1, 3].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_all_states_is_autograds_to_parameters_and_inputs() -> None:
    names = list(_parameters())
    params = [value.requires_grad_() for value in _parameters().values()]
    x = torch.randn(3, M, 2, F, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *values: gru_states(dict(zip(names, values, strict=True)), "g", x), (x, *params), nondet_tol=0.0
    )
    states = gru_states(dict(zip(names, params, strict=True)), "g", x)
    (first,) = torch.autograd.grad(states.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_long_memory_still_feels_its_first_input_at_the_end() -> None:
    """Where the plain initialisation has forgotten it, which training would have to undo first."""
    steps, cell = 60, 32
    rng = np.random.default_rng(0)
    plain = init_with_gru(rng, gru_shapes("g", F, cell), "g")
    long = long_memory(rng, plain, "g", steps)
    x = torch.from_numpy(rng.standard_normal((steps, 1, 1, F)).astype(np.float32))

    def felt(params: dict[str, torch.Tensor]) -> float:
        first = x[:1].clone().requires_grad_()
        states = gru_states({name: value[None] for name, value in params.items()}, "g", torch.cat([first, x[1:]]))
        (gradient,) = torch.autograd.grad(states[-1].sum(), first)
        return float(gradient.norm())

    assert felt(long) > 1e-3 > 100 * felt(plain)
    lasts = -1 / torch.sigmoid(long["g.gates.bias"][0, cell:]).log()  # steps in which an entry shrinks by 1/e
    assert lasts.min() > 1 and steps / 2 < lasts.max() < steps
    assert torch.equal(long["g.gates.bias"][:, :cell], plain["g.gates.bias"][:, :cell])
    assert not any(bool(value.any()) for value in (plain["g.gates.bias"], plain["g.candidate.bias"]))
