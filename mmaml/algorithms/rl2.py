"""RL²: fast reinforcement learning via slow reinforcement learning (Duan et al. 2016; Wang et al. 2016).

    h_t = GRU(x_t, h_{t-1}),  h = 0 before the trial          `mmaml.policies.gru`
    π(·|h_t), V(h_t)                                          linear in h_t, or `mmaml.policies.readout`

The hidden state is what is learned about the task: it is carried over the episodes of a trial, and never reset within
it. x, and how the GRU is trained: `mmaml.algorithms.recurrent`. With `previous_observation` the GRU reads
[x_t, o_{t-1}], so that the reward r_{t-1} comes with all that it depends on.

At the start of training the entries of h decay over 1 … T steps, each over its own time: `long_memory`. With
`input_init_scale` above 1 the gates depend on the input from the start: each entry of h takes up some observations and
actions more than others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.recurrent import RecurrentPPO
from mmaml.algorithms.shared_keys import CELL_SIZE, RECURRENT
from mmaml.config.declaration import Key
from mmaml.config.keys import Config
from mmaml.config.value_types import FLAG, number
from mmaml.policies.distributions import Distribution
from mmaml.policies.gru import gru_shapes, gru_states, gru_step, init_with_gru, long_memory
from mmaml.policies.params import Params

DECLARATION = RECURRENT.extended(
    keys={
        "cell_size": CELL_SIZE,
        "previous_observation": Key(
            "Memory", False, FLAG, "the GRU also reads the observation in which the last action was taken"
        ),
        "input_init_scale": Key(
            "Memory",
            1.0,
            number(0, open_low=True),
            "the GRU's weights of its input are multiplied by this at the start of training",
        ),
    },
    weights={"cell_size": lambda config: 3 * config.cell_size**2},
)
GRU = "memory.gru"
INPUT_WEIGHTS = (f"{GRU}.gates.input", f"{GRU}.candidate.input")


class RL2(RecurrentPPO):
    """A GRU whose hidden state is the memory."""

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.previous = observation_size if config.previous_observation else 0
        super().__init__(config, observation_size, action_size, actions)

    def build_memory(self, config: Config, inputs: int) -> tuple[dict[str, tuple[int, ...]], int]:
        self.shapes = gru_shapes(GRU, inputs + self.previous, config.cell_size)
        return self.shapes, config.cell_size

    def init_memory(self, rng: np.random.Generator) -> Params:
        params = long_memory(rng, init_with_gru(rng, self.shapes, GRU), GRU, self.config.lane_length)
        return params | {name: self.config.input_init_scale * params[name] for name in INPUT_WEIGHTS}

    def step(self, params: Params, x: Tensor, carried: Any) -> tuple[Tensor, Any]:
        if carried is None:
            carried = tuple(x.new_zeros(*x.shape[:2], size) for size in (self.config.cell_size, self.previous))
        state, previous = carried
        state = gru_step(params, GRU, torch.cat([x, previous], -1) if self.previous else x, state)
        return state, (state, x[..., : self.previous])  # x begins with the observation

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        if self.previous:
            observations = x[..., : self.previous]
            previous = torch.cat([torch.zeros_like(observations[:1]), observations[:-1]])
            x = torch.cat([x, previous], -1)
        return gru_states(params, GRU, x)
