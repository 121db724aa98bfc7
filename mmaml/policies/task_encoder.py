"""The task encoder h_ω: step-0 rollouts -> task embedding -> modulation of the policy (Vuorio et al. 2019, §4).

Each episode is read by a GRU; the embedding is the mean of the final states over the task's episodes; a
linear map turns it into one scale γ (and, with betas, one shift β) per unit of every hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.policies.gru import gru_final_states, gru_shapes, init_with_gru
from mmaml.policies.params import Params
from mmaml.sampling.rollouts import Rollouts

PUBLISHED_PIECE = 5


class TaskEncoder:
    """Sizes and options of h_ω; its parameters are passed to every call.

    encoder_input: "full" reads whole rollouts. "published" reproduces the fault of the published code:
    the rollout lengths given to the encoder are 5, the number of keys of a dictionary, so it sees 5·N
    steps of a task's N·T, cut into N pieces of 5, each behind T - 5 steps of zeros that the GRU reads too.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        cell_size: int,
        use_betas: bool,
        shift_gammas: bool,
        mlp_after_gru: bool,
        mlp_after_pool: bool,
        encoder_input: str,
    ) -> None:
        self.hidden_sizes = tuple(hidden_sizes)
        self.cell_size = cell_size
        self.use_betas = use_betas
        self.shift_gammas = shift_gammas
        self.encoder_input = encoder_input
        inputs = observation_size + action_size + 1
        self.shapes = gru_shapes("encoder.gru", inputs, cell_size)
        self.mlps = [
            name
            for name, wanted in (("encoder.after_gru", mlp_after_gru), ("encoder.after_pool", mlp_after_pool))
            if wanted
        ]
        for name in self.mlps:
            for layer in range(2):
                self.shapes[f"{name}.{layer}.weight"] = (cell_size, cell_size)
                self.shapes[f"{name}.{layer}.bias"] = (1, cell_size)
        outputs = sum(self.hidden_sizes) * (2 if use_betas else 1)
        self.shapes["encoder.modulation.weight"] = (cell_size, outputs)
        self.shapes["encoder.modulation.bias"] = (1, outputs)

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zero biases, orthogonal recurrent kernel [H, 3H] (Saxe et al. 2014)."""
        return init_with_gru(rng, self.shapes, "encoder.gru")

    def embed(self, params: Params, rollouts: Rollouts) -> Tensor:
        """Task embeddings [M, H] from the rollouts of the unmodulated policy."""
        x, start, end = self._inputs(rollouts)
        states = gru_final_states(params, "encoder.gru", x, start, end)
        episodes = end.sum((0, 2)).tolist()
        # One task at a time: a task's number of episodes must not decide how another task is computed.
        pooled = []
        for task, own in enumerate(states.split(episodes)):
            if "encoder.after_gru" in self.mlps:
                own = self._mlp(params, "encoder.after_gru", own[None], slice(task, task + 1))[0]
            pooled.append(own.mean(0))
        embedding = torch.stack(pooled)[:, None]
        if "encoder.after_pool" in self.mlps:
            embedding = self._mlp(params, "encoder.after_pool", embedding, slice(None))
        return embedding.squeeze(1)

    def modulation(self, params: Params, embedding: Tensor) -> Params:
        """Embeddings [M, H] -> γ as "scale.l" and, with betas, β as "shift.l" of every hidden layer l, [M, 1, H]."""
        weight, bias = params["encoder.modulation.weight"], params["encoder.modulation.bias"]
        values = torch.baddbmm(bias, embedding[:, None], weight)
        parts = values.split([*self.hidden_sizes, *(self.hidden_sizes if self.use_betas else ())], dim=-1)
        scales, shifts = parts[: len(self.hidden_sizes)], parts[len(self.hidden_sizes) :]
        if self.shift_gammas:
            scales = tuple(scale + 1 for scale in scales)
        named = {f"scale.{layer}": scale for layer, scale in enumerate(scales)}
        return named | {f"shift.{layer}": shift for layer, shift in enumerate(shifts)}

    @staticmethod
    def _mlp(params: Params, name: str, x: Tensor, tasks: slice) -> Tensor:
        """ReLU layer, then linear layer: [M, n, H] -> [M, n, H]."""
        for layer in range(2):
            weight, bias = params[f"{name}.{layer}.weight"][tasks], params[f"{name}.{layer}.bias"][tasks]
            x = torch.baddbmm(bias, x, weight)
            x = x.relu() if layer == 0 else x
        return x

    def _inputs(self, rollouts: Rollouts) -> tuple[Tensor, Tensor, Tensor]:
        """[o, a, r] of every step as [T, M, N, F], with the first and last steps of episodes [T, M, N]."""
        steps = (rollouts.observations, rollouts.actions, rollouts.rewards.unsqueeze(-1))
        x, start, end = torch.cat(steps, dim=-1), rollouts.episode_start, rollouts.episode_end
        if self.encoder_input == "published":
            tasks, lanes, horizon, features = x.shape
            piece = min(PUBLISHED_PIECE, horizon)
            seen = x.flatten(1, 2)[:, : lanes * piece].unflatten(1, (lanes, piece))
            x = torch.cat([x.new_zeros(tasks, lanes, horizon - piece, features), seen], dim=2)
            start, end = torch.zeros_like(start), torch.zeros_like(end)
            start[..., 0], end[..., -1] = True, True
        return x.permute(2, 0, 1, 3).contiguous(), start.permute(2, 0, 1), end.permute(2, 0, 1)
