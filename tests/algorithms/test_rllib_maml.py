"""RLlib's MAML: its losses against plain torch, its value function, its columns, and what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions
from torch.nn import functional

from mmaml.algorithms.maml import TaskState
from mmaml.config.loading import build_config, idle_keys
from mmaml.policies.distributions import Categorical, Distribution, Gaussian
from mmaml.policies.params import ParamSpec
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses
from mmaml.updates.outer_step import TrustRegion
from mmaml.worker import Worker
from tests.helpers.objectives import as_if_sampled, setting
from tests.helpers.support import progress, run, sampled, small_config

Weights = dict[str, torch.Tensor]
TASKS, VALUE_WEIGHT, ENTROPY_WEIGHT = 3, 0.3, 0.2
RAGGED = {"env": "tests.helpers.probes:RandomLengths"}


def network(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """A tanh MLP by torch's own functions."""
    depth = sum(key.startswith(name) and key.endswith("weight") for key in weights)
    for layer in range(depth):
        x = functional.linear(x, weights[f"{name}.{layer}.weight"].T, weights[f"{name}.{layer}.bias"])
        x = x.tanh() if layer < depth - 1 else x
    return x


def seen_by_values(data: Rollouts, task: int, horizon: int) -> torch.Tensor:
    """[o, t / T] of every step of a task, and of what follows each lane's last: [N, T+1, O+1]."""
    observations = torch.cat([data.observations[task], data.final_observations[task][:, None]], 1)
    times = torch.zeros(observations.shape[:2], dtype=observations.dtype)
    for lane, starts in enumerate(data.episode_start[task].tolist()):
        for step in range(1, times.shape[1]):
            begins = step < len(starts) and starts[step]
            times[lane, step] = 0 if begins else times[lane, step - 1] + 1
    return torch.cat([observations, times[..., None] / horizon], -1)


class Plain:
    """One task's real steps of a collection, and RLlib's losses of them by torch's own distributions."""

    def __init__(self, rollouts: Rollouts, task: int, horizon: int) -> None:
        real = rollouts.mask[task] > 0
        self.seen_by_values = seen_by_values(rollouts, task, horizon)[:, :-1][real]
        self.observations, self.actions = rollouts.observations[task][real], rollouts.actions[task][real]
        self.advantages, self.targets = rollouts.advantages[task][real], rollouts.value_targets[task][real]
        old = [value[task].expand(*real.shape, -1)[real] for value in rollouts.distribution]
        self.gaussian = isinstance(rollouts.distribution, Gaussian)
        self.old = self.over(*old)

    def over(self, output: torch.Tensor, log_std: torch.Tensor | None = None) -> distributions.Distribution:
        if log_std is None:
            return distributions.OneHotCategorical(logits=output)
        return distributions.Independent(distributions.Normal(output, log_std.exp().expand_as(output)), 1)

    def policy(self, weights: Weights) -> distributions.Distribution:
        output = network(weights, "policy", self.observations)
        return self.over(output, weights["policy.log_std"]) if self.gaussian else self.over(output)

    def ratio(self, weights: Weights) -> torch.Tensor:
        return (self.policy(weights).log_prob(self.actions) - self.old.log_prob(self.actions)).exp()

    def kl(self, weights: Weights) -> torch.Tensor:
        return distributions.kl_divergence(self.old, self.policy(weights)).mean()

    def regularisers(self, weights: Weights) -> torch.Tensor:
        error = (network(weights, "value", self.seen_by_values).squeeze(-1) - self.targets).square().mean()
        return VALUE_WEIGHT * error - ENTROPY_WEIGHT * self.policy(weights).entropy().mean()

    def inner_loss(self, weights: Weights) -> torch.Tensor:
        return -(self.ratio(weights) * self.advantages).mean() + self.regularisers(weights)

    def outer_loss(self, weights: Weights, clip_eps: float) -> torch.Tensor:
        ratio = self.ratio(weights)
        clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
        gains = torch.minimum(ratio * self.advantages, clipped * self.advantages)
        return -gains.mean() + self.regularisers(weights)


