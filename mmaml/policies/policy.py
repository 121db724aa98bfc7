"""Policies as functions of parameter values: an MLP from observations to an action distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.policies.batch_invariant import broadcast_rows
from mmaml.policies.distributions import Categorical, Distribution, Gaussian
from mmaml.policies.mlp import MLP
from mmaml.policies.params import Params

MIN_LOG_STD = math.log(1e-6)


class MLPPolicy(ABC):
    """What policies have in common. Holds sizes only; parameters are passed to every call.

    context_size: C of a policy of [o, c], which acts as `conditioned` says; 0 for one of o alone.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        nonlinearity: str = "tanh",
        context_size: int = 0,
    ) -> None:
        self.mlp = MLP("policy", (observation_size, *hidden_sizes, action_size), nonlinearity, context_size)
        self.shapes = dict(self.mlp.shapes)

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zeros otherwise: a standard deviation of 1."""
        return {name: torch.zeros(shape) for name, shape in self.shapes.items()} | self.mlp.init(rng)

    @abstractmethod
    def distribution(self, params: Params, observations: Tensor) -> Distribution:
        """Parameters [M, …], observations [M, n, O] -> the distribution of actions [M, n, A]."""

    def modulated(self, params: Params, modulation: Params) -> Params:
        """Parameters of the policy whose hidden layers are f(γ ⊙ (W x + b) + β) (FiLM; Vuorio et al. 2019, §4).

        A modulation of a layer's pre-activation is a change of its weights, W γ and γ b + β, so it is made
        once for all steps instead of at each. modulation: "scale.l" and, if it shifts, "shift.l" of hidden layer l,
        [M, 1, H]. Differentiable in the parameters, γ and β.
        """
        params = dict(params)
        for layer in range(self.mlp.depth - 1):
            weight, bias = f"policy.{layer}.weight", f"policy.{layer}.bias"
            scale, shift = modulation[f"scale.{layer}"], modulation.get(f"shift.{layer}")
            params[weight] = params[weight] * broadcast_rows(scale, params[weight].shape[1])
            params[bias] = params[bias] * scale
            if shift is not None:
                params[bias] = params[bias] + shift
        return params

    def conditioned(self, params: Params, context: Tensor, spread: Tensor | None = None) -> Params:
        """Parameters of the policy of [o, c], c being the context, as a function of o alone (`MLP.conditioned`)."""
        return self.mlp.conditioned(params, context, spread)


class GaussianMLPPolicy(MLPPolicy):
    """π(a|s) = N(MLP(s), exp(log_std)²), with a free log-std per action entry."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        nonlinearity: str = "tanh",
        learn_std: bool = True,
        context_size: int = 0,
    ) -> None:
        super().__init__(observation_size, action_size, hidden_sizes, nonlinearity, context_size)
        self.learn_std = learn_std
        self.shapes["policy.log_std"] = (1, action_size)

    def distribution(self, params: Params, observations: Tensor) -> Gaussian:
        """Parameters [M, …], observations [M, n, O] -> Gaussian over actions [M, n, A]."""
        return gaussian(self.mlp.of_data(params, observations), params["policy.log_std"], self.learn_std)


def gaussian(mean: Tensor, log_std: Tensor, learn_std: bool) -> Gaussian:
    """N(mean, exp(log_std)²): means [M, n, A], log-std [M, 1, A], which no gradient reaches without `learn_std`.

    The floor log 1e-6 on the log-std holds here, and so in sampling, adaptation and every loss.
    """
    log_std = log_std.clamp(min=MIN_LOG_STD)
    if not learn_std:
        log_std = log_std.detach()
    if torch.is_grad_enabled():
        log_std = broadcast_rows(log_std, mean.shape[1])
    return Gaussian(mean, log_std)


class CategoricalMLPPolicy(MLPPolicy):
    """π(a|s) = softmax(MLP(s))_a."""

    def distribution(self, params: Params, observations: Tensor) -> Categorical:
        """Parameters [M, …], observations [M, n, O] -> Categorical over actions [M, n, A]."""
        return Categorical(self.mlp.of_data(params, observations))


def make_policy(
    actions: type[Distribution],
    observation_size: int,
    action_size: int,
    hidden_sizes: Sequence[int],
    nonlinearity: str = "tanh",
    learn_std: bool = True,
    context_size: int = 0,
) -> MLPPolicy:
    """The policy whose actions are distributed by `actions`. learn_std: of a Gaussian one."""
    if actions is Categorical:
        return CategoricalMLPPolicy(observation_size, action_size, hidden_sizes, nonlinearity, context_size)
    return GaussianMLPPolicy(observation_size, action_size, hidden_sizes, nonlinearity, learn_std, context_size)
