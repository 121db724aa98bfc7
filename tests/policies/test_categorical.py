"""Categorical distributions against counting and torch's own, and what runs through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmaml.policies.distributions import Categorical
from mmaml.updates import losses
from mmaml.worker import Worker
from tests.helpers.support import run, sampled, small_config

g = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 5, 4, generator=g, dtype=torch.float64) * 3 + 50


def test_log_probabilities_and_divergence_are_torchs() -> None:
    other = LOGITS + torch.randn(LOGITS.shape, generator=g, dtype=torch.float64)
    ours, theirs = Categorical(LOGITS), torch.distributions.Categorical(logits=LOGITS)
    choice = torch.arange(4)[None, None].expand(2, 5, 4)
    for action in range(4):
        one_hot = torch.eye(4, dtype=torch.float64)[choice[..., action]]
        torch.testing.assert_close(ours.log_prob(one_hot), theirs.log_prob(choice[..., action]))
    expected = torch.distributions.kl_divergence(theirs, torch.distributions.Categorical(logits=other))
    torch.testing.assert_close(ours.kl(Categorical(other)), expected)
    assert ours.kl(ours).abs().max() < 1e-12


def test_actions_come_as_often_as_the_distribution_says() -> None:
    logits = torch.tensor([[[0.0, 1.0, -1.0]]])
    n = 200_000
    noise = torch.from_numpy(Categorical.draw_noise(np.random.default_rng(0), (1, n, 3)))
    actions = Categorical(logits.expand(1, n, 3)).sample(noise)
    assert (actions.sum(-1) == 1).all() and ((actions == 0) | (actions == 1)).all()
    torch.testing.assert_close(actions.mean((0, 1)), logits.softmax(-1)[0, 0], rtol=0, atol=0.005)


@pytest.mark.parametrize("algorithm", ["promp", "mmaml"])
def test_rollouts_of_discrete_actions(algorithm: str) -> None:
    config = small_config(algorithm, env="CartPoleMassEnv", max_path_length=12)
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    data = worker.block.rollouts[0]
    assert data.actions.shape[-1] == 2 and torch.equal(data.actions.sum(-1), torch.ones(data.rewards.shape))
    assert 0.2 < data.actions[..., 0].mean() < 0.8
    # What was pushed is what was drawn: to the right, the cart's velocity grows.
    gained = data.observations[..., 1:, 1] > data.observations[..., :-1, 1]
    within = ~data.episode_start[..., 1:]
    assert torch.equal(gained[within], data.actions[..., :-1, 1][within] > 0)

    algo = worker.algorithm
    state = algo.begin(algo.spec.per_task(parameters, data.tasks), data.identity)
    new = algo.distribution(state, data)  # type: ignore[attr-defined]
    ratio = losses.likelihood_ratio(new, data)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    assert losses.mean_kl(new, data).abs().max() < 1e-6


@pytest.mark.learn
def test_promp_learns_the_known_choice(tmp_path: Path) -> None:
    config = small_config(
        "promp",
        env="tests.helpers.probes:RightChoice",
        dump_path=str(tmp_path / "run"),
        meta_batch_size=8,
        rollouts_per_meta_task=10,
        max_path_length=4,
        n_itr=30,
        learning_rate=1e-2,
        inner_lr=0.01,
        num_promp_steps=5,
        hidden_sizes=[8],
        save_steps=1000,
    )
    state = run(config)
    one = {name: value[None] for name, value in state["parameters"].items()}
    policy = Worker(config).algorithm.policy  # type: ignore[attr-defined]
    probabilities = policy.distribution(one, torch.ones(1, 1, 1)).log_probs().exp().flatten()
    assert probabilities[2] > 0.8
