"""Pure losses on one collection of rollouts; every result has one entry a task, [M].

n = N·T steps of a task, flattened. `weights` [M, n] are 1/(number of real steps) on real steps and 0 on
padding, so that a weighted sum is the mean over real steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmaml.policies.batch_invariant import is_batched, weighted_sum
from mmaml.policies.distributions import Distribution
from mmaml.sampling.rollouts import Rollouts


def likelihood_ratio(new: Distribution, rollouts: Rollouts) -> Tensor:
    """r = π_new(a|s) / π_old(a|s) on the sampled actions: [M, n]."""
    return (new.log_prob(rollouts.flat("actions")) - rollouts.flat("log_probs")).exp()


def policy_gradient(log_probs: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """L = -mean_t[ log π(a|s) Â ], the log-likelihood form of an inner step (Williams 1992; Finn et al. 2017)."""
    return -weighted_sum(log_probs * advantages, weights)


def any_order_surrogate(log_probs: Tensor, rollouts: Rollouts) -> Tensor:
    """L = -mean_t[ (□_t - □_{t-1}) Â_t ], □_t = Π_{s ≤ t} π_s / π_old,s (Foerster et al. 2018; Farquhar et al. 2019).

    The product is over the episode so far. The published □ stops the gradient of its exponent where this divides by the
    policy that sampled: the same value, 1, and the same derivatives of every order at the sampling parameters, and
    elsewhere a function that these are the derivatives of. Weighing advantages by the differences of □ is weighing
    rewards by □: Σ_t □_t ρ_t, less what no action decides. At the sampling parameters the first derivative is that of
    `policy_gradient`; the second also sees how what was sampled depends on π. log_probs: [M, n].
    """
    log_ratios = (log_probs - rollouts.flat("log_probs")).view(rollouts.rewards.shape)
    exponents = _sums_before(log_ratios, rollouts)
    change = (exponents + log_ratios).exp() - exponents.exp()
    return -weighted_sum((change * rollouts.advantages).flatten(1), rollouts.flat("weights"))


def _sums_before(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Σ of the values [M, N, T] of an episode before each of its steps, of the same shape."""
    if is_batched(values):  # in few operations: sums of the whole lane, less what they were at the episode's start
        index = torch.arange(values.shape[-1], device=values.device)
        of_lane = values.cumsum(-1) - values
        return of_lane - of_lane.gather(-1, index - rollouts.times())
    goes_on = (~rollouts.episode_start).to(values.dtype).unbind(-1)
    steps = values.unbind(-1)
    before = [torch.zeros_like(steps[0])]
    for value, continues in zip(steps[:-1], goes_on[1:], strict=True):
        before.append(continues * (before[-1] + value))
    return torch.stack(before, -1)


def surrogate(ratio: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """L = -mean_t[ r Â ], the low-variance-curvature form (Rothfuss et al. 2018).

    At the sampling parameters r = 1 and the gradient is the policy gradient; unlike the log-likelihood
    form, its derivative also carries the dependence of the sampling distribution on the parameters.
    """
    return -weighted_sum(ratio * advantages, weights)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, weights: Tensor, clip_eps: float) -> Tensor:
    """L = -mean_t[ min(r Â, clip(r, 1-ε, 1+ε) Â) ] (Schulman et al. 2017, eq. 7)."""
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return -weighted_sum(torch.minimum(ratio * advantages, clipped * advantages), weights)


def clip_fraction(ratio: Tensor, weights: Tensor, clip_eps: float) -> Tensor:
    """Share of steps whose ratio lies outside 1 ± ε."""
    return weighted_sum(((ratio - 1).abs() > clip_eps).to(ratio.dtype), weights)


def mean_kl(new: Distribution, rollouts: Rollouts, old: Distribution | None = None) -> Tensor:
    """mean_t KL(π_old(.|s_t) ‖ π_new(.|s_t)), π_old the distribution that sampled, unless another is given."""
    old = rollouts.flat_distribution() if old is None else old
    return weighted_sum(old.kl(new), rollouts.flat("weights"))  # type: ignore[arg-type]


def value_error(values: Tensor, rollouts: Rollouts) -> Tensor:
    """mean_t[ (V - V^target)² ] (Schulman et al. 2017, eq. 9, L^VF). values: V, [M, n]."""
    return weighted_sum((values - rollouts.flat("value_targets")).square(), rollouts.flat("weights"))


def mean_entropy(new: Distribution, rollouts: Rollouts) -> Tensor:
    """mean_t[ H(π_new(.|s_t)) ] (Schulman et al. 2017, eq. 9, S)."""
    return weighted_sum(new.entropy(), rollouts.flat("weights"))
