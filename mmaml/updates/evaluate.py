"""How an update asks for functions of the parameters on the tasks of a meta-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from mmaml.sampling.rollouts import Rollouts

Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Question:
    """What is asked of the tasks of a meta-batch: a function of the algorithm, and at what.

    function: one of `Algorithm.functions`. parameters [P]. vector: a second flat vector, if the function takes one.
    tasks: indices in the meta-batch, ascending; all tasks that were sampled if None. options: further arguments.
    lanes: indices of the lanes of each task that stand for all; all if None.
    """

    function: str
    parameters: Tensor
    vector: Tensor | None = None
    tasks: Sequence[int] | None = None
    lanes: Sequence[int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluate:
    """Answers questions about a meta-batch, wherever its rollouts are.

    answer: results by name, each with one entry a task, [M, …], in the order of the tasks.
    tasks: indices in the meta-batch of the tasks that were sampled, ascending: all, unless environments failed.
    rollouts: gives all collections of these tasks, on the CPU of the master.
    scaling: by which their observations are normalised, as `Scaling.from_vector` reads it; None where nothing is.
    """

    answer: Callable[[Question], Results]
    tasks: Sequence[int]
    rollouts: Callable[[], list[Rollouts]]
    scaling: Tensor | None = None

    def __call__(self, question: Question) -> Results:
        return self.answer(question)

    def through(self, answer: Callable[[Question], Results]) -> Evaluate:
        """The same meta-batch, with questions that another function answers."""
        return replace(self, answer=answer)
