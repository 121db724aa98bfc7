"""ProMP: proximal meta-policy search (Rothfuss, Lee, Clavera, Asfour, Abbeel 2018).

    θ_{k+1} = θ_k - α ∘ ∇L_in(θ_k; D_k),  L_in = -mean[ π_θ / π_old · Â ]                      `losses.surrogate`
    J(θ) = mean over tasks of  -mean[min(r Â, clip(r, 1±ε) Â)] on D_K at θ_K           `losses.clipped_surrogate`
           + mean over k < K of η_k KL(π_old,k ‖ π_θ_k) + η_out KL(π_old,K ‖ π_θ_K)

The ratio in L_in, 1 where it is evaluated, lets the second derivative see how the policy that samples D_k depends on
θ. J is minimised by `num_promp_steps` epochs of Adam (`outer_step.Proximal`).
"""

from __future__ import annotations

from torch import Tensor

from mmaml.algorithms.maml import DECLARATION as PARENT
from mmaml.algorithms.maml import MAML
from mmaml.policies.distributions import Distribution
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses

DECLARATION = PARENT.extended(default_update="ppo")


class ProMP(MAML):
    """MAML with the low-variance-curvature inner loss and a clipped meta-objective."""

    def inner_loss(self, new: Distribution, data: Rollouts) -> Tensor:
        ratio = losses.likelihood_ratio(new, data)
        return losses.surrogate(ratio, data.flat("advantages"), data.flat("weights"))
