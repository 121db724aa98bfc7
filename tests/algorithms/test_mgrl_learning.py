"""MGRL on problems whose answer is known: now or later, noise against rewards, an action that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms import make_algorithm
from mmaml.algorithms.mgrl import MGRL, lambda_returns
from mmaml.config.loading import load_config
from mmaml.policies.distributions import Categorical
from mmaml.sampling.rollouts import Rollouts
from mmaml.worker import Worker
from tests.helpers.mgrl import answers
from tests.helpers.now_or_later import DELAY, INDIFFERENT, LATE_REWARD, LATER
from tests.helpers.support import progress, run, small_config

CHOICE = {"env": "tests.helpers.now_or_later:NowOrLater", "max_path_length": DELAY + 1}


# Now or later: θ is the logit of "later", p its probability.


def choices(p_of_lanes: list[float], later: list[bool]) -> Rollouts:
    """One task whose lanes are episodes of `NowOrLater`, with weights so that sums are means over episodes."""
    lanes, length = len(later), DELAY + 1
    mask = torch.zeros(1, lanes, length, dtype=torch.float64)
    rewards, weights = torch.zeros_like(mask), torch.zeros_like(mask)
    done = torch.zeros(1, lanes, length, dtype=torch.bool)
    for lane, waits in enumerate(later):
        last = DELAY if waits else 0
        mask[0, lane, : last + 1] = 1
        rewards[0, lane, last] = LATE_REWARD if waits else 1.0
        done[0, lane, last] = True
        weights[0, lane, 0] = p_of_lanes[lane]  # nothing is chosen after the first step
    chosen = torch.tensor(later).long()[None, :, None].expand(1, lanes, length)
    actions = torch.nn.functional.one_hot(chosen, 2).double()
    start = torch.zeros_like(done)
    start[..., 0] = True
    zeros = torch.zeros(1, lanes, length, 1, dtype=torch.float64)
    under_way = (~start)[..., None].double()  # what is observed: 0 at the start, then 1
    data = Rollouts.recorded(
        under_way, actions, rewards, Categorical(0 * actions), mask, start, done, done & False, zeros[:, :, 0], zeros
    )
    data.weights = weights
    return data


def chooser(discount: float, outer_discount: float, **overrides: Any) -> tuple[MGRL, torch.Tensor]:
    """An agent whose only parameters that get a gradient are the two biases of its logits, at θ = 0 and V = 0.

    Both move by α/2, so that θ, their difference, moves by α = 0.5.
    """
    values = {"hidden_sizes": [1], "optimizer": "sgd", "learning_rate": 0.25, "vf_loss_coeff": 0.0}
    values |= {"discount": discount, "gae_lambda": 1.0, "discount_range": [0.0, 1.0]}
    values |= {"outer_discount": outer_discount, "outer_value": False}
    algo = make_algorithm(load_config(None, values | overrides, "mgrl"), 1, 2, Categorical)
    assert isinstance(algo, MGRL)
    params = algo.init(np.random.default_rng(0))
    flat = algo.spec.flatten(
        {n: v.double() if n.startswith("returns") else torch.zeros(v.shape).double() for n, v in params.items()}
    )
    flat[-1] = np.log(discount / (1 - discount))
    return algo, flat


def logit(algo: MGRL, flat: torch.Tensor) -> float:
    early, late = algo.spec.unflatten(flat)["policy.1.bias"].flatten().tolist()
    return late - early


def probability(algo: MGRL, flat: torch.Tensor) -> float:
    return 1 / (1 + np.exp(-logit(algo, flat)))


@pytest.mark.parametrize("discount, outer_discount", [(0.9, 1.0), (0.8, 1.0), (0.9, 0.8)])
def test_the_meta_gradient_of_now_or_later_is_the_exact_one(discount: float, outer_discount: float) -> None:
    """θ' = θ + α p (1 - p) (γ^k R - 1);  dJ'/dγ = p' (1 - p') (γ'^k R - 1) · α p (1 - p) k γ^(k-1) R."""
    algo, flat = chooser(discount, outer_discount)

    def batch(flat: torch.Tensor) -> Rollouts:
        """Both choices, by their probabilities: every sum is an expectation."""
        p = probability(algo, flat)
        return choices([1 - p, p], [False, True])

    moved, _ = algo.update(flat, answers(algo, batch(flat)), 0)
    assert logit(algo, moved) == pytest.approx(0.5 * 0.25 * (discount**DELAY * LATE_REWARD - 1))
    p = probability(algo, moved)
    gain = 0.5 * 0.25 * DELAY * discount ** (DELAY - 1) * LATE_REWARD
    expected = p * (1 - p) * (outer_discount**DELAY * LATE_REWARD - 1) * gain
    _, row = algo.update(moved, answers(algo, batch(moved)), 1)
    assert row["MetaGradient-discount"] == pytest.approx(expected, rel=1e-9)
    if (discount, outer_discount) == (0.9, 1.0):
        assert row["MetaGradient-discount"] == pytest.approx(0.205005, abs=5e-7)


@pytest.mark.parametrize("outer_value", [True, False])
def test_an_outer_value_of_the_learned_discount_favours_myopia(outer_value: bool) -> None:
    """Where the outer return goes on with V after a step, λ' = 0, and V is what γ = 0.8 makes of the late reward.

    Of 2 it leaves 0.82, less than now gives; a value of its own, for γ' = 1, is 2 (Bonnet, Midgley, Laterre 2022).
    """
    algo, flat = chooser(0.8, 1.0, outer_value=outer_value, outer_lambda=0.0)
    params = algo.spec.unflatten(flat)
    for name, value in (("value", 0.8 ** (DELAY - 1) * LATE_REWARD), ("outer_value", LATE_REWARD)):
        if f"{name}.0.weight" in params:
            params[f"{name}.0.weight"][0] = 100.0  # tanh is 0 at the start, and then 1
            params[f"{name}.1.weight"][0] = value
    flat = algo.spec.flatten(params)
    both = choices([0.5, 0.5], [False, True])
    moved, _ = algo.update(flat, answers(algo, both, both), 0)
    p, gain = 0.5, 0.5 * 0.25 * DELAY * 0.8 ** (DELAY - 1) * LATE_REWARD
    _, row = algo.update(moved, answers(algo, both), 1)
    logits = torch.tensor([0.0, logit(algo, moved)]).double()
    chance = logits.softmax(0)[1].item()
    after = LATE_REWARD if outer_value else 0.8 ** (DELAY - 1) * LATE_REWARD
    # Of the two lanes, by half each: A' = 1 now, and V' later.
    expected = gain * p * (after * (1 - chance) - chance)
    assert row["MetaGradient-discount"] == pytest.approx(expected, rel=1e-6)
    assert (row["MetaGradient-discount"] > 0) is outer_value


def test_a_sampled_meta_gradient_of_now_or_later_is_right_in_the_mean() -> None:
    algo, flat = chooser(0.9, 1.0)
    moved, _ = algo.update(flat, answers(algo, choices([0.5, 0.5], [False, True])), 0)
    rng, pairs, episodes = np.random.default_rng(0), 2000, 8

    def gradient(name: str, at: torch.Tensor) -> torch.Tensor:
        drawn = rng.random((pairs, episodes)) < probability(algo, at)
        batches = Rollouts.concatenate([choices([1 / episodes] * episodes, own.tolist()) for own in drawn])
        return algo.gradients(at, [batches])[name][:, : algo.networks.total]

    z, q = -0.25 * gradient("by_discount", flat), gradient("outer", moved)
    estimates = -(z * q).sum(1).numpy()
    error = estimates.std() / np.sqrt(pairs)
    assert error < 0.02 and abs(estimates.mean() - 0.205005) < 3 * error


@pytest.mark.learn
def test_the_discount_of_what_leads_to_noise_falls_and_of_what_leads_to_rewards_rises() -> None:
    """TorchOpt's toy of meta-gradients: a γ for each of ten steps, which give noise and 0.1 by turns.

    A table of values learns r_i + γ_i B_{i+1}, B being what is backed up so, and is judged by B of γ = 1 on new
    rewards, by the square of the error. The derivatives are those of λ = 0 and V = B.
    """
    rng, steps, rate = np.random.default_rng(0), 10, 0.5
    done = np.arange(steps)[None, None] == steps - 1

    def backed_up(discounts: np.ndarray) -> Any:
        rewards = np.where(np.arange(steps) % 2, 0.1, rng.standard_normal(steps))
        values = np.zeros(steps + 1)
        for i in range(steps - 1, -1, -1):
            values[i] = rewards[i] + discounts[i] * values[i + 1] * (i < steps - 1)
        found = lambda_returns(rewards[None, None], values[None, None], done, 0.0 * done, discounts, 0.0)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.returns[0, 0], values[:-1])
        return found

    table, u = np.zeros(steps), np.zeros(steps)
    for _ in range(10_000):
        shares = 1 / (1 + np.exp(-u))
        inner = backed_up(shares)
        table += rate * 2 / steps * (inner.returns[0, 0] - table)
        errors = table - backed_up(np.ones(steps)).returns[0, 0]
        by_discounts = 2 / steps * errors * rate * 2 / steps * inner.by_discount[0, 0]
        u -= rate * by_discounts * shares * (1 - shares)
    before_rewards, before_noise = u[:-1:2], u[1:-1:2]
    assert (before_rewards > 0).all() and (before_noise < 0).all()
    assert before_rewards.mean() > 0.2 and before_noise.mean() < -0.3


