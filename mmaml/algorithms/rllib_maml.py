"""RLlib's MAML: ProMP with a value function that is meta-learned and adapted beside the policy (Liang et al. 2018).

    θ_{k+1} = θ_k - α ∘ ∇L_in(θ_k; D_k)                                          θ: of the policy and of V
    L_in = -mean[ r Â ] + c_V mean[ (V - V^target)² ] - c_H mean[ H(π) ]         `losses.surrogate`, `.value_error`
    J(θ) = mean over tasks of  -mean[min(r Â, clip(r, 1±ε) Â)] + c_V mean[ (V - V^target)² ] - c_H mean[ H(π) ]
           on D_K at θ_K, + mean over k < K of η_k KL(π_old,k ‖ π_θ_k)

V is an MLP of its own, of [o, t / T]: the horizon ends a task, so that what is left of it is part of what a state is
worth; RLlib's V does not see it. The V with which a task was adapted so far stands in for the baseline: Â and
V^target = V + Â come from it. The η_k are ProMP's, by whose rule RLlib adapts them too. RLlib also clips V - V_old at
10; that is left out: returns of 100 and more, as CartPole's, would hold V back. RLlib has no trust region; here V has
one of its own. An inner step of α changes V by about 2 α c_V ‖∇V‖² times its error: where that is above 2, as with wide
networks and large α, V is thrown off by adaptation, and c_V has to be lowered.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from torch import Tensor

from mmaml.algorithms.maml import AdaptedTasks, TaskState
from mmaml.algorithms.networks import ValueFunction
from mmaml.algorithms.promp import DECLARATION as PARENT
from mmaml.algorithms.promp import ProMP
from mmaml.algorithms.shared_keys import ENTROPY_COEFF, VF_LOSS_COEFF
from mmaml.config.keys import Config
from mmaml.policies.batch_invariant import weighted_sum
from mmaml.policies.distributions import Distribution
from mmaml.policies.params import Params
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses
from mmaml.updates.evaluate import Evaluate, Question

DECLARATION = PARENT.extended(
    keys={"vf_loss_coeff": VF_LOSS_COEFF, "entropy_coeff": ENTROPY_COEFF},
    without=["baseline"],
)
MIN_VARIANCE = 1e-8


class RLlibMAML(ProMP):
    """ProMP with an adapted value function and an entropy bonus, logging returns under RLlib's names too."""

    value_function: ValueFunction

    def build_networks(
        self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]
    ) -> dict[str, tuple[int, ...]]:
        self.value_function = ValueFunction("value", config, observation_size)
        return super().build_networks(config, observation_size, action_size, actions) | self.value_function.shapes

    def adapted_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.policy.shapes | self.value_function.shapes

    def separate_names(self) -> Collection[str]:
        return self.value_function.shapes

    def init_networks(self, rng: np.random.Generator) -> Params:
        """The policy's, and a V of Glorot-uniform weights and zero biases."""
        return super().init_networks(rng) | self.value_function.init(rng)

    def begin(self, meta: Params, identity: Tensor) -> TaskState:
        return TaskState({name: meta[name] for name in self.adapted_shapes()})

    def value_of_steps(self, params: Params, data: Rollouts) -> Tensor:
        """V of every step of `data`: [M, N·T]."""
        return self.value_function(params, data.flat("observations"), data.times().flatten(1))

    def values(self, state: TaskState, rollouts: Rollouts) -> Tensor:
        return self.value_function.of_lanes(state.params, rollouts)

    def regularisers(self, params: Params, new: Distribution, data: Rollouts) -> dict[str, Tensor]:
        """c_V mean[ (V - V^target)² ] and -c_H mean[ H(π) ] on `data`, [M] each."""
        error = losses.value_error(self.value_of_steps(params, data), data)
        return {
            "value": self.config.vf_loss_coeff * error,
            "entropy": -self.config.entropy_coeff * losses.mean_entropy(new, data),
        }

    def step_loss(self, state: TaskState, data: Rollouts, params: Params) -> tuple[Tensor, Distribution]:
        loss, new = super().step_loss(state, data, params)
        return sum(self.regularisers(params, new, data).values(), start=loss), new

    def additions(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        return self.regularisers(adapted.state.params, adapted.new, adapted.rollouts[-1])

    def divergence(self, state: TaskState, data: Rollouts) -> Tensor:
        """KL of the policy, and of N(V, σ²), σ² being the mean of (V - V^target)² (Schulman et al. 2016, §5)."""
        values = self.value_of_steps(state.params, data)
        variance = losses.value_error(values, data).detach().clamp(min=MIN_VARIANCE)
        moved = weighted_sum((values - values.detach()).square(), data.flat("weights"))
        return super().divergence(state, data) + moved / (2 * variance)

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        sampled = evaluate(Question("returns", parameters))
        parameters, row = super().update(parameters, evaluate, iteration)
        return parameters, row | returns_by_rllibs_names(sampled["return"], sampled["episodes"])


def returns_by_rllibs_names(returns: np.ndarray, episodes: np.ndarray) -> dict[str, float]:
    """Mean return of all whole episodes of a meta-batch, before and after each inner step, and what all steps gain.

    returns, episodes: [M, K+1], each task's mean return in each collection and how many episodes it is of.
    """
    before, *adapted = (float(mean) for mean in np.average(returns, axis=0, weights=episodes))
    row = {"episode_reward_mean": before}
    row |= {f"episode_reward_mean_adapt_{k}": mean for k, mean in enumerate(adapted, start=1)}
    return row | {"adaptation_delta": adapted[-1] - before}
