"""MMAML: multimodal model-agnostic meta-learning, with ProMP (Vuorio, Sun, Hu, Lim 2019).

    τ = h_ω(D_0),  D_0 sampled by the unmodulated meta-policy π_θ           `task_encoder.TaskEncoder`
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

from mmaml.algorithms.maml import StepDerivative, TaskState
from mmaml.algorithms.promp import DECLARATION as PARENT
from mmaml.algorithms.promp import ProMP
from mmaml.algorithms.shared_keys import CELL_SIZE
from mmaml.config.declaration import Key
from mmaml.config.keys import Config
from mmaml.config.value_types import FLAG, choice
from mmaml.policies.distributions import Distribution
from mmaml.policies.params import Derivative, Params
from mmaml.policies.task_encoder import TaskEncoder
from mmaml.sampling.rollouts import Rollouts

DECLARATION = PARENT.extended(
    keys={
        "cell_size": CELL_SIZE,
        "use_betas": Key("Task encoder", False, FLAG, "shift the hidden layers as well as scale them"),
        "shift_gammas": Key("Task encoder", True, FLAG, "scale by γ + 1 instead of γ"),
        "mlp_after_gru": Key("Task encoder", True, FLAG, "MLP on each episode's final state"),
        "mlp_after_pool": Key("Task encoder", True, FLAG, "MLP on the mean over episodes"),
        "encoder_input": Key(
            "Task encoder",
            "full",
            choice("full", "published"),
            'what the GRU reads: "full" rollouts, or the 5·N steps that the published code gave it',
        ),
    },
    weights={"cell_size": lambda config: 3 * config.cell_size**2},
    embeds=True,
    reads_rewards=lambda config: True,
)
PUBLISHED_PIECE = 5


class MMAML(ProMP):
    """ProMP whose policy is modulated, from the second collection on, by an embedding of the task."""

    functions = (*ProMP.functions, "embed")
    encoder: TaskEncoder

    def build_networks(
        self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]
    ) -> dict[str, tuple[int, ...]]:
        self.encoder = TaskEncoder(
            observation_size,
            action_size,
            config.hidden_sizes,
            config.cell_size,
            config.use_betas,
            config.shift_gammas,
            config.mlp_after_gru,
            config.mlp_after_pool,
        )
        return super().build_networks(config, observation_size, action_size, actions) | self.encoder.shapes

    def init_networks(self, rng: np.random.Generator) -> Params:
        return self.policy.init(rng) | self.encoder.init(rng)

    def policy_params(self, state: TaskState) -> Params:
        return self.policy.modulated(state.params, state.shared) if state.shared else state.params

    def inner_step(
        self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts], create_graph: bool
    ) -> tuple[TaskState, Distribution]:
        state, before = super().inner_step(meta, state, rollouts, create_graph)
        if not state.shared:
            with torch.set_grad_enabled(create_graph):
                state = state._replace(shared=self.modulation(meta, rollouts[0]))
        return state, before

    def modulation(self, meta: Params, first: Rollouts) -> Params:
        """τ, from the first collection."""
        return self.encoder.modulation(meta, self.embedding(meta, first))

    def embedding(self, meta: Params, first: Rollouts) -> Tensor:
        """Task embeddings [M, H] from the rollouts of the unmodulated policy."""
        return self.encoder.embed(meta, *encoder_inputs(first, self.config.encoder_input))

    def step_derivative(self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts]) -> StepDerivative:
        derivative = super().step_derivative(meta, state, rollouts)
        return derivative if state.shared else ModulatingStepDerivative(self, meta, derivative, rollouts[0])

    def embed(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Task embeddings [M, H] from the first collection."""
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            return {"embedding": self.embedding(meta, rollouts[0])}


class ModulatingStepDerivative(StepDerivative):
    """That of the first inner step, after which there is a modulation."""

    def __init__(self, algorithm: MMAML, meta: Params, adapting: StepDerivative, first: Rollouts) -> None:
        self._adapting = adapting
        encoder = {name: meta[name].detach().requires_grad_() for name in algorithm.encoder.shapes}
        with torch.enable_grad():
            modulation = algorithm.modulation(encoder, first)
        self._encoder, self._modulation = list(encoder), list(modulation)
        self._derivative = Derivative(list(modulation.values()), list(encoder.values()))

    def tangent(self, direction: Params, change: Params) -> Params:
        moved, _ = self._derivative.tangent([direction[name] for name in self._encoder])
        return self._adapting.tangent(direction, change) | dict(zip(self._modulation, moved, strict=True))

    def transposed(self, cotangent: Params) -> tuple[Params, Params]:
        encoder = self._derivative.transposed([cotangent[name] for name in self._modulation])
        in_meta, state = self._adapting.transposed(cotangent)
        return in_meta | dict(zip(self._encoder, encoder, strict=True)), state


def encoder_inputs(rollouts: Rollouts, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """[o, a, r] of every step as [T, M, N, F], with the first and last steps of episodes, bool [T, M, N].

    what: `encoder_input`. "full": whole rollouts. "published" reproduces the fault of the published code: the rollout
    lengths given to the encoder are 5, the number of keys of a dictionary, so it sees 5·N steps of a task's N·T, cut
    into N pieces of 5, each behind T - 5 steps of zeros that the GRU reads too.
    """
    x, start, end = rollouts.experience(), rollouts.episode_start, rollouts.episode_end
    if what == "published":
        tasks, lanes, horizon, features = x.shape
        piece = min(PUBLISHED_PIECE, horizon)
        seen = x.flatten(1, 2)[:, : lanes * piece].unflatten(1, (lanes, piece))
        x = torch.cat([x.new_zeros(tasks, lanes, horizon - piece, features), seen], dim=2)
        start, end = torch.zeros_like(start), torch.zeros_like(end)
        start[..., 0], end[..., -1] = True, True
    return x.permute(2, 0, 1, 3).contiguous(), start.permute(2, 0, 1), end.permute(2, 0, 1)
