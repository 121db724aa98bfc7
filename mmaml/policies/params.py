"""Parameters are values: dictionaries of tensors, and the flat vectors they travel as.

Inside the computation every tensor has a leading task dimension M (each task adapts its own copy); between
ranks, in the optimiser and in reductions the same numbers are one flat float32 vector of P entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

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


def derivative(function: Callable[[Params], Params], values: Params, direction: Params) -> Params:
    """Derivative of `function` at `values` in `direction`, by reverse differentiation twice.

    With u the cotangent of the outputs, Jᵀu is linear in u, and its derivative in u along the direction is J v.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
    with torch.enable_grad():
        outputs = function(leaves)
        cotangents = [torch.zeros_like(value, requires_grad=True) for value in outputs.values()]
        pulled = torch.autograd.grad(
            list(outputs.values()), list(leaves.values()), cotangents, create_graph=True, materialize_grads=True
        )
        product = torch.stack([(g * direction[name]).sum() for name, g in zip(leaves, pulled, strict=True)]).sum()
        return dict(zip(outputs, torch.autograd.grad(product, cotangents, materialize_grads=True), strict=True))
