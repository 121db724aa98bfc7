"""DiCE-MAML: MAML with an inner loss that is right in every derivative (Foerster et al. 2018).

    θ_{k+1} = θ_k - α ∘ ∇L_in(θ_k; D_k),  L_in = -mean[ (□_t - □_{t-1}) Â_t ],  □_t = Π_{s ≤ t} π_θ / π_old

The loss is `losses.any_order_surrogate`. VPG-DiCE and TRPO-DiCE are the `meta_update` "vpg" and "trpo".
"""

from __future__ import annotations

from torch import Tensor

from mmaml.algorithms.maml import DECLARATION as PARENT
from mmaml.algorithms.maml import MAML
from mmaml.policies.distributions import Distribution
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses

DECLARATION = PARENT


class DiCE(MAML):
    """MAML whose inner loss is DiCE's."""

    def inner_loss(self, new: Distribution, data: Rollouts) -> Tensor:
        return losses.any_order_surrogate(new.log_prob(data.flat("actions")), data)
