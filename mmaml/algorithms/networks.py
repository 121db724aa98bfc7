"""The policy that a configuration describes, and a value function that is learned in place of a fitted baseline."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmaml.config.keys import Config
from mmaml.policies.distributions import Distribution
from mmaml.policies.mlp import MLP
from mmaml.policies.params import Params
from mmaml.policies.policy import MLPPolicy, make_policy
from mmaml.sampling.rollouts import Rollouts


def policy_of(
    config: Config, actions: type[Distribution], observation_size: int, action_size: int, context_size: int = 0
) -> MLPPolicy:
    """As `make_policy`, of the hidden layers that a configuration says."""
    layers = config.hidden_sizes, config.hidden_nonlinearity
    return make_policy(actions, observation_size, action_size, *layers, config.learn_std, context_size)


class ValueFunction:
    """V(o, t / H), an MLP with the sizes of the policy's hidden layers; its parameters are passed to every call.

    It sees t, the steps since the start of the episode: the horizon H ends an episode, so that what is left of it is
    part of what a state is worth.

    prefix: of its parameters' names. context_size: C of one that also reads a context of the task, which `conditioned`
    makes part of its parameters.
    """

    def __init__(self, prefix: str, config: Config, observation_size: int, context_size: int = 0) -> None:
        sizes = (observation_size + 1, *config.hidden_sizes, 1)
        self.mlp = MLP(prefix, sizes, config.hidden_nonlinearity, context_size)
        self.horizon = config.max_path_length
        self.shapes = self.mlp.shapes

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zero biases."""
        return self.mlp.init(rng)

    def conditioned(self, params: Params, context: Tensor) -> Params:
        """As `MLP.conditioned`."""
        return self.mlp.conditioned(params, context)

    def __call__(self, params: Params, observations: Tensor, times: Tensor) -> Tensor:
        """V of observations [M, n, O], times [M, n] steps into their episodes: [M, n]."""
        share_of_horizon = times[..., None].to(observations.dtype) / self.horizon
        return self.mlp.of_data(params, torch.cat([observations, share_of_horizon], dim=-1)).squeeze(-1)

    def of_lanes(self, params: Params, data: Rollouts) -> Tensor:
        """V of every step of `data` and of what follows each lane's last: [M, N, T+1]."""
        observations = torch.cat([data.observations, data.final_observations[:, :, None]], dim=2)
        times = data.times()
        times = torch.cat([times, times[..., -1:] + 1], dim=2)
        return self(params, observations.flatten(1, 2), times.flatten(1)).view(times.shape)
