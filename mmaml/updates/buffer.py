"""A bounded buffer of earlier trials, on the master and in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Buffer:
    """The newest entries, `capacity` of them at most, the oldest first; each is a tensor for every name.

    shapes: of an entry's float32 tensors, by name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], capacity: int) -> None:
        self.shapes, self.capacity = dict(shapes), capacity
        self._entries = {name: torch.zeros(0, *shape) for name, shape in self.shapes.items()}

    def __len__(self) -> int:
        return len(next(iter(self._entries.values())))

    def add(self, entries: Mapping[str, Tensor]) -> None:
        """Add n entries, [n, *shape] each; those that no longer fit are dropped, the oldest first."""
        for name, held in self._entries.items():
            newest = entries[name][-self.capacity :]
            kept = min(len(held), self.capacity - len(newest))
            self._entries[name] = torch.cat([held[len(held) - kept :], newest])

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """`count` different entries, [count, *shape] each; all, in some order, where there are no more."""
        chosen = torch.from_numpy(rng.permutation(len(self))[:count])
        return {name: held[chosen] for name, held in self._entries.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """As a checkpoint holds it; empty as long as there is nothing. No later call changes its tensors."""
        return dict(self._entries) if len(self) else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` gave. Raises ValueError for entries of other names or shapes."""
        found = state or {name: torch.zeros(0, *shape) for name, shape in self.shapes.items()}
        if found.keys() != self.shapes.keys():
            raise ValueError(f"buffer: expected {[*self.shapes]}, got {[*found]}")
        for name, shape in self.shapes.items():
            if found[name].shape[1:] != shape or not found[name].isfinite().all():
                raise ValueError(f"buffer.{name}: expected finite tensors {list(shape)}, got {list(found[name].shape)}")
        if len({len(held) for held in found.values()}) > 1:
            raise ValueError("buffer: expected as many entries of each name, got unlike numbers")
        self._entries = dict(found)
