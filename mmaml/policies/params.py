"""Parameters are values: dictionaries of tensors, and the flat vectors they travel as.

Inside the computation every tensor has a leading task dimension M (each task adapts its own copy); between
ranks, in the optimiser and in reductions the same numbers are one flat float32 vector of P entries.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Params = dict[str, Tensor]


class ParamSpec:
    """Names and shapes of parameters, in the order in which they lie in the flat vector.

    separate: names of those on which no policy depends, a block of their own in a trust region.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], separate: Collection[str] = ()) -> None:
        self.shapes = dict(shapes)
        self.separate = frozenset(separate)
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.total = sum(self.sizes)

    def flatten(self, params: Mapping[str, Tensor]) -> Tensor:
        """Tensors of the spec's shapes -> flat vector [P]."""
        return torch.cat([params[name].reshape(-1) for name in self.shapes])

    def unflatten(self, flat: Tensor) -> Params:
        """Flat vectors [..., P] -> views [..., *shape] by name."""
        parts = flat.split(self.sizes, dim=-1)
        return {
            name: part.reshape(*flat.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def networks(self) -> dict[str, list[str]]:
        """Names of parameters by the network that they are of, which is what their names begin with."""
        found: dict[str, list[str]] = {}
        for name in self.shapes:
            found.setdefault(name.partition(".")[0], []).append(name)
        return found

    def slice_of(self, network: str) -> slice:
        """Where the parameters of a network lie in the flat vector. Raises ValueError unless they are consecutive."""
        inside = [name.partition(".")[0] == network for name in self.shapes]
        first, last = inside.index(True), len(inside) - 1 - inside[::-1].index(True)
        if not all(inside[first : last + 1]):
            raise ValueError(f"network: expected consecutive parameters of '{network}', got {list(self.shapes)}")
        return slice(sum(self.sizes[:first]), sum(self.sizes[: last + 1]))

    def per_task(self, flat: Tensor, tasks: int) -> Params:
        """Flat vector [P] -> one differentiable copy a task, [M, *shape], sharing memory until changed."""
        return {
            name: value.expand(tasks, *value.shape).detach().requires_grad_()
            for name, value in self.unflatten(flat).items()
        }

    def flatten_per_task(self, params: Mapping[str, Tensor]) -> Tensor:
        """Tensors [M, *shape] -> [M, P]."""
        return torch.cat([params[name].flatten(1) for name in self.shapes], dim=1)

    def gradient_per_task(self, loss: Tensor, params: Params, keeps_graph: bool = False) -> Tensor:
        """Gradient of a number in every task's copy of the parameters (`per_task`): [M, P].

        keeps_graph: for a further gradient through the same graph.
        """
        values = list(params.values())
        gradients = torch.autograd.grad(loss, values, retain_graph=keeps_graph, materialize_grads=True)
        return self.flatten_per_task(dict(zip(params, gradients, strict=True)))


class _Outputs(Function):
    """A number whose gradients in outputs y are their cotangents w: (*y, *w) -> 0."""

    @staticmethod
    def forward(ctx, *both):  # type: ignore[override]
        ctx.save_for_backward(*both[len(both) // 2 :])
        return both[0].new_zeros(())

    @staticmethod
    def backward(ctx, _):  # type: ignore[override]
        cotangents = ctx.saved_tensors
        return *cotangents, *[None] * len(cotangents)


def pull_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], **options: Any
) -> tuple[Tensor, ...]:
    """Jᵀ w of the inputs, for outputs of Jacobian J and their cotangents w. options: those of `torch.autograd.grad`.

    That takes cotangents too, but loads SymPy to compare their shapes: half a second of the start of every rank.
    """
    with torch.enable_grad():
        number = _Outputs.apply(*outputs, *cotangents)
    return torch.autograd.grad(number, inputs, **options)


class Derivative:
    """The derivative J of functions of leaves at one point, as a linear map and its transpose; computed once.

    outputs: of the leaves, with their graph. cotangents: w of the outputs; zeros if none are given.
    """

    def __init__(
        self, outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor] | None = None
    ) -> None:
        at = [torch.zeros_like(value) for value in outputs] if cotangents is None else cotangents
        self._outputs, self._leaves = list(outputs), list(leaves)
        self._cotangents = [value.detach().requires_grad_() for value in at]
        with torch.enable_grad():
            self._pulled = self._pull(self._cotangents, create_graph=True)

    def tangent(self, direction: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """J v of every output, and ∂(Jᵀ w)/∂v, which is symmetric, times v, of every leaf.

        Jᵀ w is linear in w, so that its derivative in w along a direction is J v.
        """
        pairs = [(p, v) for p, v in zip(self._pulled, direction, strict=True) if p.requires_grad]
        with torch.enable_grad():
            product = torch.stack([(p * v).sum() for p, v in pairs]).sum()
        found = torch.autograd.grad(
            product, [*self._cotangents, *self._leaves], retain_graph=True, materialize_grads=True
        )
        return list(found[: len(self._outputs)]), list(found[len(self._outputs) :])

    def transposed(self, cotangents: Sequence[Tensor]) -> Sequence[Tensor]:
        """Jᵀ w of every leaf."""
        return self._pull(cotangents, create_graph=False)

    def _pull(self, cotangents: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
        dependent = [(y, w) for y, w in zip(self._outputs, cotangents, strict=True) if y.requires_grad]
        outputs, arriving = zip(*dependent, strict=True)
        return pull_back(
            outputs, self._leaves, arriving, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
