"""MAESN: every training task has a latent distribution of its own, which alone is adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mmaml.algorithms.maesn import LOG_STD, MEAN
from mmaml.config.loading import load_config
from mmaml.errors import ConfigError
from tests.helpers.adapting import (
    CARTPOLE,
    KNOWS,
    KNOWS_NOT,
    TWO_MODES,
    assert_a_task_alone_has_the_bits_of_one_in_a_block,
    assert_the_policies_of_the_objective_sampled,
    collected,
    plain_policy,
)
from tests.helpers.support import held_out_returns, run, small_config

STEP_SIZES = ("step_size.latent.mean", "step_size.latent.log_std")


def away_from_the_start(meta: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Meta-parameters of which none is where training starts."""
    g = torch.Generator().manual_seed(0)
    return {name: (v + 0.3 * torch.randn(v.shape[1:], generator=g)).detach() for name, v in meta.items()}


def test_it_refuses_to_run_without_a_finite_set_of_training_tasks() -> None:
    with pytest.raises(ConfigError, match=r"^num_train_tasks: .*got null; set it, for example to 100$"):
        load_config(None, {}, "maesn")


def test_a_training_task_begins_at_its_row_and_another_at_the_prior() -> None:
    algo, meta, _, _ = collected("maesn", num_train_tasks=5, latent_size=3)
    meta = {name: value.requires_grad_() for name, value in away_from_the_start(meta).items()}
    identity = torch.tensor([4, -1, 0, 2])
    state = algo.begin(meta, identity)
    for name in (MEAN, LOG_STD):
        assert state.params[name].shape == (4, 1, 3)
        assert not state.params[name][1].any()
        (gradient,) = torch.autograd.grad(state.params[name].sum(), meta[name])
        for task, row in enumerate(identity.tolist()):
            expected = torch.zeros(5, 3)
            if row >= 0:
                assert torch.equal(state.params[name][task, 0], meta[name][task, row])
                expected[row] = 1
            assert torch.equal(gradient[task], expected)


def test_means_start_from_the_prior_with_its_standard_deviation() -> None:
    _, meta, _, _ = collected("maesn", num_train_tasks=500)
    means = meta[MEAN][0].detach()
    assert abs(means.mean()) < 0.1 and abs(means.std() - 1) < 0.1
    assert not meta[LOG_STD].any()
    assert all(meta[name].shape[1:] == (1, 2) for name in STEP_SIZES)


@pytest.mark.parametrize(
    "overrides", [{}, CARTPOLE, {"adapt_latent": False}, {"env": "tests.helpers.probes:RandomLengths"}]
)
def test_every_collection_is_sampled_by_the_policy_of_the_objective(overrides: dict[str, Any]) -> None:
    _, _, block, parameters = collected("maesn", num_inner_grad_steps=2, inner_lr=0.5, **overrides)
    assert (block.rollouts[0].identity >= 0).all()
    assert_the_policies_of_the_objective_sampled(block, parameters)


def test_the_step_is_the_gradient_through_the_latent_of_an_episode() -> None:
    """z = μ + σ ε enters the policy beside the observation; μ and log σ move, each at rates of its own."""
    algo, meta, block, _ = collected("maesn", latent_size=3, inner_lr=0.7)
    meta = away_from_the_start(meta)
    data = block.rollouts[0]
    state = algo.begin(meta, data.identity)
    mean, log_std = (state.params[name].clone().requires_grad_() for name in (MEAN, LOG_STD))
    z = mean + log_std.exp() * data.flat("episode_noise")
    new = plain_policy(meta, torch.cat([data.flat("observations"), z], -1))
    torch.testing.assert_close(algo.distribution(state, data).mean, new.mean)
    gains = (new.log_prob(data.flat("actions")) * data.flat("advantages") * data.flat("weights")).sum()
    gradients = torch.autograd.grad(gains, [mean, log_std])
    adapted = algo.adapt(meta, state, block.rollouts[:1])
    for name, gradient in zip((MEAN, LOG_STD), gradients, strict=True):
        assert gradient.abs().max() > 0.01
        moved = adapted.params[name] - state.params[name]
        torch.testing.assert_close(moved, meta["step_size." + name].exp() * gradient, rtol=1e-3, atol=1e-6)
    assert set(adapted.params) == {MEAN, LOG_STD}
    assert all(torch.equal(value, meta[name]) for name, value in adapted.shared.items())