@pytest.mark.parametrize("actions, collect", [(Gaussian, "episodes"), (Categorical, "lanes")])
def test_objective_and_gradient_equal_plain_torch(actions: type[Distribution], collect: str) -> None:
    weights_of = {"vf_loss_coeff": VALUE_WEIGHT, "entropy_coeff": ENTROPY_WEIGHT}
    algo, flat, rollouts, options = setting("rllib_maml", 2, actions=actions, collect=collect, **weights_of)
    options |= {"outer_kl_coefficient": 0.0}
    ours = algo.meta_gradient(flat, rollouts, None, **options)
    for task in range(TASKS):
        meta = {name: value.clone().requires_grad_() for name, value in algo.spec.unflatten(flat).items()}
        weights, kls = meta, []
        for data in rollouts[:-1]:
            plain = Plain(data, task, algo.config.max_path_length)
            kls.append(plain.kl(weights))
            gradients = torch.autograd.grad(plain.inner_loss(weights), list(weights.values()), create_graph=True)
            weights = {
                name: value - algo.config.inner_lr * gradient
                for (name, value), gradient in zip(weights.items(), gradients, strict=True)
            }
        last = Plain(rollouts[-1], task, algo.config.max_path_length)
        penalties = [eta * kl for eta, kl in zip(options["kl_coefficients"], kls, strict=True)]
        loss = last.outer_loss(weights, options["clip_eps"]) + sum(penalties) / len(penalties)
        torch.testing.assert_close(ours["loss"][task], loss.detach())
        torch.testing.assert_close(ours["value"] + ours["entropy"], ours["loss"] - _rest(ours, options))
        torch.testing.assert_close((ours["value"] + ours["entropy"])[task], last.regularisers(weights))
        expected = torch.autograd.grad(loss, list(meta.values()))
        for gradient, (name, value) in zip(expected, algo.spec.unflatten(ours["gradient"][task]).items(), strict=True):
            torch.testing.assert_close(value, gradient, rtol=1e-9, atol=1e-11, msg=name)


def _rest(parts: Weights, options: dict[str, Any]) -> torch.Tensor:
    penalties = [eta * parts["inner_kl"][:, k] for k, eta in enumerate(options["kl_coefficients"])]
    return parts["surrogate"] + sum(penalties) / len(penalties)


@pytest.mark.parametrize("name", [Gaussian, Categorical])
def test_entropies_are_torchs(name: type[Distribution]) -> None:
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 5, 4, generator=g, dtype=torch.float64)
    if name is Categorical:
        expected = distributions.Categorical(logits=first).entropy()
        torch.testing.assert_close(Categorical(first + 50).entropy(), expected)
        return
    std = second[:, :1]
    expected = distributions.Normal(first, std.exp().expand_as(first)).entropy().sum(-1)
    torch.testing.assert_close(Gaussian(first, std).entropy(), expected)


def test_values_are_those_of_the_adapted_parameters_at_every_step_and_after_the_last() -> None:
    algo, flat, rollouts, _ = setting("rllib_maml", 2)
    meta = algo.spec.per_task(flat, TASKS)
    state = algo.begin(meta, rollouts[0].identity)
    seen = []
    for k, data in enumerate(rollouts):
        ours = algo.values(state, data)
        for task in range(TASKS):
            own = {name: value[task] for name, value in state.params.items()}
            inputs = seen_by_values(data, task, algo.config.max_path_length)
            torch.testing.assert_close(ours[task], network(own, "value", inputs).squeeze(-1))
        seen.append(algo.values(state, rollouts[0]))
        state = algo.adapt(meta, state, rollouts[: k + 1])
    assert not torch.allclose(seen[0], seen[1]) and not torch.allclose(seen[1], seen[2])


