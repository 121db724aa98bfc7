"""Policies as functions of parameter values: an MLP from observations to an action distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.params import Params
from mmaml.policies.distributions import Categorical, Distribution, Gaussian
from mmaml.policies.mlp import mlp
from mmaml.taskwise import broadcast_rows

MIN_LOG_STD = math.log(1e-6)


def glorot_uniform(rng: np.random.Generator, inputs: int, outputs: int) -> Tensor:
    """Weights [inputs, outputs] ~ U(±sqrt(6 / (inputs + outputs))) (Glorot & Bengio 2010)."""
    limit = math.sqrt(6.0 / (inputs + outputs))
    return torch.from_numpy(rng.uniform(-limit, limit, (inputs, outputs)).astype(np.float32))


class MLPPolicy(ABC):
    """What policies have in common. Holds sizes only; parameters are passed to every call."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        nonlinearity: str = "tanh",
    ) -> None:
        self.hidden_sizes = tuple(hidden_sizes)
        self.nonlinearity = nonlinearity
        self._sizes = (observation_size, *hidden_sizes, action_size)
        self.depth = len(self._sizes) - 1
        self.shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.depth):
            self.shapes[f"policy.{layer}.weight"] = (self._sizes[layer], self._sizes[layer + 1])
            self.shapes[f"policy.{layer}.bias"] = (1, self._sizes[layer + 1])

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zeros otherwise: a standard deviation of 1."""
        params = {name: torch.zeros(shape) for name, shape in self.shapes.items()}
        for layer in range(self.depth):
            params[f"policy.{layer}.weight"] = glorot_uniform(rng, *self._sizes[layer : layer + 2])
        return params

    @abstractmethod
    def distribution(self, params: Params, observations: Tensor) -> Distribution:
        """Parameters [M, …], observations [M, n, O] -> the distribution of actions [M, n, A]."""

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """The MLP's outputs [M, n, A]."""
        weights = [params[f"policy.{layer}.weight"] for layer in range(self.depth)]
        biases = [params[f"policy.{layer}.bias"] for layer in range(self.depth)]
        return mlp(observations, weights, biases, self.nonlinearity)

    def modulated(self, params: Params, scales: Sequence[Tensor], shifts: Sequence[Tensor]) -> Params:
        """Parameters of the policy whose hidden layers are f(γ ⊙ (W x + b) + β) (FiLM; Vuorio et al. 2019, §4).

        A modulation of a layer's pre-activation is a change of its weights, W γ and γ b + β, so it is made
        once for all steps instead of at each. scales, shifts: per hidden layer [M, 1, H]; shifts may be
        empty. Differentiable in the parameters, γ and β.
        """
        params = dict(params)
        for layer, scale in enumerate(scales):
            weight, bias = f"policy.{layer}.weight", f"policy.{layer}.bias"
            params[weight] = params[weight] * broadcast_rows(scale, params[weight].shape[1])
            params[bias] = params[bias] * scale
            if shifts:
                params[bias] = params[bias] + shifts[layer]
        return params


class GaussianMLPPolicy(MLPPolicy):
    """π(a|s) = N(MLP(s), exp(log_std)²), with a free log-std per action entry."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        nonlinearity: str = "tanh",
        learn_std: bool = True,
    ) -> None:
        super().__init__(observation_size, action_size, hidden_sizes, nonlinearity)
        self.learn_std = learn_std
        self.shapes["policy.log_std"] = (1, action_size)

    def distribution(self, params: Params, observations: Tensor) -> Gaussian:
        """Parameters [M, …], observations [M, n, O] -> Gaussian over actions [M, n, A].

        The floor log 1e-6 on the log-std holds here, and so in sampling, adaptation and every loss.
        """
        mean = self.outputs(params, observations)
        log_std = params["policy.log_std"].clamp(min=MIN_LOG_STD)
        if not self.learn_std:
            log_std = log_std.detach()
        if torch.is_grad_enabled():
            log_std = broadcast_rows(log_std, mean.shape[1])
        return Gaussian(mean, log_std)


class CategoricalMLPPolicy(MLPPolicy):
    """π(a|s) = softmax(MLP(s))_a."""

    def distribution(self, params: Params, observations: Tensor) -> Categorical:
        """Parameters [M, …], observations [M, n, O] -> Categorical over actions [M, n, A]."""
        return Categorical(self.outputs(params, observations))


def make_policy(
    actions: type[Distribution],
    observation_size: int,
    action_size: int,
    hidden_sizes: Sequence[int],
    nonlinearity: str = "tanh",
    learn_std: bool = True,
) -> MLPPolicy:
    """The policy whose actions are distributed by `actions`. learn_std: of a Gaussian one."""
    if actions is Categorical:
        return CategoricalMLPPolicy(observation_size, action_size, hidden_sizes, nonlinearity)
    return GaussianMLPPolicy(observation_size, action_size, hidden_sizes, nonlinearity, learn_std)