def test_the_objective_holds_the_divergence_of_the_latents_that_tasks_begin_with() -> None:
    algo, meta, block, _ = collected("maesn", latent_kl_penalty=0.3)
    meta = away_from_the_start(meta)
    parts = algo.objective(meta, block.rollouts, create_graph=False)
    identity = block.rollouts[0].identity
    each = torch.arange(len(identity))
    own = Normal(meta[MEAN][each, identity], meta[LOG_STD][each, identity].exp())
    expected = 0.3 * kl_divergence(own, Normal(0.0, 1.0)).sum(-1)
    assert expected.min() > 0.01
    torch.testing.assert_close(parts.added["latent_kl"], expected)
    torch.testing.assert_close(parts.loss, parts.surrogate + expected)


def test_without_adaptation_training_tasks_stay_and_held_out_ones_adapt() -> None:
    algo, meta, block, _ = collected("maesn", adapt_latent=False)
    data = block.rollouts[0]
    data.identity[1:3] = -1
    state = algo.begin(meta, data.identity)
    adapted = algo.adapt(meta, state, [data])
    for name in (MEAN, LOG_STD):
        moved = (adapted.params[name] != state.params[name]).flatten(1)
        assert moved.all(1).tolist() == moved.any(1).tolist() == [False, True, True, False]
    assert len(block.rollouts) == 2


@pytest.mark.parametrize("adapt_latent", [True, False])
def test_step_sizes_are_learned_where_training_tasks_take_steps(adapt_latent: bool, tmp_path: Path) -> None:
    config = small_config("maesn", adapt_latent=adapt_latent, dump_path=str(tmp_path / "run"), learning_rate=0.01)
    parameters = run(config)["parameters"]
    for name in STEP_SIZES:
        start = torch.full((1, 2), config.inner_rate(0)).log()
        assert (parameters[name] != start).all() if adapt_latent else torch.equal(parameters[name], start)
    assert (parameters[LOG_STD] != 0).any()


@pytest.mark.parametrize("overrides", [{}, {"adapt_latent": False}])
def test_a_task_alone_has_the_bits_of_one_in_a_block(overrides: dict[str, Any]) -> None:
    assert_a_task_alone_has_the_bits_of_one_in_a_block("maesn", latent_size=5, num_inner_grad_steps=2, **overrides)


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(small_config("maesn", n_itr=4, eval_interval=2, dump_path=str(tmp_path / "whole")))
    path = str(tmp_path / "cut")
    run(small_config("maesn", n_itr=2, eval_interval=2, dump_path=path))
    resumed = run(small_config("maesn", n_itr=4, eval_interval=2, dump_path=path, restore_path=path))
    assert all(torch.equal(value, whole["parameters"][name]) for name, value in resumed["parameters"].items())


@pytest.mark.long
@pytest.mark.learn
@pytest.mark.parametrize("meta_update, n_itr, learning_rate", [("ppo", 40, 1e-2), ("vpg", 80, 2e-2), ("trpo", 25, 1.0)])
def test_it_learns_to_adapt_to_either_mode(meta_update: str, n_itr: int, learning_rate: float, tmp_path: Path) -> None:
    """On tasks that are none of the training tasks, within three steps from the prior."""
    settings = TWO_MODES | {"n_itr": n_itr, "meta_update": meta_update, "learning_rate": learning_rate}
    settings |= {"num_train_tasks": 20, "latent_kl_penalty": 0.1}
    config = small_config("maesn", dump_path=str(tmp_path / "run"), **settings)
    returns = held_out_returns(config, run(config), stages=4).mean(0)
    assert returns[0] < KNOWS_NOT + 0.3 and returns[3] > KNOWS - 1
