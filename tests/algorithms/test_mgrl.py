"""MGRL: its derivatives against autograd and finite differences, its update, and what it keeps to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions

import mmaml
from mmaml import task_block as task_block_module
from mmaml.algorithms import make_algorithm
from mmaml.algorithms.mgrl import MGRL, Discounting, held_values_after, lambda_returns, returns_of
from mmaml.config.loading import idle_keys, load_config
from mmaml.errors import ConfigError, UsageError
from mmaml.policies.distributions import Categorical, Distribution, Gaussian
from mmaml.sampling.rollouts import Rollouts
from mmaml.task_block import TaskBlock
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker
from tests.helpers.mgrl import answers
from tests.helpers.support import assert_same_states, progress, run, small_config
from tests.helpers.synthetic import ragged_rollouts

LEARNS_BOTH = {"meta_lambda": True, "discount": 0.95, "gae_lambda": 0.8}
RAGGED = {"env": "tests.helpers.probes:RandomLengths"}


def setting(actions: type[Distribution] = Gaussian, **overrides: Any) -> tuple[MGRL, torch.Tensor, Rollouts]:
    """An algorithm, parameters and made-up rollouts, in float64."""
    values = {"hidden_sizes": [5, 4], "entropy_coeff": 0.03} | LEARNS_BOTH | overrides
    algo = make_algorithm(load_config(None, values, "mgrl"), 3, 3, actions)
    assert isinstance(algo, MGRL)
    g = torch.Generator().manual_seed(1)
    params = {name: value.double() for name, value in algo.init(np.random.default_rng(0)).items()}
    params = {name: v + 0.1 * torch.randn(v.shape, generator=g, dtype=v.dtype) for name, v in params.items()}
    data = ragged_rollouts(action_size=3, actions=actions, collect=overrides.get("collect", "lanes"))
    ends = data.terminated | data.truncated
    data.values_after = torch.where(ends[..., None], torch.stack([data.advantages, data.value_targets], -1), 0.0)
    return algo, algo.spec.flatten(params), data


# The derivatives.


@pytest.mark.parametrize("discount, gae_lambda", [(0.9, 0.7), (1.0, 1.0), (0.6, 0.0)])
def test_returns_and_their_derivatives_are_those_of_the_recursion_by_autograd(
    discount: float, gae_lambda: float
) -> None:
    data = ragged_rollouts()
    values = torch.randn(*data.rewards.shape[:2], data.rewards.shape[2] + 1, dtype=torch.float64)
    done = data.terminated | data.truncated
    after = torch.where(done, torch.randn(done.shape, dtype=torch.float64).relu(), 0.0)
    assert done.any() and not done[..., -1].all()
    eta = torch.tensor([discount, gae_lambda], dtype=torch.float64, requires_grad=True)
    arrays = (data.rewards.numpy(), values.numpy(), done.numpy(), after.numpy())
    ours = lambda_returns(*arrays, discount, gae_lambda)
    later, steps = values[..., -1], []
    for t in range(data.rewards.shape[2] - 1, -1, -1):
        mixed = (1 - eta[1]) * values[..., t + 1] + eta[1] * later
        later = data.rewards[..., t] + eta[0] * torch.where(done[..., t], after[..., t], mixed)
        steps.append(later)
    returns = torch.stack(steps[::-1], -1)
    np.testing.assert_allclose(ours.returns, returns.detach().numpy(), atol=1e-12)
    for index in np.ndindex(*returns.shape):
        by_discount, by_lambda = torch.autograd.grad(returns[index], eta, retain_graph=True)[0]
        assert ours.by_discount[index] == pytest.approx(by_discount.item(), abs=1e-12)
        assert ours.by_lambda[index] == pytest.approx(by_lambda.item(), abs=1e-12)


@pytest.mark.parametrize("actions", [Gaussian, Categorical])
def test_the_gradient_is_that_of_advantage_actor_critic(actions: type[Distribution]) -> None:
    """Of each task, by torch's own distributions, with the returns as data."""
    algo, flat, data = setting(actions, vf_loss_coeff=0.4)
    found = algo.gradients(flat, [data])
    meta = algo.spec.per_task(flat, data.tasks)
    agent = algo.begin(meta, data.identity)
    out = algo.policy.mlp.of_data(agent.networks, data.flat("observations"))
    if actions is Categorical:
        policy = distributions.Categorical(logits=out)
        log_probs, entropy = policy.log_prob(data.flat("actions").argmax(-1)), policy.entropy()
    else:
        policy = distributions.Normal(out, meta["policy.log_std"].exp().expand_as(out))
        log_probs, entropy = policy.log_prob(data.flat("actions")).sum(-1), policy.entropy().sum(-1)
    values = algo.values(agent, data)
    returns = torch.from_numpy(returns_of(data, values, held_values_after(data)[0], agent.discounting).returns).flatten(
        1
    )
    v = values[..., :-1].flatten(1)
    real = data.flat("mask") > 0
    losses = [
        (-(g - b.detach()) * lp + 0.4 * 0.5 * (b - g).square() - 0.03 * h)[mask].mean()
        for g, b, lp, h, mask in zip(returns, v, log_probs, entropy, real, strict=True)
    ]
    inside = [name for name in algo.spec.shapes if name.startswith(("policy", "value"))]
    expected = torch.autograd.grad(sum(losses), [meta[name] for name in inside])  # type: ignore[arg-type]
    ours = algo.spec.unflatten(found["gradient"])
    for name, value in zip(inside, expected, strict=True):
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["policy"] + found["value"] + found["entropy"], torch.stack(losses))
    assert not algo.spec.flatten({n: v[0] for n, v in ours.items() if n in algo.spec.shapes})[-2:].any()


