"""The inner step, used by the sampler and, under differentiation, by the meta-objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from mmaml.params import Params

Aux = TypeVar("Aux")


def adapt(
    loss: Callable[[Params], tuple[Tensor, Aux]],
    params: Params,
    step_size: float | Params,
    create_graph: bool,
) -> tuple[Params, Aux]:
    """θ' = θ - α ∘ ∇L(θ), for M tasks at once (MAML; Finn et al. 2017).

    loss: parameters [M, …] -> (per-task losses [M], anything else worth keeping from the evaluation).
    step_size: α, one number or a tensor for every parameter.
    create_graph: keep the step differentiable in the parameters and in whatever else the loss depends on.
    Returns θ' and what the loss kept. Parameters the loss does not depend on stay as they are.
    """
    if not create_graph:
        params = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        losses, aux = loss(params)
        gradients = torch.autograd.grad(
            losses.sum(), list(params.values()), create_graph=create_graph, materialize_grads=True
        )
    alpha = step_size if isinstance(step_size, dict) else dict.fromkeys(params, step_size)
    with torch.set_grad_enabled(create_graph):
        adapted = {
            name: value - alpha[name] * gradient
            for (name, value), gradient in zip(params.items(), gradients, strict=True)
        }
    return adapted, aux