def test_collections_keep_targets_of_the_value_function() -> None:
    """With λ = 0 a target is the reward and the discounted value of what follows."""
    worker, parameters, _ = sampled(small_config("rllib_maml", gae_lambda=0.0, discount=0.9, **RAGGED))
    assert worker.block is not None
    data = worker.block.rollouts[0]
    algo: Any = worker.algorithm
    values = algo.values(algo.begin(algo.spec.per_task(parameters, data.tasks), data.identity), data).detach()
    assert not data.truncated[..., :-1].any()
    following = values[..., 1:].masked_fill(data.terminated, 0.0)
    torch.testing.assert_close(data.value_targets, data.rewards + 0.9 * following)
    for task in range(data.tasks):
        gains = (data.value_targets - values[..., :-1])[task]
        torch.testing.assert_close(data.advantages[task], (gains - gains.mean()) / gains.std(correction=0))


def test_the_baseline_has_no_effect_and_the_notice_says_so(tmp_path: Path) -> None:
    results = [
        run(small_config("rllib_maml", baseline=baseline, dump_path=str(tmp_path / baseline)))["parameters"]
        for baseline in ("LinearFeatureBaseline", "ZeroBaseline")
    ]
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    given = {"baseline": "ZeroBaseline", "vf_loss_coeff": 1.0, "discount": 0.9}
    for algorithm, idle in (("rllib_maml", ["baseline"]), ("promp", ["vf_loss_coeff"])):
        assert idle_keys(build_config(given | {"algorithm": algorithm}), given) == idle


@pytest.mark.parametrize("actions", [Gaussian, Categorical])
def test_a_block_gives_the_gradients_and_values_of_its_tasks_alone(actions: type[Distribution]) -> None:
    """In float32 and bit for bit; the value function's single output lies unaligned in memory."""
    algo, flat, rollouts, options = setting("rllib_maml", 2, actions=actions, entropy_coeff=0.1, hidden_sizes=[13, 7])
    single = [
        Rollouts.from_fields({name: v.float() if v.is_floating_point() else v for name, v in c.fields().items()})
        for c in rollouts
    ]
    meta = algo.spec.per_task(flat.float(), TASKS)
    values = algo.values(algo.begin(meta, single[0].identity), single[0])
    together = algo.meta_gradient(flat.float(), single, None, **options)["gradient"]
    for task in range(TASKS):
        own = [collection.select(slice(task, task + 1)) for collection in single]
        assert torch.equal(algo.meta_gradient(flat.float(), own, None, **options)["gradient"][0], together[task])
        one = algo.begin(algo.spec.per_task(flat.float(), 1), own[0].identity)
        assert torch.equal(algo.values(one, own[0])[0], values[task])


@pytest.mark.parametrize("update, steps", [("ppo", 1), ("vpg", 2), ("trpo", 1)])
def test_returns_are_logged_by_rllibs_names(update: str, steps: int, tmp_path: Path) -> None:
    options = {"num_inner_grad_steps": steps, "meta_update": update, "log_grad_norm": True, **RAGGED}
    run(small_config("rllib_maml", dump_path=str(tmp_path / "run"), **options))
    for line in progress(tmp_path / "run"):
        row = {name: float(value) for name, value in line.items()}
        names = ["episode_reward_mean", *(f"episode_reward_mean_adapt_{k}" for k in range(1, steps + 1))]
        ours = [row[name] for name in names]
        assert ours == [row[f"Step_{k}-AverageReturn"] for k in range(steps + 1)]
        assert len(set(ours)) == steps + 1
        assert row["adaptation_delta"] == ours[-1] - ours[0]
        assert row["Loss-value"] > 0 and row["Loss-entropy"] == 0
        assert row["GradNorm-value"] > 0