@pytest.mark.parametrize("name, index", [("discount", -2), ("lambda", -1)])
@pytest.mark.parametrize("actions", [Gaussian, Categorical])
def test_its_derivative_in_what_is_learned_is_that_of_the_update(
    actions: type[Distribution], name: str, index: int
) -> None:
    """Finite differences of θ' = θ - α g(τ, θ, η) in u."""
    values: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.3, "discount_range": [0.2, 1.0]}
    algo, flat, data = setting(actions, **values)
    size = algo.networks.total

    def updated(u: float) -> torch.Tensor:
        at = flat.clone()
        at[index] = u
        fresh, _, _ = setting(actions, **values)
        return fresh.update(at, answers(fresh, data), 0)[0][:size]

    u = float(flat[index])
    difference = (updated(u + 1e-5) - updated(u - 1e-5)) / 2e-5
    algo.update(flat, answers(algo, data), 0)
    ours = algo.traces[name] * algo.learned_value(name, u)[1]
    assert ours.abs().max() > 1e-3
    torch.testing.assert_close(ours, difference, rtol=1e-6, atol=1e-9)


def test_the_outer_gradient_is_that_of_the_fixed_returns_in_the_policy_alone() -> None:
    algo, flat, data = setting(outer_discount=0.97, outer_lambda=0.9)
    meta = algo.spec.per_task(flat, data.tasks)
    agent = algo.begin(meta, data.identity)
    values = algo.outer_value.of_lanes(meta, data).detach()
    returns = returns_of(data, values, held_values_after(data)[1], Discounting(0.97, 0.9)).returns
    advantages = (torch.from_numpy(returns) - values[..., :-1]).flatten(1)
    log_probs = algo.distribution(agent, data).log_prob(data.flat("actions"))
    expected = algo.spec.gradient_per_task(-(log_probs * advantages * data.flat("weights")).sum(), meta)
    found = algo.gradients(flat, [data])
    torch.testing.assert_close(found["outer"], expected)
    outer = algo.spec.unflatten(found["outer"])
    assert not any(value.any() for name, value in outer.items() if not name.startswith("policy"))
    # Its value function is trained by these returns, and only it.
    own = algo.spec.unflatten(found["gradient"])["outer_value.2.bias"].flatten()
    errors = ((values[..., :-1].flatten(1) - torch.from_numpy(returns).flatten(1)) * data.flat("weights")).sum(1)
    torch.testing.assert_close(own, algo.config.vf_loss_coeff * errors)
    # Without one of its own, V' is V.
    plain, short, _ = setting(outer_value=False)
    assert not any(name.startswith("outer") for name in plain.spec.shapes)
    assert plain.outer_value is plain.value and plain.gradients(short, [data])["outer"].any()


