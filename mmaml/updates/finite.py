"""NaN and infinity in what an update is made of: found where they appear, named by task and tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmaml.errors import NotFinite
from mmaml.policies.params import ParamSpec
from mmaml.sampling.finite import first_not_finite, sum_is_finite
from mmaml.updates.evaluate import Evaluate, Question, Results


def require_finite(spec: ParamSpec, parameters: Tensor) -> None:
    """Raise NotFinite, naming the first tensor, if meta-parameters [P] are not finite."""
    if not sum_is_finite(parameters) and (where := first_of_vector(spec, parameters)) is not None:
        raise NotFinite(f"after the update: parameter {where}")


def first_of_vector(spec: ParamSpec, vector: Tensor) -> str | None:
    """The first entry of a flat vector [P] that is not finite, such as "policy.0.weight[1, 3] is inf"."""
    for name, value in spec.unflatten(vector).items():
        if (where := first_not_finite(value)) is not None:
            return f"{name}{where}"
    return None


class Checked:
    """Answers as `evaluate` does; losses at a gradient, and results of P entries a task, are finite or it raises.

    Losses elsewhere are not examined: a line search may try what leads nowhere, and refuse it.
    """

    def __init__(self, evaluate: Evaluate, spec: ParamSpec) -> None:
        self._evaluate, self._spec = evaluate, spec
        self.evaluations = 0

    def __call__(self, question: Question) -> Results:
        """Raises NotFinite."""
        result = self._evaluate(question)
        self.evaluations += 1
        tasks = self._evaluate.tasks if question.tasks is None else question.tasks
        if found := not_finite_results(self._spec, question.function, self.evaluations, tasks, result):
            raise NotFinite(found[0])
        return result


def not_finite_results(
    spec: ParamSpec, function: str, evaluation: int, tasks: Sequence[int], result: Mapping[str, np.ndarray]
) -> list[str]:
    """A line for each task and tensor that is not finite, in task order, of what `Checked` examines.

    evaluation: of the update, counted from 1. tasks: indices in the meta-batch of the tasks of the result.
    """
    found: list[tuple[int, str]] = []
    for name, values in result.items():
        of_parameters = values.ndim == 2 and values.shape[1] == spec.total
        examined = of_parameters or (function, name) == ("meta_gradient", "loss")
        if not examined or sum_is_finite(torch.from_numpy(values)):
            continue
        for task, own in zip(tasks, torch.from_numpy(values), strict=True):
            parts = spec.unflatten(own) if of_parameters else {"": own}
            texts = {of: first_not_finite(part) for of, part in parts.items()}
            what = f"{name} of " if of_parameters else name
            found += [(task, f"{what}{of}{text}") for of, text in texts.items() if text is not None]
    found.sort(key=lambda one: one[0])
    return [f"task {task}, {function}, evaluation {evaluation} of the update: {text}" for task, text in found]


def checked(evaluate: Evaluate, spec: ParamSpec) -> Evaluate:
    """`evaluate` that raises NotFinite as `Checked` says. spec: of the meta-parameters."""
    return evaluate.through(Checked(evaluate, spec))
