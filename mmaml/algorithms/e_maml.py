"""E-MAML: MAML that is credited for what its first samples made possible (Stadie et al. 2018).

    ∇J = ∇J_MAML - mean over tasks of  R_i · mean over k < K of mean_t[ ∇ log π_θ_k(a|s) ] on D_k

R_i: return after the last inner step, less its mean over the tasks of the meta-batch, over its standard deviation.
MAML's own gradient, with the log-likelihood in the inner loss, takes D_0 … D_{K-1} as given; this term raises the
likelihood of those whose adaptation ended well. The paper's R_i is the return itself; comparing tasks takes away what
all have in common, and makes the term's size independent of the reward's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.maml import DECLARATION as PARENT
from mmaml.algorithms.maml import MAML, AdaptedTasks
from mmaml.config.declaration import Condition
from mmaml.updates import losses
from mmaml.updates.evaluate import Evaluate, Question, Results

DECLARATION = PARENT.extended(
    conditions=[
        Condition(
            "meta_batch_size",
            lambda config: config.meta_batch_size >= 2,
            "a whole number ≥ 2",
            "credits a task by comparison with others",
        )
    ],
)


class EMAML(MAML):
    """MAML with the exploration term."""

    def additions(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """-R_i · mean_t[ r ] over D_0 … D_{K-1}, r = π_θ_k / π_old,k. vector: R of every task of the meta-batch.

        The ratio's gradient is that of the log-likelihood where D_k was sampled.
        """
        assert adapted.vector is not None
        *collections, _ = adapted.rollouts
        credit = adapted.vector[collections[0].task_index]
        ratios = [losses.likelihood_ratio(start, data) for start, data in zip(adapted.before, collections, strict=True)]
        terms = [
            losses.surrogate(ratio, credit[:, None].expand_as(ratio), data.flat("weights"))
            for ratio, data in zip(ratios, collections, strict=True)
        ]
        return {"exploration": sum(terms[1:], start=terms[0]) / len(terms)}

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        returns = evaluate(Question("returns", parameters))["return"][:, -1]
        credits = np.zeros(self.config.meta_batch_size)
        credits[evaluate.tasks] = (returns - returns.mean()) / (returns.std() + 1e-8)
        vector = torch.from_numpy(credits).float()

        def with_credits(question: Question) -> Results:
            return evaluate(question if question.vector is not None else replace(question, vector=vector))

        return self.meta_update(parameters, evaluate.through(with_credits), iteration)
