"""The DiCE loss against its definition, and E-MAML's exploration term."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmaml.policies.distributions import Gaussian
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses
from mmaml.updates.evaluate import Evaluate, Question
from tests.helpers.objectives import setting
from tests.helpers.support import sampled, small_config
from tests.helpers.synthetic import ragged_rollouts


def _shifted(data: Rollouts, shift: torch.Tensor) -> Gaussian:
    """The sampling distribution with its means moved by shift [A]."""
    mean, log_std = data.flat_distribution()
    return Gaussian(mean + shift, log_std)


def _loss(data: Rollouts, shift: torch.Tensor) -> torch.Tensor:
    return losses.any_order_surrogate(_shifted(data, shift).log_prob(data.flat("actions")), data)


def _episodes(data: Rollouts, task: int) -> list[tuple[int, slice]]:
    """Lane and steps of each episode."""
    found = []
    for lane in range(data.rewards.shape[1]):
        starts = data.episode_start[task, lane].nonzero().flatten().tolist()
        ends = data.episode_end[task, lane].nonzero().flatten().tolist()
        found += [(lane, slice(a, b + 1)) for a, b in zip(starts, ends, strict=True)]
    return found


@pytest.mark.parametrize("collect", ["lanes", "episodes"])
def test_dice_by_its_definition(collect: str) -> None:
    """Each advantage times what its step adds to the product of ratios so far, episode by episode."""
    data = ragged_rollouts(collect=collect, seed=5)
    shift = torch.tensor([0.05, -0.1], dtype=torch.float64)
    ours = _loss(data, shift)
    log_ratios = _shifted(data, shift).log_prob(data.flat("actions")).view(data.rewards.shape) - data.log_probs
    for task in range(3):
        total = 0.0
        for lane, steps in _episodes(data, task):
            product = 1.0
            for log_ratio, advantage in zip(
                log_ratios[task, lane, steps], data.advantages[task, lane, steps], strict=True
            ):
                total += product * (float(log_ratio.exp()) - 1) * float(advantage)
                product *= float(log_ratio.exp())
        assert float(ours[task]) == pytest.approx(-total / float(data.mask[task].sum()), rel=1e-12)


def _derivatives(loss: Any, order: int) -> list[torch.Tensor]:
    """Derivatives up to `order` of a function of one number, at 0."""
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value, found = loss(x), []
    for _ in range(order):
        (value,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(value.detach())
    return found


def test_the_first_derivative_is_the_policy_gradient_and_the_second_is_not() -> None:
    data = ragged_rollouts(seed=6)
    direction = torch.tensor([1.0, -0.5], dtype=torch.float64)
    weights, advantages = data.flat("weights"), data.flat("advantages")

    def plain(x: torch.Tensor) -> torch.Tensor:
        log_probs = _shifted(data, x * direction).log_prob(data.flat("actions"))
        return losses.policy_gradient(log_probs, advantages, weights).sum()

    ours, theirs = _derivatives(lambda x: _loss(data, x * direction).sum(), 2), _derivatives(plain, 2)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-12)
    assert (ours[1] - theirs[1]).abs() > 0.1


def _two_steps(lanes: int, mean: float) -> Rollouts:
    """Episodes of two steps, a_t ~ N(mean, 1); weights that sum to one an episode."""
    g = torch.Generator().manual_seed(0)
    data = ragged_rollouts(tasks=1, lanes=lanes, horizon=2, action_size=1)
    data.actions = mean + torch.randn(1, lanes, 2, 1, generator=g, dtype=torch.float64)
    data.distribution = Gaussian(torch.full_like(data.actions, mean), torch.zeros(1, 1, 1, 1, dtype=torch.float64))
    data.log_probs = data.distribution.log_prob(data.actions)
    data.episode_start = torch.tensor([True, False]).expand(1, lanes, 2)
    data.episode_end = ~data.episode_start
    data.weights = torch.full((1, lanes, 2), 1 / lanes, dtype=torch.float64)
    return data


def test_all_derivatives_are_those_of_the_expected_return() -> None:
    """Paid a_0 a_1 at the second step: E = μ² for a ~ N(μ, 1); d/dμ = 2μ, d²/dμ² = 2.

    The log-likelihood form, differentiated twice, does not give 2.
    """
    mean = 0.5
    data = _two_steps(200_000, mean)
    paid = data.actions[..., 0, 0] * data.actions[..., 1, 0]
    data.advantages = paid[..., None].expand(data.rewards.shape)
    first, second = _derivatives(lambda x: -_loss(data, x[None]).sum(), 2)
    assert float(first) == pytest.approx(2 * mean, abs=0.03)
    assert float(second) == pytest.approx(2, abs=0.1)

    def log_likelihood(x: torch.Tensor) -> torch.Tensor:
        log_probs = _shifted(data, x[None]).log_prob(data.flat("actions"))
        return -losses.policy_gradient(log_probs, data.flat("advantages"), data.flat("weights")).sum()

    assert abs(float(_derivatives(log_likelihood, 2)[1]) - 2) > 1


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_what_no_action_decides_has_no_derivatives(discount: float) -> None:
    """A constant paid at the second step, whatever the discount."""
    data = _two_steps(200_000, 0.0)
    data.advantages = torch.tensor([discount, 1.0], dtype=torch.float64).expand(data.rewards.shape)
    first, second = _derivatives(lambda x: -_loss(data, x[None]).sum(), 2)
    assert abs(float(first)) < 0.01 and abs(float(second)) < 0.02


def test_the_exploration_term_raises_the_likelihood_of_samples_that_ended_well() -> None:
    algo, flat, rollouts, _ = setting("e_maml", 2)
    vector = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)

    def term(credits: torch.Tensor) -> torch.Tensor:
        meta = algo.spec.per_task(flat, 3)
        parts = algo.objective(meta, rollouts, credits)
        gradients = torch.autograd.grad(parts.added["exploration"].sum(), list(meta.values()), materialize_grads=True)
        return algo.spec.flatten_per_task(dict(zip(meta, gradients, strict=True)))

    ours, unit = term(vector), term(torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(ours, vector[:, None] * unit)
    plain = algo.objective(algo.spec.per_task(flat, 3), rollouts, torch.zeros(3, dtype=torch.float64))
    with_term = algo.objective(algo.spec.per_task(flat, 3), rollouts, vector)
    torch.testing.assert_close(with_term.loss, plain.loss + with_term.added["exploration"])
    meta = algo.spec.per_task(flat, 3)  # one inner step: D_0 alone, mean ratio of the starting policy
    new = algo.distribution(algo.begin(meta, rollouts[0].identity), rollouts[0])
    ratio = losses.likelihood_ratio(new, rollouts[0])
    one = setting("e_maml", 1)[0].objective(meta, rollouts[:2], vector).added["exploration"]
    torch.testing.assert_close(one, -vector * (ratio * rollouts[0].flat("weights")).sum(1))


def test_tasks_are_credited_by_their_index_in_the_meta_batch() -> None:
    """Whatever chunk or rank a task is evaluated in, its credit is its own."""
    worker, parameters, statistics = sampled(small_config("e_maml", meta_batch_size=4))
    assert worker.block is not None
    credits = torch.tensor([1.0, -2.0, 0.5, 3.0])
    whole = worker.block.answer(Question("meta_loss", parameters, credits))["exploration"]
    np.testing.assert_allclose(whole, -credits.numpy(), rtol=1e-4)  # every ratio is 1
    some = worker.block.answer(Question("meta_loss", parameters, credits, [3, 1]))["exploration"]
    np.testing.assert_array_equal(some, whole[[3, 1]])
    returns = worker.block.answer(Question("returns", parameters))["return"]
    np.testing.assert_allclose(returns, statistics["return"])


def test_credits_are_the_last_returns_compared_over_tasks() -> None:
    returns = np.array([[9.0, 9.0, 1.0], [0.0, 5.0, 4.0], [7.0, 2.0, 1.0], [3.0, 3.0, 6.0]])
    asked: list[tuple[str, torch.Tensor | None]] = []

    def answer(question: Question) -> dict[str, np.ndarray]:
        asked.append((question.function, question.vector))
        if question.function == "returns":
            return {"return": returns}
        gradient = np.zeros((4, len(question.parameters)), np.float32)
        parts = dict.fromkeys(("loss", "surrogate", "outer_kl", "clip_fraction"), np.zeros(4))
        return {"gradient": gradient, "inner_kl": np.zeros((4, 2))} | parts

    config = small_config("e_maml", num_inner_grad_steps=2, meta_update="vpg")
    algo = sampled(config)[0].algorithm
    algo.update(torch.zeros(algo.spec.total), Evaluate(answer, range(4), list), 0)
    assert [function for function, _ in asked] == ["returns", "meta_gradient", "meta_loss"]
    for _, credits in asked[1:]:
        assert credits is not None
        torch.testing.assert_close(credits, torch.tensor([-2.0, 1.0, -2.0, 3.0]) / np.sqrt(4.5), rtol=1e-6, atol=0)
