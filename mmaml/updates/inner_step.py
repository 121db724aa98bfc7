"""The inner step, used by the sampler and, under differentiation, by the meta-objective; and its derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from mmaml.policies.params import Params
from mmaml.updates.curvature import Curvature

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


class AdaptDerivative:
    """Derivative of `adapt` at one point, as a linear map and its transpose:

        θ̇' = θ̇ - α̇ ∘ ∇L - α ∘ (∂∇L/∂v) v̇

    v: all values that the loss depends on, of which those named `adapted` are θ; the others are held. By the symmetry
    of second derivatives, either needs products with the Hessian of L alone (`Curvature`).
    """

    def __init__(
        self,
        loss: Callable[[Params], Tensor],
        values: Params,
        adapted: Sequence[str],
        step_size: float | Params,
        first_order: bool = False,
    ) -> None:
        self._curvature, self._first_order = Curvature(loss, values), first_order
        self._held = {name: torch.zeros_like(value) for name, value in values.items() if name not in adapted}
        self._alpha = _by_name(step_size, adapted)

    @torch.no_grad()
    def tangent(self, direction: Params, step_size: Params) -> Params:
        """θ̇'. direction: v̇; step_size: α̇, empty where α is constant."""
        moved = {name: direction[name] for name in self._alpha}
        if not self._first_order:
            change = self._curvature.product(direction)
            moved = {name: value - self._alpha[name] * change[name] for name, value in moved.items()}
        return moved | {name: moved[name] - rate * self._curvature.gradient[name] for name, rate in step_size.items()}

    @torch.no_grad()
    def transposed(self, cotangent: Params) -> tuple[Params, Params]:
        """What a cotangent of θ' is in v and in α."""
        found = self._held | {name: cotangent[name] for name in self._alpha}
        if not self._first_order:
            change = self._curvature.product(
                self._held | {name: alpha * cotangent[name] for name, alpha in self._alpha.items()}
            )
            found = {name: value - change[name] for name, value in found.items()}
        return found, {name: -self._curvature.gradient[name] * cotangent[name] for name in self._alpha}


def _by_name(step_size: float | Params, names: Iterable[str]) -> Mapping[str, float | Tensor]:
    return step_size if isinstance(step_size, dict) else dict.fromkeys(names, step_size)
