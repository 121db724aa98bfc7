"""Keys that several algorithms have of their own. Loads no torch: declarations are read before a run starts."""

from __future__ import annotations

from mmaml.config.declaration import Key
from mmaml.config.value_types import integer

CELL_SIZE = Key("Task encoder", 64, integer(1), "units of the GRU and of the encoder's MLPs")
