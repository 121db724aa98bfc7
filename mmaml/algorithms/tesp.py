"""TESP: meta-RL with a task embedding and a shared policy (Lan, Li, Guan, Wang 2019, arXiv 1905.06527).

    e(ω; B) = mean over the episodes of B of  s W + b,  s the last state of a GRU that reads [o, a, r];  0 if B is empty
    ω_{k+1} = ω_k - α ∘ ∇_ω L_in(π_θ(· | [o, e(ω_k; B_k)]); D_k),   B_0 empty, B_{k+1} what is kept of B_k and D_k
    J(ω, α, θ) = mean over tasks of  L_out(π_θ(· | [o, e_K]); D_K) + c mean(e_K²) + KL terms,  e_K = e(ω_K; B_K)

An inner step changes ω, the encoder's parameters, alone, and acts through the embedding e; the policy π_θ of [o, e] is
shared by all tasks and never adapted. D_0, sampled with e = 0, has no gradient in ω and only fills the memory: it is
the published warm-up batch, so that the published three fast updates are `num_inner_grad_steps` 4 here. ω, θ and α > 0,
a step size for every entry of ω, are meta-learned. The published code has α of either sign, within ±0.1, clips the
norm of the inner gradient, and is of `first_order`; it reads the parameters of the action's distribution where the
paper, and this, reads the action.

`episodes_kept` in the memory B: "episode_buffer", the `buffer_size` whole episodes of highest undiscounted return so
far; of equal returns, the episode sampled earlier wins, within one collection that of the earlier lane, within one lane
the earlier one. "last_episodes", all of the last collection; "all_episodes", all so far. The return of an episode that
the end of its lane cut cannot be compared with others, so that only the last two keep such episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.maml import DECLARATION as PARENT
from mmaml.algorithms.maml import MAML, AdaptedTasks, TaskState
from mmaml.algorithms.shared_keys import CELL_SIZE
from mmaml.config.declaration import Condition, Key
from mmaml.config.keys import Config
from mmaml.config.value_types import choice, integer, number
from mmaml.policies.batch_invariant import row_product
from mmaml.policies.distributions import Distribution
from mmaml.policies.gru import gru_shapes, init_with_gru, mean_of_final_states
from mmaml.policies.params import Params
from mmaml.sampling.rollouts import Rollouts

DECLARATION = PARENT.extended(
    keys={
        "cell_size": CELL_SIZE,
        "embedding_size": Key("Task encoder", 8, integer(1), "entries of the task embedding"),
        "embedding_penalty": Key(
            "Task encoder", 0.01, number(0), "weight of the embedding's mean square in the meta-objective"
        ),
        "episodes_kept": Key(
            "Task encoder",
            "episode_buffer",
            choice("episode_buffer", "last_episodes", "all_episodes"),
            'what the GRU reads of a task so far: "episode_buffer", the buffer_size whole episodes of highest return; '
            '"last_episodes", those of the last collection; "all_episodes"',
        ),
        "buffer_size": Key(
            "Task encoder",
            16,
            integer(1),
            "episodes that the episode buffer holds",
            has_effect=lambda config: config.episodes_kept == "episode_buffer",
        ),
    },
    conditions=[
        Condition(
            "num_inner_grad_steps",
            lambda config: config.num_inner_grad_steps >= 2,
            "a whole number ≥ 2",
            "only fills its memory in the first step and adapts nothing",
        )
    ],
    weights={
        "embedding_size": lambda config: config.embedding_size * config.hidden_sizes[0],
        "cell_size": lambda config: 3 * config.cell_size**2,
    },
    without=["trainable_inner_step_size"],  # which is always on
    embeds=True,
    default_update="ppo",
    reads_rewards=lambda config: True,
)
GRU = "encoder.gru"
WEIGHT, BIAS = "encoder.embedding.weight", "encoder.embedding.bias"


class Memory(NamedTuple):
    """Episodes of M tasks in B lanes of T steps; T and B are the same whatever the tasks have lived through.

    steps [T, M, B, O+A+1]: [o, a, r]; undefined after an episode's end and before the next start. start, end: bool
    [T, M, B], the first and last steps of episodes; a start without an end does not count. returns [M, B]: in the
    episode buffer, whose lanes hold at most one episode each: its return, or -inf.
    """

    steps: Tensor
    start: Tensor
    end: Tensor
    returns: Tensor

    def join(self, new: Memory) -> Memory:
        """These lanes and then those of others."""
        steps, start, end = (torch.cat(pair, 2) for pair in zip(self[:3], new[:3], strict=True))
        return Memory(steps, start, end, torch.cat([self.returns, new.returns], 1))

    def best(self, size: int) -> Memory:
        """The `size` lanes of highest return, the first of equals."""
        lanes = _descending(self.returns)[:, :size]
        task = torch.arange(len(lanes), device=lanes.device)[:, None]
        steps, start, end = (value[:, task, lanes] for value in self[:3])
        return Memory(steps, start, end, self.returns[task, lanes])


def episodes_in_lanes(data: Rollouts) -> Memory:
    """All episodes of a collection, in the lanes in which they were sampled."""
    start, end = (flag.permute(2, 0, 1) for flag in (data.episode_start, data.episode_end))
    return Memory(
        data.experience().permute(2, 0, 1, 3).contiguous(), start, end, data.rewards.new_zeros(start.shape[1:])
    )


def best_episodes(data: Rollouts, size: int) -> Memory:
    """The `size` whole episodes of highest return of each task, a lane each, of a collection."""
    horizon = data.rewards.shape[-1]
    index = torch.arange(horizon, device=data.rewards.device)
    first = index - data.times()  # where the episode of a step started
    rewards = data.rewards.double()
    sums = rewards.cumsum(-1)
    so_far = sums - (sums - rewards).gather(-1, first)
    returns = so_far.masked_fill(~(data.terminated | data.truncated), -torch.inf).flatten(1)
    last = _descending(returns)[:, :size]  # step of the task, N·T, with which an episode ends
    returns = returns.gather(1, last)
    begin = last - last % horizon + first.flatten(1).gather(1, last)
    at = index[:, None, None] + begin  # [T, M, B]
    task = torch.arange(data.tasks, device=index.device)[:, None]
    steps = data.experience().flatten(1, 2)[task, at.minimum(last)]
    return Memory(steps, at == begin, (at == last) & returns.isfinite(), returns)


def _descending(returns: Tensor) -> Tensor:
    """Indices of each task's returns from the highest on, equals in the order in which they are: [M, n]."""
    return returns.sort(dim=1, descending=True, stable=True).indices