def test_learned_returns_are_an_input_of_both_networks() -> None:
    """The same as the first layer of [o, γ, λ]; no gradient flows into γ and λ."""
    algo, flat, data = setting(condition_on_returns=True)
    params = {name: value[None] for name, value in algo.spec.unflatten(flat).items()}
    agent = algo.begin(params, torch.tensor([-1]))
    context = torch.tensor(agent.discounting, dtype=torch.float64).expand(1, 5, 2)
    x = data.flat("observations")[:1, :5]
    for network in ("policy", "value"):
        own = {name: value for name, value in params.items() if name.startswith(network)}
        inputs = x if network == "policy" else torch.cat([x, torch.zeros_like(x[..., :1])], -1)
        h = torch.cat([inputs, context], -1)
        for layer in range(3):
            weight = own[f"{network}.{layer}.weight"]
            weight = torch.cat([weight, own[f"{network}.context"]], 1) if layer == 0 else weight
            h = h @ weight + own[f"{network}.{layer}.bias"]
            h = h.tanh() if layer < 2 else h
        if network == "policy":
            torch.testing.assert_close(algo.policy.distribution(agent.networks, x)[0], h)
        else:
            torch.testing.assert_close(algo.value(agent.networks, x, torch.zeros(1, 5)), h[..., 0])
    gradient = algo.spec.unflatten(algo.gradients(flat, [data])["gradient"])
    assert gradient["policy.context"].any() and gradient["value.context"].any()
    assert not gradient["returns.discount"].any() and not gradient["returns.lambda"].any()
    alone, _, _ = setting(condition_on_returns=True, meta_lambda=False)
    assert alone.spec.shapes["policy.context"] == (1, 5)


# The update.


