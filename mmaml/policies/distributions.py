"""Action distributions as values: what the policy put out, and the functions of it that losses need."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
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

    def sample(self, noise: Tensor) -> Tensor:
        """The actions [M, n, A] that standard normal `noise` [M, n, A] selects."""
        return self.mean + self.log_std.exp() * noise

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
