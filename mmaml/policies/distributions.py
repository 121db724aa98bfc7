"""Action distributions as values: what the policy put out, and the functions of it that losses need.

The tensors of one may hold the steps of a block of tasks in any shape whose last axis is A: [M, n, A] in losses,
[M, N, A] while acting, [M, N, T, A] in `Rollouts`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor


class Gaussian(NamedTuple):
    """A diagonal Gaussian over actions.

    mean: [M, n, A]. log_std: [M, 1 or n, A], broadcast against the mean.
    """

    mean: Tensor
    log_std: Tensor

    @staticmethod
    def draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal numbers, float32, one for each action entry."""
        return rng.standard_normal(shape, dtype=np.float32)

    @staticmethod
    def recorded(steps: Sequence[Gaussian]) -> Gaussian:
        """T steps of acting, [M, N, A] each, as mean [M, N, T, A] and log_std [M, 1, 1, A]: it is all steps' own."""
        mean = torch.stack([step.mean for step in steps]).permute(1, 2, 0, 3).contiguous()
        return Gaussian(mean, steps[-1].log_std.detach()[:, :1].unsqueeze(1))

    def sample(self, noise: Tensor) -> Tensor:
        """The actions [M, n, A] that standard normal `noise` [M, n, A] selects."""
        return (self.log_std.exp() * noise).add_(self.mean)

    def log_prob(self, actions: Tensor) -> Tensor:
        """log N(a; mean, std), summed over action entries: [M, n]."""
        z = (actions - self.mean) * (-self.log_std).exp()
        constant = 0.5 * math.log(2 * math.pi) * actions.shape[-1]
        return -0.5 * z.square().sum(-1) - self.log_std.sum(-1) - constant

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self ‖ other) = Σ_a log(s'/s) + (s² + (m - m')²) / (2 s'²) - 1/2: [M, n]."""
        variance_ratio = (2 * (self.log_std - other.log_std)).exp()
        distance = (self.mean - other.mean) * (-other.log_std).exp()
        return (other.log_std - self.log_std + 0.5 * (variance_ratio + distance.square() - 1)).sum(-1)

    def entropy(self) -> Tensor:
        """H = Σ_a log s + log(2πe) / 2, the differential entropy, which may be negative: [M, n]."""
        constant = 0.5 * math.log(2 * math.pi * math.e) * self.log_std.shape[-1]
        return (self.log_std.sum(-1) + constant).expand(self.mean.shape[:-1])


class Categorical(NamedTuple):
    """One of A actions, each written as a vector of A with a 1 in its place.

    logits: [M, n, A], normalised or not.
    """

    logits: Tensor

    @staticmethod
    def draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard Gumbel numbers, float32, one for each action."""
        return rng.gumbel(size=shape).astype(np.float32)

    @staticmethod
    def recorded(steps: Sequence[Categorical]) -> Categorical:
        """T steps of acting, [M, N, A] each, as logits [M, N, T, A]."""
        return Categorical(torch.stack([step.logits for step in steps]).permute(1, 2, 0, 3).contiguous())

    def sample(self, noise: Tensor) -> Tensor:
        """The actions [M, n, A] that Gumbel `noise` [M, n, A] selects: argmax(logits + noise) (Gumbel 1954)."""
        choice = (self.logits + noise).argmax(-1, keepdim=True)
        return torch.zeros_like(self.logits).scatter_(-1, choice, 1.0)

    def log_prob(self, actions: Tensor) -> Tensor:
        """log p(a): [M, n]."""
        return (actions * self.log_probs()).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """KL(self ‖ other) = Σ_a p_a (log p_a - log p'_a): [M, n]."""
        log_probs = self.log_probs()
        return (log_probs.exp() * (log_probs - other.log_probs())).sum(-1)

    def entropy(self) -> Tensor:
        """H = -Σ_a p_a log p_a: [M, n]."""
        log_probs = self.log_probs()
        return -(log_probs.exp() * log_probs).sum(-1)

    def log_probs(self) -> Tensor:
        """log p of every action, l_a - log Σ_b exp(l_b): [M, n, A]."""
        shifted = self.logits - self.logits.amax(-1, keepdim=True).detach()
        return shifted - shifted.exp().sum(-1, keepdim=True).log()


Distribution = Gaussian | Categorical
DISTRIBUTIONS = (Gaussian, Categorical)


def distribution_over(actions: Space) -> tuple[type[Distribution], int]:
    """What distributes actions of a family's space, and A."""
    if isinstance(actions, Discrete):
        return Categorical, int(actions.n)
    return Gaussian, cast(Box, actions).shape[0]