def test_the_trace_decays_and_its_meta_gradient_is_a_step_of_adam() -> None:
    """Two updates by hand, with step sizes of Adam that are held, and a gradient that is scaled down."""
    values = {"trace_decay": 0.6, "learning_rate": 0.02, "max_grad_norm": 0.05, "meta_learning_rate": 0.1}
    algo, flat, first = setting(Categorical, **values)
    second = ragged_rollouts(action_size=3, actions=Categorical, seed=5)
    evaluate, size = answers(algo, first, second), algo.networks.total
    found = [{name: value.mean(0) for name, value in algo.gradients(flat, [first]).items()}]
    moved, row = algo.update(flat, evaluate, 0)
    assert np.isnan(row["MetaGradient-discount"]) and row["Discount"] == pytest.approx(
        0.9 + 0.1 / (1 + np.exp(-float(flat[-2])))
    )
    found.append({name: value.mean(0) for name, value in algo.gradients(moved, [second]).items()})
    again, row = algo.update(moved, evaluate, 1)
    assert torch.equal(moved[size:], flat[size:])

    theta, adam = flat[:size].clone().requires_grad_(), None
    adam = torch.optim.Adam([theta], 0.02)
    traces = {"discount": torch.zeros(size).double(), "lambda": torch.zeros(size).double()}
    for number, one in enumerate(found):
        if number == 1:
            for name, z in traces.items():
                assert row[f"MetaGradient-{name}"] == pytest.approx(float(-one["outer"][:size] @ z), rel=1e-6)
        gradient = one["gradient"][:size]
        factor = 0.05 / gradient.norm()
        assert factor < 1
        theta.grad = gradient * factor
        adam.step()
        square = adam.state[theta]["exp_avg_sq"] / (1 - 0.999 ** (number + 1))
        rates = 0.02 / (square.sqrt() + 1e-8)
        traces = {name: 0.6 * z - rates * factor * one[f"by_{name}"][:size] for name, z in traces.items()}
    torch.testing.assert_close(again[:size], theta.detach(), rtol=1e-6, atol=1e-8)
    for name, z in traces.items():
        torch.testing.assert_close(algo.traces[name], z, rtol=1e-5, atol=1e-8)
    by_u = [
        -row[f"MetaGradient-{name}"] * algo.learned_value(name, float(u))[1]
        for name, u in zip(("discount", "lambda"), flat[size:], strict=True)
    ]
    first_moment = algo.meta_optimizer.state_dict()["state"][0]["exp_avg"]
    torch.testing.assert_close(first_moment, 0.1 * torch.tensor(by_u, dtype=first_moment.dtype))
    signs = torch.tensor([np.sign(row["MetaGradient-discount"]), np.sign(row["MetaGradient-lambda"])])
    torch.testing.assert_close(again[size:] - flat[size:], 0.1 * signs, rtol=1e-3, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_steps_shrink_with_the_iteration_and_the_trace_with_them(optimizer: str) -> None:
    moved, traces = [], []
    for anneal in (1.0, 0.5):
        algo, flat, data = setting(optimizer=optimizer, learning_rate_anneal=anneal)
        moved.append((algo.update(flat, answers(algo, data), 2)[0] - flat)[: algo.networks.total])
        traces.append(algo.traces["discount"])
    for whole, annealed in (moved, traces):
        assert whole.any()
        torch.testing.assert_close(annealed, 0.25 * whole, rtol=1e-6, atol=1e-9)


def test_what_is_learned_keeps_where_it_can_still_change() -> None:
    """Whatever the step size; but from where it starts it is not thrown back."""
    for discount, most in ((0.95, 8.0), (0.9999999, 13.8)):
        algo, flat, data = setting(meta_lambda=False, meta_learning_rate=1e30, discount=discount)
        flat[-1] = torch.logit(torch.tensor((discount - 0.9) / 0.1).double())
        for iteration in range(3):
            flat, row = algo.update(flat, answers(algo, data), iteration)
        assert abs(float(flat[-1])) == pytest.approx(most, abs=0.1)
        assert 0.9 < row["Discount"] < 1


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("outer_value", [True, False])
def test_without_steps_of_its_returns_it_is_the_plain_algorithm_to_the_bit(
    optimizer: str, outer_value: bool, tmp_path: Path
) -> None:
    """γ = 0.75, the middle of its range, is the number itself."""
    values = {"discount": 0.75, "optimizer": optimizer, "n_itr": 4, **RAGGED}
    learning = {"meta_learning_rate": 0.0, "discount_range": [0.5, 1.0], "outer_value": outer_value}
    still = run(small_config("mgrl", **values | learning, dump_path=str(tmp_path / "still")))
    plain = run(small_config("mgrl", **values, meta_discount=False, dump_path=str(tmp_path / "plain")))
    assert plain["parameters"].keys() <= still["parameters"].keys()
    for name, value in plain["parameters"].items():
        assert torch.equal(value, still["parameters"][name])
    rows = [progress(tmp_path / name)[-1] for name in ("still", "plain")]
    assert [float(row["Discount"]) for row in rows] == [0.75, 0.75]
    assert float(rows[0]["MetaGradient-discount"]) != 0 and "MetaGradient-discount" not in rows[1]


# What it keeps to.


@pytest.mark.parametrize("actions", [Gaussian, Categorical])
def test_a_task_is_computed_the_same_alone_as_in_a_block(actions: type[Distribution]) -> None:
    algo, flat, data = setting(actions, hidden_sizes=[13, 7], condition_on_returns=True)
    single = Rollouts.from_fields({n: v.float() if v.is_floating_point() else v for n, v in data.fields().items()})
    together = algo.gradients(flat.float(), [single])
    for task in range(data.tasks):
        alone = algo.gradients(flat.float(), [single.select(slice(task, task + 1))])
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][task])


def test_padding_is_read_by_nothing() -> None:
    algo, flat, data = setting(collect="episodes")
    before = algo.gradients(flat, [data])
    padding = data.mask == 0
    assert padding.any()
    data.observations[padding] = -7e7
    data.actions[padding] = data.distribution[0][padding]
    data.rewards[padding] = torch.nan
    for name, value in algo.gradients(flat, [data]).items():
        torch.testing.assert_close(value, before[name], rtol=1e-12, atol=1e-12)


