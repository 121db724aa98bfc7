"""The inner step, used by the sampler and, under differentiation, by the meta-objective; and its derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmaml.policies.params import Params
from mmaml.updates.curvature import Aux, Curvature, add_to


def adapt(
    loss: Callable[[Params], tuple[Tensor, Aux]],
    values: Params,
    adapted: Sequence[str],
    step_size: float | Params,
    create_graph: bool,
    first_order: bool = False,
) -> tuple[Params, Aux]:
    """θ' = θ - α ∘ ∇L(θ), for M tasks at once (Finn et al. 2017).

    loss: values [M, …] -> (losses [M], a distribution that the same evaluation gives).
    adapted: names of those values that are θ; the loss depends on the others too.
    step_size: α, one number or a tensor for every adapted parameter.
    create_graph: keep the step, and the distribution, differentiable once in the values and in α.
    first_order: leave out the derivative of ∇L (Finn et al. 2017, §5.2).
    Returns θ' and the distribution. Parameters the loss does not depend on stay as they are.
    """
    if create_graph:
        sizes = step_size if isinstance(step_size, dict) else {}
        held = {name: size.detach() for name, size in sizes.items()} or step_size
        derivative = AdaptDerivative(loss, values, adapted, held, first_order, many=False)
        outputs = _Adapt.apply(derivative, *values.values(), *sizes.values())
        return dict(zip(adapted, outputs, strict=False)), type(derivative.aux)(*outputs[len(adapted) :])
    leaves = {name: values[name].detach().requires_grad_() for name in adapted}
    with torch.enable_grad():
        losses, aux = loss(values | leaves)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    return _stepped(leaves, dict(zip(adapted, gradients, strict=True)), step_size), aux


@torch.no_grad()
def _stepped(values: Params, gradient: Params, step_size: float | Params) -> Params:
    """θ - α ∘ ∇L."""
    alpha = _by_name(step_size, gradient)
    return {name: values[name] - alpha[name] * slope for name, slope in gradient.items()}


class _Adapt(Function):
    """`adapt` as a function of all values and step sizes, whose derivative is written out."""

    @staticmethod
    def forward(ctx, derivative, *tensors):  # type: ignore[override]
        ctx.derivative, ctx.sizes = derivative, len(tensors) - len(derivative.values)
        ctx.set_materialize_grads(False)
        # Values of their own: what `derivative` holds would refer to it, and be freed late.
        return tuple(value.detach() for value in (*derivative.result.values(), *derivative.aux))

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents):  # type: ignore[override]
        derivative = ctx.derivative
        stepped = {
            name: torch.zeros_like(value) if cotangent is None else cotangent
            for (name, value), cotangent in zip(derivative.result.items(), cotangents, strict=False)
        }
        values, sizes = derivative.transposed(stepped, cotangents[len(stepped) :])
        return None, *(values[name] for name in derivative.values), *list(sizes.values())[: ctx.sizes]


class AdaptDerivative(Generic[Aux]):
    """Derivative of `adapt` at one point, as a linear map and its transpose:

        θ̇' = θ̇ - α̇ ∘ ∇L - α ∘ (∂∇L/∂v) v̇

    v: all values, of which those named `adapted` are θ; the others are held. By the symmetry of second derivatives,
    either needs products with the Hessian of L alone (`Curvature`). many: whether it is wanted of many directions.
    result: θ'. aux: the distribution at θ.
    """

    def __init__(
        self,
        loss: Callable[[Params], tuple[Tensor, Aux]],
        values: Params,
        adapted: Sequence[str],
        step_size: float | Params,
        first_order: bool = False,
        many: bool = True,
    ) -> None:
        self._curvature, self._first_order = Curvature(loss, values, many=many), first_order
        self.values, self.aux = self._curvature.leaves, self._curvature.aux
        self.result = _stepped(values, {name: self._curvature.gradient[name] for name in adapted}, step_size)
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
    def transposed(self, cotangent: Params, aux: Sequence[Tensor | None] = ()) -> tuple[Params, Params]:
        """What a cotangent of θ' is in v and in α; with cotangents of the distribution as well."""
        found = self._held | {name: cotangent[name] for name in self._alpha}
        if self._first_order:
            add_to(found, self._curvature.gradient_of_aux(aux))
        else:
            back = self._held | {name: -alpha * cotangent[name] for name, alpha in self._alpha.items()}
            add_to(found, self._curvature.product(back, aux))
        return found, {name: -self._curvature.gradient[name] * cotangent[name] for name in self._alpha}


def _by_name(step_size: float | Params, names: Iterable[str]) -> Mapping[str, float | Tensor]:
    return step_size if isinstance(step_size, dict) else dict.fromkeys(names, step_size)
