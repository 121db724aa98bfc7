"""MMAML: multimodal model-agnostic meta-learning, with ProMP (Vuorio, Sun, Hu, Lim 2019).

    τ = h_ω(D_0),  D_0 sampled by the unmodulated meta-policy π_θ           `modulation.TaskEncoder`
    θ_1 = θ - α ∘ ∇L_in(θ; D_0)                                             on the unmodulated policy
    θ_{k+1} = θ_k - α ∘ ∇L_in(θ_k, τ; D_k),  k ≥ 1                          on the modulated policy

τ is constant across the inner steps, is never adapted, and is recomputed from the current ω on the stored
D_0 whenever the meta-objective is evaluated: its gradient flows into θ and ω through every inner step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.promp import ProMP, TaskState
from mmaml.config import Config
from mmaml.modulation import TaskEncoder
from mmaml.params import Params
from mmaml.policies.distributions import Distribution
from mmaml.rollouts import Rollouts


class MMAML(ProMP):
    """ProMP whose policy is modulated, from the second collection on, by an embedding of the task."""

    functions = (*ProMP.functions, "embed")
    encoder: TaskEncoder

    def shapes(self, observation_size: int, action_size: int) -> dict[str, tuple[int, ...]]:
        config: Config = self.config
        self.encoder = TaskEncoder(
            observation_size,
            action_size,
            config.hidden_sizes,
            config.cell_size,
            config.use_betas,
            config.shift_gammas,
            config.mlp_after_gru,
            config.mlp_after_pool,
            config.encoder_input,
        )
        return self.policy.shapes | self.encoder.shapes

    def init(self, rng: np.random.Generator) -> Params:
        return self.policy.init(rng) | self.encoder.init(rng)

    def inner_step(
        self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts], create_graph: bool
    ) -> tuple[TaskState, Distribution]:
        state, before = super().inner_step(meta, state, rollouts, create_graph)
        if state.modulation is None:
            with torch.set_grad_enabled(create_graph):
                embedding = self.encoder.embed(meta, rollouts[0])
                state = state._replace(modulation=self.encoder.modulation(meta, embedding))
        return state, before

    def embed(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Task embeddings [M, H] from the first collection."""
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            return {"embedding": self.encoder.embed(meta, rollouts[0])}