def test_chunks_of_lanes_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    algo, flat, data = setting()
    block = TaskBlock(algo, [data])
    whole = block.answer(Question("gradients", flat))
    monkeypatch.setattr(task_block_module, "CPU_CHUNK_STEPS", 2 * data.rewards.shape[2])
    for name, value in block.answer(Question("gradients", flat)).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("outer_discount", [0.8, 1.0])
def test_the_value_of_what_followed_counts_after_a_truncation(outer_discount: float) -> None:
    """1 a step without end, episodes of 3 steps: with V = 5, a return of 1 + γ + γ² + 5 γ³; not so where γ' = 1."""
    sizes = {"meta_batch_size": 2, "rollouts_per_meta_task": 2, "hidden_sizes": [4], "max_path_length": 7}
    values = {"discount": 0.9, "discount_range": [0.5, 1.0], "gae_lambda": 1.0, "outer_discount": outer_discount}
    config = small_config("mgrl", env="tests.helpers.probes:Endless", env_kwargs={"limit": 3}, **sizes | values)
    worker = Worker(config)
    algo = worker.algorithm
    assert isinstance(algo, MGRL) and algo.collections == 1
    params = algo.init(np.random.default_rng(0))
    for name in ("value", "outer_value"):
        params[f"{name}.1.weight"] *= 0
        params[f"{name}.1.bias"] += 5 if name == "value" else 4
    flat = algo.spec.flatten(params)
    statistics = worker.collect(flat, None, list(enumerate(worker.sample_tasks(2, 0))), 0)
    assert worker.block is not None and statistics["return"].shape == (2, 1)
    (data,) = worker.block.rollouts
    assert data.truncated.nonzero()[:, 2].tolist() == [2, 5] * 4  # of the lanes, two of each task
    agent = algo.begin(algo.spec.per_task(flat, 2), data.identity)
    after, outer_after = held_values_after(data)
    expected = [sum(0.9**k for k in range(n)) + 5 * 0.9**n for n in (3, 2, 1)]
    found = returns_of(data, algo.values(agent, data), after, agent.discounting)
    np.testing.assert_allclose(found.returns[..., :3], np.broadcast_to(expected, (2, 2, 3)), rtol=1e-5)
    by_discount = [1 + 2 * 0.9 + 15 * 0.9**2, 1 + 10 * 0.9, 5.0]
    np.testing.assert_allclose(found.by_discount[..., :3], np.broadcast_to(by_discount, (2, 2, 3)), rtol=1e-5)
    outer = returns_of(data, algo.values(agent, data), outer_after, Discounting(outer_discount, 1.0)).returns
    end = 4 * 0.8 if outer_discount < 1 else 0.0
    np.testing.assert_allclose(outer[..., 2], 1 + end, rtol=1e-5)
    assert not data.advantages.any() and not data.value_targets.any()
    parts = worker.block.answer(Question("gradients", flat))
    assert all(np.isfinite(part).all() for part in parts.values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_that_goes_on_is_the_run_that_did_not_stop(optimizer: str, tmp_path: Path) -> None:
    """The trace, both optimisers, γ and λ; the same bits where the master takes the gradients."""
    values = {**RAGGED, **LEARNS_BOTH, "optimizer": optimizer, "trace_decay": 0.5, "save_steps": 1}
    whole = run(small_config("mgrl", **values, n_itr=5, dump_path=str(tmp_path / "whole")))
    run(small_config("mgrl", **values, n_itr=3, dump_path=str(tmp_path / "parts")))
    again = {"restore_path": str(tmp_path / "parts"), "dump_path": str(tmp_path / "parts")}
    assert_same_states(run(small_config("mgrl", **values, n_itr=5, **again)), whole)
    here = {"meta_gradient": "master", "dump_path": str(tmp_path / "here")}
    assert_same_states(run(small_config("mgrl", **values, n_itr=5, **here)), whole)
    assert whole["algorithm"]["traces"].keys() == {"discount", "lambda"}
    assert whole["algorithm"]["meta_optimizer"]["state"][0]["step"] == 4  # none before there is a trace
    assert bool(whole["algorithm"]["optimizer"]) is (optimizer == "adam")


def test_states_of_other_sizes_are_refused(tmp_path: Path) -> None:
    state = run(small_config("mgrl", dump_path=str(tmp_path / "run")))["algorithm"]
    algo = Worker(small_config("mgrl")).algorithm
    for part, wrong in (
        ("traces", {"discount": torch.zeros(3)}),
        ("traces", {"lambda": state["traces"]["discount"]}),
        ("traces", {"discount": state["traces"]["discount"] * torch.nan}),
        ("meta_optimizer", state["optimizer"]),
        ("optimizer", state["meta_optimizer"]),
    ):
        with pytest.raises(ValueError, match="expected"):
            algo.load_state_dict(state | {part: wrong})


def test_a_trained_policy_acts_by_what_was_learned_and_does_not_adapt(tmp_path: Path) -> None:
    config = small_config("mgrl", condition_on_returns=True, **RAGGED, dump_path=str(tmp_path / "run"))
    state, policy = run(config), mmaml.load(tmp_path / "run")
    algo = Worker(config).algorithm
    assert isinstance(algo, MGRL) and policy.adapt_steps == 0
    agent = algo.begin({name: value[None] for name, value in state["parameters"].items()}, torch.tensor([-1]))
    observation = np.full(policy.spaces.observation_size, 0.5, np.float32)
    mean = algo.policy.distribution(agent.networks, torch.from_numpy(observation).view(1, 1, -1))[0].view(-1)
    action = policy.act(observation, deterministic=True)
    np.testing.assert_allclose(action, policy.spaces.to_environment(mean[None].numpy())[0], rtol=1e-6)
    policy.record(0.0, terminated=True)
    with pytest.raises(UsageError, match="adapt: mgrl does not adapt to a task; leave it out"):
        policy.adapt()
    exported = policy.module()(torch.from_numpy(observation)[None])
    np.testing.assert_allclose(exported[0].detach().numpy(), action, rtol=1e-5)


# Its keys.


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"discount": 0.9}, "discount: expected a number inside discount_range"),
        ({"discount": 0.8}, "discount: expected a number inside discount_range"),
        ({"meta_lambda": True}, "gae_lambda: expected a number > 0 and < 1"),
        ({"discount_range": [0.9, 0.9]}, "discount_range: expected a list of two numbers"),
        ({"discount_range": [0.9, 1.1]}, "discount_range: expected a list of two numbers"),
        ({"episodes_per_trial": 2}, "episodes_per_trial: expected 1"),
        ({"optimizer": "rmsprop"}, "optimizer: expected one of"),
        ({"meta_learning_rate": -1}, "meta_learning_rate: expected a number ≥ 0"),
    ],
)
def test_what_does_not_fit_is_one_line(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, values, "mgrl")
    assert str(caught.value).startswith(complaint) and "\n" not in str(caught.value)


def test_what_has_no_effect_is_noticed() -> None:
    never = {"baseline": "ZeroBaseline", "normalize_adv": True, "meta_update": "ppo", "num_inner_grad_steps": 3}
    never |= {"inner_lr": 0.1, "clip_eps": 0.2, "normalize_rewards": True, "num_minibatches": 1, "max_kl": 0.1}
    config = load_config(None, never, "mgrl")
    assert set(idle_keys(config, never)) == set(never)
    only_learning = {"outer_discount": 0.9, "trace_decay": 0.5, "meta_learning_rate": 0.1, "discount_range": [0.5, 1]}
    assert idle_keys(load_config(None, only_learning, "mgrl"), only_learning) == []
    plain = only_learning | {"meta_discount": False}
    assert set(idle_keys(load_config(None, plain, "mgrl"), plain)) == set(only_learning)
    used = {"max_grad_norm": 0.5, "learning_rate": 0.1, "learning_rate_anneal": 0.9, "vf_loss_coeff": 1.0}
    assert idle_keys(load_config(None, used, "mgrl"), used) == []
