"""The meta-objective of M tasks as a value, with the parts that updates and logs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from mmaml.policies.params import Params, ParamSpec

Array = TypeVar("Array", Tensor, np.ndarray)
NAMES = ("loss", "surrogate", "inner_kl", "outer_kl", "clip_fraction")


@dataclass(frozen=True)
class Objective(Generic[Array]):
    """J of M tasks and its parts.

    loss [M]: J, which the outer step minimises. surrogate [M]: its term of the advantages. inner_kl [M, K]:
    KL(π_old,k ‖ π_k) at each inner step; outer_kl [M]: after the last. clip_fraction [M]: share of steps whose ratio is
    clipped. added: what an algorithm adds to J, [M] each, by names that are none of these.
    """

    loss: Array
    surrogate: Array
    inner_kl: Array
    outer_kl: Array
    clip_fraction: Array
    added: Mapping[str, Array] = field(default_factory=dict)

    def results(self) -> dict[str, Array]:
        """The parts by name, as an answer to a question holds them."""
        parts = {name: getattr(self, name) for name in NAMES}
        assert not parts.keys() & self.added.keys()
        return parts | dict(self.added)


def results_with_gradient(objective: Objective[Tensor], spec: ParamSpec, meta: Params) -> dict[str, Tensor]:
    """The parts of J, and ∇J in each task's copy of the meta-parameters, "gradient" [M, P]."""
    gradient = spec.gradient_per_task(objective.loss.sum(), meta)
    return {"gradient": gradient} | {name: value.detach() for name, value in objective.results().items()}


def objective_of(results: Mapping[str, np.ndarray]) -> Objective[np.ndarray]:
    """The objective in an answer, in which a gradient may lie beside it."""
    parts = {name: results[name] for name in NAMES}
    added = {name: value for name, value in results.items() if name not in (*NAMES, "gradient")}
    return Objective(**parts, added=added)
