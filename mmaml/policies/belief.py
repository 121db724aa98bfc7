"""Beliefs about a task: a Gaussian over a latent vector, encoded from a trial, from which rewards are decoded.

    h_0 = 0,  h_{t+1} = GRU(relu-MLP([a_t, r_t, s_{t+1}, d_{t+1}]), h_t),  [μ_t, log σ²_t] = h_t W + b      encoder
    m ~ N(μ_t, diag σ²_t),  r̂_k = MLP([m, s_{k+1}]) or MLP([m, s_k, a_k, s_{k+1}])                        decoder
(Zintgraf et al. 2020, §3). d_{t+1}: s_{t+1} begins an episode, so that it is not what the action a_t led to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.policies.batch_invariant import affine, affine_by_step
from mmaml.policies.gru import gru_shapes, gru_states, gru_step, init_with_gru, long_memory
from mmaml.policies.mlp import MLP, glorot_uniform
from mmaml.policies.params import Params


class BeliefEncoder:
    """Encodes trials. Holds sizes only; parameters are passed to every call.

    prefix: of the parameters' names. inputs: F, the size of [a, r, s, d]. hidden_sizes: of the MLP before the GRU, all
    with relu. cell: C, units of the GRU. latent: L.
    """

    def __init__(self, prefix: str, inputs: int, hidden_sizes: Sequence[int], cell: int, latent: int) -> None:
        self.cell, self.latent = cell, latent
        self.layers = MLP(f"{prefix}.inputs", (inputs, *hidden_sizes), "relu")
        self.gru = f"{prefix}.gru"
        self.weight, self.bias = f"{prefix}.belief.weight", f"{prefix}.belief.bias"
        self.shapes = self.layers.shapes | gru_shapes(self.gru, self.layers.sizes[-1], cell)
        self.shapes |= {self.weight: (cell, 2 * latent), self.bias: (1, 2 * latent)}

    def init(self, rng: np.random.Generator, steps: int) -> Params:
        """As `init_with_gru` and `long_memory`; the first belief of all is the prior, N(0, I). steps: of a trial."""
        return long_memory(rng, init_with_gru(rng, self.shapes, self.gru), self.gru, steps)

    def begin(self, like: Tensor) -> Tensor:
        """h_0, [M, N, C], for lanes as those of `like` [M, N, …]."""
        return like.new_zeros(*like.shape[:2], self.cell)

    def step(self, params: Params, x: Tensor, h: Tensor) -> Tensor:
        """h after one more step, [M, N, C], of its input x [M, N, F]; no gradient."""
        with torch.no_grad():
            for layer in range(self.layers.depth):
                x = affine(x, *self._layer(params, layer)).relu_()
            return gru_step(params, self.gru, x, h)

    def states(self, params: Params, x: Tensor) -> Tensor:
        """h_0 … h_T of whole trials, [T+1, M, N, C], from x [T, M, N, F]: those of `step`; differentiable."""
        start = x.new_zeros(1, *x.shape[1:3], self.cell)
        if not len(x):
            return start
        for layer in range(self.layers.depth):
            x = affine_by_step(x, *self._layer(params, layer)).relu()
        return torch.cat([start, gru_states(params, self.gru, x)])

    def belief(self, params: Params, h: Tensor) -> Tensor:
        """[μ, log σ²] of states: [M, N, C] -> [M, N, 2L]; no gradient."""
        with torch.no_grad():
            return affine(h, params[self.weight], params[self.bias])

    def beliefs(self, params: Params, states: Tensor) -> Tensor:
        """Those of each step: [T, M, N, C] -> [T, M, N, 2L]; differentiable."""
        return affine_by_step(states, params[self.weight], params[self.bias])

    def _layer(self, params: Params, layer: int) -> tuple[Tensor, Tensor]:
        name = f"{self.layers.prefix}.{layer}"
        return params[f"{name}.weight"], params[f"{name}.bias"]


class RewardDecoder:
    """Decodes what rewards a latent vector stands for: an MLP with relu. Parameters are passed to every call.

    prefix: of the parameters' names. latent: L. data: D, numbers of a step that it reads beside the latent vector.
    """

    def __init__(self, prefix: str, latent: int, data: int, hidden_sizes: Sequence[int]) -> None:
        self.prefix, self.sizes = prefix, (latent + data, *hidden_sizes, 1)
        self.rest = MLP(f"{prefix}.rest", (*hidden_sizes, 1), "relu")
        first = hidden_sizes[0]
        self.shapes: dict[str, tuple[int, ...]] = {
            f"{prefix}.latent.weight": (latent, first),
            f"{prefix}.data.weight": (data, first),
            f"{prefix}.data.bias": (1, first),
        } | self.rest.shapes

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights of each layer, zero biases."""
        latent, data = self.shapes[f"{self.prefix}.latent.weight"][0], self.shapes[f"{self.prefix}.data.weight"][0]
        first = glorot_uniform(rng, latent + data, self.sizes[1])
        return self.rest.init(rng) | {
            f"{self.prefix}.latent.weight": first[:latent].clone(),
            f"{self.prefix}.data.weight": first[latent:].clone(),
            f"{self.prefix}.data.bias": torch.zeros(1, self.sizes[1]),
        }

    def __call__(self, params: Params, latent: Tensor, data: Tensor) -> Tensor:
        """The output for each pair of latent vectors [B, E, L] and steps [B, D, …] of a trial: [B, E, D].

        params: those of one task, [1, …]. The first layer is computed for each alone and added, so that only what
        follows is done for every pair. Differentiable in the parameters and the latent vectors.
        """
        (count, latents, _), steps = latent.shape, data.shape[1]
        of_latent = affine(latent.flatten(0, 1)[None], params[f"{self.prefix}.latent.weight"], latent.new_zeros(1))
        of_data = affine(
            data.flatten(0, 1)[None], params[f"{self.prefix}.data.weight"], params[f"{self.prefix}.data.bias"]
        )
        pairs = of_latent.view(count, latents, 1, -1) + of_data.view(count, 1, steps, -1)
        return self.rest(params, pairs.relu().view(1, -1, pairs.shape[-1])).view(count, latents, steps)


def draw(belief: Tensor, noise: Tensor) -> Tensor:
    """m = μ + σ ε of beliefs [..., 2L], with standard normal ε [..., L]."""
    mean, log_variance = belief.chunk(2, -1)
    return mean + (0.5 * log_variance).exp() * noise


def kl_of_beliefs(later: Tensor, earlier: Tensor) -> Tensor:
    """KL(N(μ, S) ‖ N(m, E)) of diagonal Gaussians, [..., 2L] each -> [...].

    ½ Σ [ log E - log S - 1 + S/E + (m - μ)²/E ]
    """
    (mean, log_s), (m, log_e) = later.chunk(2, -1), earlier.chunk(2, -1)
    return 0.5 * (log_e - log_s - 1 + (log_s - log_e).exp() + (m - mean).square() * (-log_e).exp()).sum(-1)