class TESP(MAML):
    """MAML that adapts, with learned step sizes, the encoder whose embedding of the task a shared policy reads."""

    functions: ClassVar[tuple[str, ...]] = (*MAML.functions, "embed")
    always_learns_step_sizes = True
    encoder_shapes: dict[str, tuple[int, ...]]

    def build_networks(
        self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]
    ) -> dict[str, tuple[int, ...]]:
        self.context_size = config.embedding_size
        self.encoder_shapes = gru_shapes(GRU, observation_size + action_size + 1, config.cell_size) | {
            WEIGHT: (config.cell_size, config.embedding_size),
            BIAS: (1, config.embedding_size),
        }
        return super().build_networks(config, observation_size, action_size, actions) | self.encoder_shapes

    def adapted_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.encoder_shapes

    def init_networks(self, rng: np.random.Generator) -> Params:
        return self.policy.init(rng) | init_with_gru(rng, self.encoder_shapes, GRU)

    def begin(self, meta: Params, identity: Tensor) -> TaskState:
        encoder = {name: meta[name] for name in self.encoder_shapes}
        return TaskState(encoder, {name: meta[name] for name in self.policy.shapes})

    def policy_params(self, state: TaskState) -> Params:
        if state.memory is None:  # e = 0
            return state.shared
        return self.policy.conditioned(state.shared, self.embedding(state.params, state.memory))

    def embedding(self, encoder: Params, episodes: Memory) -> Tensor:
        """e: [M, 1, E]."""
        pooled = mean_of_final_states(encoder, GRU, episodes.steps, episodes.start, episodes.end)
        return row_product(pooled, encoder[WEIGHT]) + encoder[BIAS]

    def remember(self, memory: Memory | None, data: Rollouts) -> Memory:
        """What is kept of the episodes so far and those of `data`."""
        config = self.config
        if config.episodes_kept == "episode_buffer":
            new = best_episodes(data, config.buffer_size)
            return new if memory is None else memory.join(new).best(config.buffer_size)
        new = episodes_in_lanes(data)
        return new if memory is None or config.episodes_kept == "last_episodes" else memory.join(new)

    def inner_step(
        self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts], create_graph: bool
    ) -> tuple[TaskState, Distribution]:
        if state.memory is None:
            with torch.set_grad_enabled(create_graph):
                before = self.distribution(state, rollouts[-1])
        else:
            state, before = super().inner_step(meta, state, rollouts, create_graph)
        return state._replace(memory=self.remember(state.memory, rollouts[-1])), before

    def step_size(self, meta: Params, step: int) -> float | Params:
        """The first rate is that of the first step that adapts, after the one that only fills the memory."""
        return super().step_size(meta, max(step - 1, 0))

    def additions(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """c mean(e_K²)."""
        squared = self.embedding(adapted.state.params, adapted.state.memory).square()
        return {"embedding": self.config.embedding_penalty * squared.flatten(1).mean(1)}

    def embed(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Task embeddings [M, E], by the encoder before adaptation, of what is kept of the first collection."""
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            return {"embedding": self.embedding(meta, self.remember(None, rollouts[0])).squeeze(1)}
