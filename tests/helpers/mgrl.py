"""What the tests of MGRL share."""

from __future__ import annotations

import numpy as np

from mmaml.algorithms.mgrl import MGRL
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates.evaluate import Evaluate, Question


def answers(algo: MGRL, *batches: Rollouts) -> Evaluate:
    """Gives the gradients of the batches, one after another."""
    left = list(batches)

    def answer(question: Question) -> dict[str, np.ndarray]:
        found = algo.gradients(question.parameters, [left.pop(0)])
        return {name: value.numpy() for name, value in found.items()}

    return Evaluate(answer, range(batches[0].tasks), lambda: list(batches))