@pytest.mark.learn
@pytest.mark.parametrize("outer_discount, rises", [(1.0, True), (0.8, False)])
def test_the_discount_goes_where_the_outer_objective_says(outer_discount: float, rises: bool, tmp_path: Path) -> None:
    """From 0.8, where now is better, past the point where later is; and down, where γ' finds now better."""
    values = {"discount": 0.8, "discount_range": [0.5, 1.0], "outer_discount": outer_discount, "gae_lambda": 1.0}
    values |= {"meta_learning_rate": 0.05, "learning_rate": 0.01, "entropy_coeff": 0.2, "hidden_sizes": [8]}
    sizes = {"meta_batch_size": 4, "rollouts_per_meta_task": 16, "n_itr": 150, "save_steps": 1000}
    path = tmp_path / "run"
    state = run(small_config("mgrl", **CHOICE | values | sizes, dump_path=str(path)))
    discount = float(progress(path)[-1]["Discount"])
    assert discount > INDIFFERENT + 0.05 if rises else discount < 0.7
    algo = Worker(small_config("mgrl", **CHOICE | values | sizes)).algorithm
    assert isinstance(algo, MGRL)
    agent = algo.begin({name: value[None] for name, value in state["parameters"].items()}, torch.tensor([-1]))
    chances = algo.policy.distribution(agent.networks, torch.zeros(1, 1, 1)).log_probs().exp().flatten()  # type: ignore[union-attr]
    assert bool(chances[LATER] > 0.6) is rises


@pytest.mark.learn
def test_it_learns_the_known_continuous_action(tmp_path: Path) -> None:
    sizes = {"meta_batch_size": 8, "rollouts_per_meta_task": 10, "hidden_sizes": [8], "max_path_length": 4}
    values = {"env": "tests.helpers.probes:TargetAction", "learning_rate": 0.01, "learn_std": False, "n_itr": 60}
    config = small_config("mgrl", **sizes | values, save_steps=1000, dump_path=str(tmp_path / "run"))
    state, algo = run(config), Worker(config).algorithm
    assert isinstance(algo, MGRL)
    agent = algo.begin({name: value[None] for name, value in state["parameters"].items()}, torch.tensor([-1]))
    action = algo.policy.distribution(agent.networks, torch.ones(1, 1, 1))[0].item()
    assert action == pytest.approx(0.7, abs=0.15)
