"""Keys that several algorithms have of their own. Loads no torch: declarations are read before a run starts."""

from __future__ import annotations

from mmaml.config.declaration import Key
from mmaml.config.value_types import integer, number

CELL_SIZE = Key(
    "Memory",
    64,
    integer(1),
    "units of the GRU: of the policy's memory, or of the task encoder and its MLPs",
)
VF_LOSS_COEFF = Key("Value function", 0.5, number(0), "weight of the value function's loss, wherever π is trained")
ENTROPY_COEFF = Key("Value function", 0.0, number(0), "weight of the policy's entropy, wherever π is trained")
