"""The inner step, used by the sampler and, under differentiation, by the meta-objective; and its derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from mmaml.policies.params import Params

Aux = TypeVar("Aux")


def adapt(
    loss: Callable[[Params], tuple[Tensor, Aux]],
    params: Params,
    step_size: float | Params,
    create_graph: bool,
    first_order: bool = False,
) -> tuple[Params, Aux]:
    """θ' = θ - α ∘ ∇L(θ), for M tasks at once (Finn et al. 2017).

    loss: parameters [M, …] -> (per-task losses [M], anything else worth keeping from the evaluation).
    step_size: α, one number or a tensor for every parameter.
    create_graph: keep the step differentiable in the parameters, in α and in whatever else the loss depends on.
    first_order: of these, leave out the derivative of ∇L (Finn et al. 2017, §5.2).
    Returns θ' and what the loss kept. Parameters the loss does not depend on stay as they are.
    """
    if not create_graph:
        params = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        losses, aux = loss(params)
        gradients = torch.autograd.grad(
            losses.sum(),
            list(params.values()),
            retain_graph=create_graph,
            create_graph=create_graph and not first_order,
            materialize_grads=True,
        )
    alpha = _by_name(step_size, params)
    with torch.set_grad_enabled(create_graph):
        adapted = {
            name: value - alpha[name] * gradient
            for (name, value), gradient in zip(params.items(), gradients, strict=True)
        }
    return adapted, aux


def adapt_tangent(
    loss: Callable[[Params], Tensor],
    values: Params,
    adapted: Sequence[str],
    step_size: float | Params,
    direction: Params,
    step_size_direction: Params,
    first_order: bool = False,
) -> Params:
    """Derivative of `adapt` in a direction: θ̇' = θ̇ - α̇ ∘ ∇L - α ∘ (∂∇L/∂v) v̇.

    v: all `values` that the loss depends on, of which those named `adapted` are θ; the others are held. The last
    term, by the symmetry of second derivatives, is the gradient in θ of <∇_v L, v̇>: so no third derivative is
    needed to differentiate a loss of the adapted parameters in both directions (Pearlmutter 1994).
    direction: v̇; step_size_direction: α̇, empty where α is constant. Returns θ̇', without a graph.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            loss(leaves).sum(), list(leaves.values()), create_graph=not first_order, materialize_grads=True
        )
        by_name = dict(zip(leaves, gradients, strict=True))
        change = {name: torch.zeros_like(values[name]) for name in adapted}
        if not first_order:
            change = directional(by_name, direction, {name: leaves[name] for name in adapted})
    alpha = _by_name(step_size, adapted)
    with torch.no_grad():
        moved = {name: direction[name] - alpha[name] * change[name] for name in adapted}
        return moved | {name: moved[name] - rate * by_name[name] for name, rate in step_size_direction.items()}


def _by_name(step_size: float | Params, names: Iterable[str]) -> Mapping[str, float | Tensor]:
    return step_size if isinstance(step_size, dict) else dict.fromkeys(names, step_size)


def directional(gradients: Params, direction: Params, leaves: Params) -> Params:
    """Gradient in `leaves` of Σ <gradients, direction>: a Hessian-vector product, of symmetric Hessians."""
    product = sum((gradients[name] * direction[name]).sum() for name in gradients)
    assert isinstance(product, Tensor)
    found = torch.autograd.grad(product, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
