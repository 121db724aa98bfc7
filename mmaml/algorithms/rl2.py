"""RL²: fast reinforcement learning via slow reinforcement learning (Duan et al. 2016; Wang et al. 2016).

    h_t = GRU(x_t, h_{t-1}),  h = 0 before the trial          `mmaml.policies.gru`
    π(·|h_t), V(h_t)                                          linear in h_t, or `mmaml.policies.readout`

The hidden state is what is learned about the task: it is carried over the episodes of a trial, and never reset within
it. x, and how the GRU is trained: `mmaml.algorithms.recurrent`. At the start of training its entries decay over 1 … T
steps, each over its own time: `long_memory`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from mmaml.algorithms.recurrent import RecurrentPPO
from mmaml.algorithms.shared_keys import CELL_SIZE, RECURRENT
from mmaml.config.keys import Config
from mmaml.policies.gru import gru_shapes, gru_states, gru_step, init_with_gru, long_memory
from mmaml.policies.params import Params

DECLARATION = RECURRENT.extended(
    keys={"cell_size": CELL_SIZE}, weights={"cell_size": lambda config: 3 * config.cell_size**2}
)
GRU = "memory.gru"


class RL2(RecurrentPPO):
    """A GRU whose hidden state is the memory."""

    def build_memory(self, config: Config, inputs: int) -> tuple[dict[str, tuple[int, ...]], int]:
        self.shapes = gru_shapes(GRU, inputs, config.cell_size)
        return self.shapes, config.cell_size

    def init_memory(self, rng: np.random.Generator) -> Params:
        return long_memory(rng, init_with_gru(rng, self.shapes, GRU), GRU, self.config.lane_length)

    def step(self, params: Params, x: Tensor, carried: Any) -> tuple[Tensor, Any]:
        before = x.new_zeros(*x.shape[:2], self.config.cell_size) if carried is None else carried
        after = gru_step(params, GRU, x, before)
        return after, after

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        return gru_states(params, GRU, x)
