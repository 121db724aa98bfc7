"""MAESN: model-agnostic exploration with structured noise (Gupta, Mendonca, Liu, Abbeel, Levine 2018).

    π(a | [o, z]),  z = μ + σ ⊙ ε,  ε ~ N(0, I) drawn once an episode, (μ, log σ) the task's own
    (μ, log σ)_{k+1} = (μ, log σ)_k - α ∘ ∇L_in((μ, log σ)_k; D_k)
    J(θ) = mean over tasks of  L_out((μ, log σ)_K; D_K) + β KL(N(μ_0, σ_0²) ‖ N(0, I))

θ: the policy, (μ_0, log σ_0) of every training task, and α > 0 for each entry of the latent. Inner steps change the
task's latent alone. A task outside the training set starts from the prior, N(0, I), to which the KL of
weight β = `latent_kl_penalty` draws the others.

∇L_in is taken through z, -mean_t[ ∇ log π(a | [o, μ + σ ⊙ ε]) Â ], where the published code has the score function of
the latent, -mean over episodes of ∇ log N(z; μ, σ²) Â: both estimate the same gradient up to a factor, and this one
sees which entries of z mattered at each step.

With `adapt_latent` false, the paper's latent-variable variant, training tasks take no inner step, so that their
latents are learned by the meta-update alone; held-out tasks adapt, with the step sizes left at `inner_lr`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.maml import DECLARATION as PARENT
from mmaml.algorithms.maml import MAML, AdaptedTasks, TaskState
from mmaml.config.declaration import Condition, Key
from mmaml.config.keys import Config
from mmaml.config.value_types import FLAG, integer, number
from mmaml.policies.distributions import Distribution, Gaussian
from mmaml.policies.params import Params
from mmaml.sampling.acting import Actor, Step, memoryless
from mmaml.sampling.rollouts import Rollouts

DECLARATION = PARENT.extended(
    keys={
        "latent_size": Key("Context", 2, integer(1), "entries of the latent that an episode draws"),
        "latent_kl_penalty": Key("Context", 0.1, number(0), "weight of KL(latent ‖ N(0, 1)) in the meta-objective"),
        "adapt_latent": Key(
            "Context", True, FLAG, "false: latents take no inner steps in training (the latent-variable variant)"
        ),
    },
    conditions=[
        Condition(
            "num_train_tasks",
            lambda config: config.num_train_tasks is not None,
            "a whole number ≥ 1",
            "learns a latent for each training task",
            remedy="set it, for example to 100",
        )
    ],
    weights={
        "latent_size": lambda config: config.latent_size * (config.hidden_sizes[0] + 2 * (config.num_train_tasks or 0)),
    },
    without=["trainable_inner_step_size"],  # which is always on
)
MEAN, LOG_STD = "latent.mean", "latent.log_std"


class MAESN(MAML):
    """MAML that adapts the distribution of a latent input of its policy."""

    always_learns_step_sizes = True

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        assert config.num_train_tasks is not None  # or the configuration is refused
        self.tables = dict.fromkeys((MEAN, LOG_STD), (config.num_train_tasks, config.latent_size))
        self.context_size = self.episode_noise_size = config.latent_size
        super().__init__(config, observation_size, action_size, actions)

    def build_networks(
        self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]
    ) -> dict[str, tuple[int, ...]]:
        return super().build_networks(config, observation_size, action_size, actions) | self.tables

    def adapted_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.tables, (1, self.config.latent_size))

    def init_networks(self, rng: np.random.Generator) -> Params:
        """Means from the prior, standard deviations of 1."""
        policy = self.policy.init(rng)
        means = torch.from_numpy(rng.standard_normal(self.tables[MEAN], dtype=np.float32))
        return policy | {MEAN: means, LOG_STD: torch.zeros(self.tables[LOG_STD])}

    def begin(self, meta: Params, identity: Tensor) -> TaskState:
        """Each task's entry of the tables, [M, 1, L]; zeros, the prior, for held-out tasks."""
        known = (identity >= 0)[:, None, None]
        index = identity.clamp(min=0)[:, None, None].expand(-1, 1, self.context_size)
        latent = {}
        for name in self.tables:
            chosen = meta[name].gather(1, index)
            latent[name] = torch.where(known, chosen, torch.zeros_like(chosen))
        return TaskState(latent, {name: meta[name] for name in self.policy.shapes})

    def policy_params(self, state: TaskState) -> Params:
        """Of a policy of [o, ε]."""
        return self.policy.conditioned(state.shared, state.params[MEAN], state.params[LOG_STD].exp())

    def actor(self, state: TaskState) -> Actor:
        params = self.policy_params(state)

        def distribution(step: Step) -> Distribution:
            return self.policy.distribution(params, torch.cat([step.observation, step.episode_noise], -1))

        return memoryless(distribution)

    def distribution(self, state: TaskState, data: Rollouts) -> Distribution:
        inputs = torch.cat([data.flat("observations"), data.flat("episode_noise")], -1)
        return self.policy.distribution(self.policy_params(state), inputs)

    def step_loss(self, state: TaskState, data: Rollouts, params: Params) -> tuple[Tensor, Distribution]:
        """0 for tasks that take no inner steps."""
        loss, new = super().step_loss(state, data, params)
        if not self.config.adapt_latent:
            loss = torch.where(data.identity < 0, loss, torch.zeros_like(loss))
        return loss, new

    def additions(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """β KL(N(μ_0, σ_0²) ‖ N(0, I))."""
        start = self.begin(adapted.meta, adapted.rollouts[0].identity).params
        prior = Gaussian(torch.zeros_like(start[MEAN]), torch.zeros_like(start[LOG_STD]))
        divergence = Gaussian(start[MEAN], start[LOG_STD]).kl(prior).flatten()
        return {"latent_kl": self.config.latent_kl_penalty * divergence}
