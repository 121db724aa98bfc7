"""The task encoder h_ω: episodes -> task embedding -> modulation of the policy (Vuorio et al. 2019, §4).

Each episode is read by a GRU; the embedding is the mean of the final states over the task's episodes; a
linear map turns it into one scale γ (and, with betas, one shift β) per unit of every hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.policies.gru import gru_shapes, init_with_gru, mean_of_final_states
from mmaml.policies.mlp import MLP
from mmaml.policies.params import Params


class TaskEncoder:
    """Sizes and options of h_ω; its parameters are passed to every call."""

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
    ) -> None:
        self.hidden_sizes = tuple(hidden_sizes)
        self.use_betas = use_betas
        self.shift_gammas = shift_gammas
        inputs = observation_size + action_size + 1
        self.shapes = gru_shapes("encoder.gru", inputs, cell_size)
        sizes = (cell_size, cell_size, cell_size)
        self.after_gru = MLP("encoder.after_gru", sizes, "relu") if mlp_after_gru else None
        self.after_pool = MLP("encoder.after_pool", sizes, "relu") if mlp_after_pool else None
        for network in (self.after_gru, self.after_pool):
            self.shapes |= {} if network is None else network.shapes
        outputs = sum(self.hidden_sizes) * (2 if use_betas else 1)
        self.shapes["encoder.modulation.weight"] = (cell_size, outputs)
        self.shapes["encoder.modulation.bias"] = (1, outputs)

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zero biases, orthogonal recurrent kernel [H, 3H] (Saxe et al. 2014)."""
        return init_with_gru(rng, self.shapes, "encoder.gru")

    def embed(self, params: Params, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Task embeddings [M, H] from episodes in lanes.

        x: what is read of each step, [T, M, N, F]. start, end: bool [T, M, N], the first and last steps of episodes.
        """
        embedding = mean_of_final_states(params, "encoder.gru", x, start, end, self.after_gru)
        if self.after_pool is not None:
            embedding = self.after_pool(params, embedding)
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
