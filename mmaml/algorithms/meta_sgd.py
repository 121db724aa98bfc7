"""Meta-SGD: MAML that learns its step sizes (Li, Zhou, Chen, Li 2017).

    θ_{k+1} = θ_k - α ∘ ∇L_in(θ_k; D_k),  α = exp(a) > 0 of the shape of θ, (θ, a) meta-learned

The paper leaves the sign of α free; here α is positive, so that an update too far cannot make a step climb. Any
gradient-based algorithm learns its step sizes so with `trainable_inner_step_size`; this one always does.
"""

from __future__ import annotations

from mmaml.algorithms.maml import DECLARATION as PARENT
from mmaml.algorithms.maml import MAML

DECLARATION = PARENT.extended(without=["trainable_inner_step_size"])


class MetaSGD(MAML):
    """MAML with a learned step size for every parameter; they start at `inner_lr`."""

    always_learns_step_sizes = True
