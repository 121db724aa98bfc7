"""What policy and value function read of a recurrent network: its features, or a hidden layer over them.

    g_t = relu([f_t, x_t] W + b)        f: features, x: the input of the step

A memory keeps what is known about all states of a task, of which the present one decides what matters. The layer lets a
policy that is linear in g choose among features by x; one that is linear in f reads the same of them at every step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmaml.policies.batch_invariant import affine, affine_by_step
from mmaml.policies.mlp import glorot_uniform
from mmaml.policies.params import Params

WEIGHT, BIAS = "readout.weight", "readout.bias"


class Readout:
    """Holds sizes only; parameters are passed to every call.

    features: C, those of the network. inputs: F. hidden: units of the layer; 0 for none, where g is f.
    size: entries of g.
    """

    def __init__(self, features: int, inputs: int, hidden: int) -> None:
        self.hidden, self.size = hidden, hidden or features
        self.shapes: dict[str, tuple[int, ...]] = {}
        if hidden:
            self.shapes = {WEIGHT: (features + inputs, hidden), BIAS: (1, hidden)}

    def init(self, rng: np.random.Generator) -> Params:
        """Glorot-uniform weights, zero biases."""
        if not self.hidden:
            return {}
        return {WEIGHT: glorot_uniform(rng, *self.shapes[WEIGHT]), BIAS: torch.zeros(self.shapes[BIAS])}

    def of_step(self, params: Params, features: Tensor, x: Tensor) -> Tensor:
        """g [M, N, C'] of one step, from f [M, N, C] and x [M, N, F]; no gradient."""
        if not self.hidden:
            return features
        with torch.no_grad():
            return torch.relu(affine(torch.cat([features, x], -1), params[WEIGHT], params[BIAS]))

    def of_steps(self, params: Params, features: Tensor, x: Tensor) -> Tensor:
        """g [T, M, N, C'] of each step, from f [T, M, N, C] and x [T, M, N, F], to the bit that of `of_step`.

        Differentiable once, in the parameters and f.
        """
        if not self.hidden:
            return features
        return torch.relu(affine_by_step(torch.cat([features, x], -1), params[WEIGHT], params[BIAS]))
