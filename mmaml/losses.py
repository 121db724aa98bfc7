"""Pure losses on one collection of rollouts; every result has one entry a task, [M].

n = N·T steps of a task, flattened. `weights` [M, n] are 1/(number of real steps) on real steps and 0 on
padding, so that a weighted sum is the mean over real steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmaml.policies.distributions import Distribution
from mmaml.rollouts import Rollouts
from mmaml.taskwise import weighted_sum


def likelihood_ratio(new: Distribution, rollouts: Rollouts) -> Tensor:
    """r = π_new(a|s) / π_old(a|s) on the sampled actions: [M, n]."""
    return (new.log_prob(rollouts.flat("actions")) - rollouts.flat("log_probs")).exp()


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


def mean_kl(new: Distribution, rollouts: Rollouts) -> Tensor:
    """mean_t KL(π_old(.|s_t) ‖ π_new(.|s_t)), π_old the distribution that sampled."""
    old = rollouts.flat_distribution()
    return weighted_sum(old.kl(new), rollouts.flat("weights"))  # type: ignore[arg-type]