@pytest.mark.parametrize("trainable", [False, True])
def test_the_trust_region_of_values_is_a_block_of_the_fisher_product(trainable: bool) -> None:
    """Against finite differences of the gradient of KL(π) + KL(N(V, σ²)), where the parameters sampled."""
    algo, flat, rollouts, _ = setting("rllib_maml", 2, trainable_inner_step_size=trainable, entropy_coeff=0.1)
    as_if_sampled(algo, flat, rollouts)

    def adapted(at: torch.Tensor) -> tuple[Weights, TaskState]:
        meta = algo.spec.per_task(at, TASKS)
        state = algo.begin(meta, rollouts[0].identity)
        for k in range(2):
            state, _ = algo.inner_step(meta, state, rollouts[: k + 1], create_graph=True)
        return meta, state

    last = rollouts[-1]
    held = algo.value_of_steps(adapted(flat)[1].params, last).detach()
    error = ((held - last.flat("value_targets")).square() * last.flat("weights")).sum(1)

    def gradient(at: torch.Tensor) -> torch.Tensor:
        meta, state = adapted(at)
        moved = (algo.value_of_steps(state.params, last) - held).square() * last.flat("weights")
        distance = losses.mean_kl(algo.distribution(state, last), last) + moved.sum(1) / (2 * error)
        gradients = torch.autograd.grad(distance.sum(), list(meta.values()))
        return algo.spec.flatten_per_task(dict(zip(meta, gradients, strict=True)))

    v = torch.randn(len(flat), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours = algo.fisher_product(flat, rollouts, v)["product"]
    expected = (gradient(flat + 1e-5 * v) - gradient(flat - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)

    blocks = TrustRegion(algo.config, algo.spec, 2).blocks
    assert blocks is not None
    for block, name in enumerate(("policy", "value")):
        inside = torch.cat([torch.full((size,), name in key) for key, size in _sizes(algo.spec).items()])
        assert torch.equal(inside, blocks == block)
        product = algo.fisher_product(flat, rollouts, v * inside)["product"]
        assert product[:, inside].abs().max() > 0.01 and not product[:, ~inside].any()


def _sizes(spec: ParamSpec) -> dict[str, int]:
    return dict(zip(spec.shapes, spec.sizes, strict=True))


LEARN = {
    "meta_batch_size": 8,
    "rollouts_per_meta_task": 10,
    "hidden_sizes": [8],
    "learning_rate": 1e-2,
    "num_promp_steps": 5,
    "inner_lr": 0.01,
    "max_kl": 0.002,
    "cg_iters": 5,
    "save_steps": 1000,
}


@pytest.mark.long
@pytest.mark.learn
@pytest.mark.parametrize("probe, update", [("TargetAction", "ppo"), ("DelayedTarget", "ppo"), ("TargetAction", "trpo")])
def test_it_learns_the_known_action(probe: str, update: str, tmp_path: Path) -> None:
    config = small_config(
        "rllib_maml",
        env=f"tests.helpers.probes:{probe}",
        meta_update=update,
        dump_path=str(tmp_path / "run"),
        max_path_length=4,
        n_itr=50,
        learn_std=False,
        **LEARN,
    )
    one = {name: value[None] for name, value in run(config)["parameters"].items()}
    action = Worker(config).algorithm.policy.distribution(one, torch.ones(1, 1, 1)).mean.item()  # type: ignore[attr-defined]
    assert abs(action - 0.7) < (0.5 if update == "trpo" else 0.15)  # a step of fixed KL does not come to rest


@pytest.mark.learn
@pytest.mark.parametrize("update", ["ppo", "trpo"])
def test_the_value_function_learns_the_known_values(update: str, tmp_path: Path) -> None:
    """Of episodes that pay 1 a step, of known length, of which the ends of lanes cut many."""
    config = small_config(
        "rllib_maml",
        dump_path=str(tmp_path / "run"),
        env_kwargs={"longest": 4},
        max_path_length=5,
        hidden_nonlinearity="relu",
        meta_update=update,
        discount=0.8,
        n_itr=40,
        **RAGGED,
        **LEARN | {"max_kl": 0.02},
    )
    one = {name: value[None] for name, value in run(config)["parameters"].items()}
    pairs = [(left, taken) for left in range(1, 5) for taken in range(5 - left)]
    known = torch.tensor(pairs).float()[None]  # steps left, steps taken
    found = Worker(config).algorithm.value_function(one, known, known[..., 1])[0]  # type: ignore[attr-defined]
    expected = [sum(0.8**t for t in range(left)) for left, _ in pairs]
    np.testing.assert_allclose(found.numpy(), expected, atol=0.25)
