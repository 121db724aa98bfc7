"""How an update asks for functions of the parameters on the tasks of a meta-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Evaluate(Protocol):
    """Evaluate a named function of an algorithm on tasks of the meta-batch, wherever their rollouts are."""

    @property
    def tasks(self) -> Sequence[int]:
        """Positions in the meta-batch of the tasks that were sampled, ascending: all, unless environments failed."""

    def __call__(
        self,
        function: str,
        parameters: Tensor,
        vector: Tensor | None = None,
        tasks: Sequence[int] | None = None,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Results by name, one entry a task: [M, …]. tasks: their positions, in order; all if None."""
