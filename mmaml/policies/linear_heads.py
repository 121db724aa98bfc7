"""A policy and a value function as linear functions of the features that a recurrent network puts out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmaml.policies.batch_invariant import affine, affine_by_step, broadcast_rows, laid_out
from mmaml.policies.distributions import Categorical, Distribution, Gaussian
from mmaml.policies.mlp import glorot_uniform
from mmaml.policies.params import Params
from mmaml.policies.policy import gaussian

POLICY_SCALE = 0.01  # of the first weights: a policy that begins with no preference


class LinearHeads:
    """π(a|f) and V(f) of features f. Holds sizes only; parameters are passed to every call.

    actions: what distributes them, with A numbers of an action. features: C. learn_std: of a Gaussian, whose log-std is
    a free number for each action entry, else 0.
    """

    def __init__(self, actions: type[Distribution], features: int, action_size: int, learn_std: bool) -> None:
        self.actions, self.learn_std = actions, learn_std
        self.shapes: dict[str, tuple[int, ...]] = {
            "policy.weight": (features, action_size),
            "policy.bias": (1, action_size),
        }
        if actions is Gaussian:
            self.shapes["policy.log_std"] = (1, action_size)
        self.shapes |= {"value.weight": (features, 1), "value.bias": (1, 1)}

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, the policy's scaled down; zeros otherwise, so that a Gaussian's std is 1."""
        params = {name: torch.zeros(shape) for name, shape in self.shapes.items()}
        params["policy.weight"] = POLICY_SCALE * glorot_uniform(rng, *self.shapes["policy.weight"])
        params["value.weight"] = glorot_uniform(rng, *self.shapes["value.weight"])
        return params

    def prepared(self, params: Params) -> Params:
        """The same parameters, with the policy's weights as `acting` wants them."""
        return params | {"policy.weight": laid_out(params["policy.weight"])}

    def acting(self, params: Params, features: Tensor) -> Distribution:
        """The policy after one step, over [M, N, A], from features [M, N, C]; no gradient."""
        with torch.no_grad():
            return self._distribution(params, affine(features, params["policy.weight"], params["policy.bias"]))

    def of_steps(self, params: Params, features: Tensor, lanes: int) -> tuple[Distribution, Tensor]:
        """The policy after each step, over [M, N·T, A], and V [M, N·T], from features [T, M, N or more, C].

        The policy is to the bit that of `acting` in as many lanes; of these, the first N = `lanes` count.
        Differentiable once, in the parameters and the features.
        """
        steps, tasks = features.shape[:2]
        outputs = affine_by_step(features, params["policy.weight"], params["policy.bias"])
        of_task = features.transpose(0, 1).flatten(1, 2)
        bias = broadcast_rows(params["value.bias"], of_task.shape[1])
        values = affine(of_task, params["value.weight"], bias).view(tasks, steps, -1)
        policy = outputs[:, :, :lanes].permute(1, 2, 0, 3).flatten(1, 2)
        return self._distribution(params, policy), values[..., :lanes].transpose(1, 2).flatten(1)

    def _distribution(self, params: Params, outputs: Tensor) -> Distribution:
        if self.actions is Categorical:
            return Categorical(outputs)
        return gaussian(outputs, params["policy.log_std"], self.learn_std)
