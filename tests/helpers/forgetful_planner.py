"""EPN without a memory: it plans over the last transition alone, and must fail what needs more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmaml.algorithms.epn import DECLARATION as DECLARATION
from mmaml.algorithms.epn import EPN
from mmaml.policies.params import Params


class ForgetfulPlanner(EPN):
    """Its memory is empty at every step."""

    def step(self, params: Params, x: Tensor, carried: Any) -> tuple[Tensor, Any]:
        return super().step(params, x, None)

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        return torch.cat([super(ForgetfulPlanner, self).unroll(params, step[None]) for step in x])
