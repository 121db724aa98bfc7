"""CAVIA: fast context adaptation via meta-learning (Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019).

    π(a | [o, φ]),  φ_0 = 0,  φ_{k+1} = φ_k - α ∘ ∇_φ L_in(θ, φ_k; D_k)
    J(θ) = mean over tasks of  L_out(θ, φ_K; D_K)

The policy reads a context φ of `context_size` numbers beside the observation. Inner steps change the context alone;
the policy's weights, those of the context included, and its log-std are one for all tasks and meta-learned, through the
inner steps. The context starts each task at 0, so it is not a meta-parameter itself.
"""

from __future__ import annotations

from torch import Tensor

from mmaml.algorithms.maml import DECLARATION as PARENT
from mmaml.algorithms.maml import MAML, TaskState
from mmaml.config.declaration import Key
from mmaml.config.keys import Config
from mmaml.config.value_types import integer
from mmaml.policies.distributions import Distribution
from mmaml.policies.params import Params

DECLARATION = PARENT.extended(
    keys={"context_size": Key("Context", 2, integer(1), "context parameters, which alone are adapted")},
    weights={"context_size": lambda config: config.context_size * config.hidden_sizes[0]},
)
CONTEXT = "context"


class CAVIA(MAML):
    """MAML that adapts an input of its policy in place of the policy."""

    def build_networks(
        self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]
    ) -> dict[str, tuple[int, ...]]:
        self.context_size = config.context_size
        return super().build_networks(config, observation_size, action_size, actions)

    def adapted_shapes(self) -> dict[str, tuple[int, ...]]:
        return {CONTEXT: (1, self.context_size)}

    def begin(self, meta: Params, identity: Tensor) -> TaskState:
        """Context [M, 1, C] of zeros, which is linear in the meta-parameters."""
        shared = {name: meta[name] for name in self.policy.shapes}
        zeros = next(iter(shared.values())).new_zeros(len(identity), *self.adapted_shapes()[CONTEXT])
        return TaskState({CONTEXT: zeros.requires_grad_()}, shared)

    def policy_params(self, state: TaskState) -> Params:
        return self.policy.conditioned(state.shared, state.params[CONTEXT])
