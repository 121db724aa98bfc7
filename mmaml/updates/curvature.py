"""Products with the Hessian of a loss, at one point and in many directions (Pearlmutter 1994)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mmaml.policies.layers import Bend, Tangent, halves
from mmaml.policies.mlp import CutNetwork, cut_networks
from mmaml.policies.params import Derivative, Params, pull_back

Aux = TypeVar("Aux", bound=Sequence[Tensor])


class Curvature(Generic[Aux]):
    """The Hessian of a loss of M tasks in all values it depends on, as a linear function of a direction.

    A loss ℓ(z, v) of values v and of the outputs z of MLPs, whose weights W are functions of v:

        H v̇ = ∂²ℓ (ż, v̇) + (∂W/∂v)ᵀ [ (∂z/∂W)ᵀ (∂²ℓ (ż, v̇))_z + (∂²z/∂W² · ∂ℓ/∂z) Ẇ ] + (∂²W/∂v² · ∂ℓ/∂W) v̇

    with Ẇ = (∂W/∂v) v̇ and ż = (∂z/∂W) Ẇ. All that costs is in the networks, where it is written out (`Layers`); ℓ and
    W are small graphs, kept for all products.

    loss: values [M, …] -> (losses [M], tensors of a small graph that the same evaluation gives, perhaps none).
    at_minimum: ∂ℓ/∂z is 0, as of a divergence from the point itself: its terms are left out. many: whether many
    products are wanted. cut: False leaves everything to autograd, which is done anyway where a network's weights depend
    on the output of another.
    gradient: ∇ℓ by name. aux: the tensors.
    """

    def __init__(
        self,
        loss: Callable[[Params], tuple[Tensor, Aux]],
        values: Params,
        at_minimum: bool = False,
        many: bool = True,
        cut: bool = True,
    ) -> None:
        self.leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            with cut_networks() as networks:
                losses, self.aux = loss(self.leaves)
            if not cut or depend_on_each_other(networks):
                networks, (losses, self.aux) = [], loss(self.leaves)
            outputs = [network.output for network in networks]
            self._inputs = [*outputs, *self.leaves.values()]
            found = torch.autograd.grad(losses.sum(), self._inputs, create_graph=True, allow_unused=True)
        self._slopes = [
            (slope, index) for index, slope in enumerate(found) if slope is not None and slope.requires_grad
        ]
        self._networks = [
            _Network(network, self.leaves, None if at_minimum else slope, many)
            for network, slope in zip(networks, found, strict=False)
        ]
        self.gradient = self._by_name([None if slope is None else slope.detach() for slope in found])
        for network in self._networks:
            add_to(self.gradient, network.gradient)

    def product(self, direction: Params, aux: Sequence[Tensor | None] = ()) -> Params:
        """H v̇, by name. direction: v̇, of all values. aux: cotangents of `aux`, whose gradient is added."""
        moved = [direction[name] for name in self.leaves]
        tangents = [network.tangent(moved) for network in self._networks]
        arriving = [*(tangent.rates[-1] for tangent, _ in tangents), *moved]
        changes = self._pulled([(slope, arriving[index]) for slope, index in self._slopes], aux)
        result = self._by_name(changes)
        for network, (tangent, bent), change in zip(self._networks, tangents, changes, strict=False):
            add_to(result, network.product(tangent, change))
            add_to(result, bent)
        return result

    def gradient_of_aux(self, aux: Sequence[Tensor | None]) -> Params:
        """The gradient of `aux` with these cotangents, by name."""
        changes = self._pulled([], aux)
        result = self._by_name(changes)
        for network, change in zip(self._networks, changes, strict=False):
            if change is not None:
                add_to(result, network.pulled(change))
        return result

    def _pulled(self, pairs: Sequence[tuple[Tensor, Tensor]], aux: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Cotangents of the networks' outputs and the values, from (function of them, cotangent) and those of `aux`."""
        pairs = [*pairs]
        pairs += [(value, w) for value, w in zip(self.aux, aux, strict=False) if w is not None and value.requires_grad]
        if not pairs:
            return [None] * len(self._inputs)
        outputs, cotangents = zip(*pairs, strict=True)
        return list(pull_back(outputs, self._inputs, cotangents, retain_graph=True, allow_unused=True))

    def _by_name(self, found: Sequence[Tensor | None]) -> Params:
        """What was found of the values, the last of the inputs."""
        return {
            name: torch.zeros_like(leaf) if value is None else value
            for (name, leaf), value in zip(self.leaves.items(), found[-len(self.leaves) :], strict=True)
        }


class _Network:
    """A network within the loss, as a function of the leaves.

    slope: ∂ℓ/∂z; None if it is 0.
    """

    def __init__(self, cut: CutNetwork, leaves: Params, slope: Tensor | None, many: bool) -> None:
        self.layers, self.names = cut.layers, list(leaves)
        self.bend: Bend | None = None
        own: list[Tensor] | None = None
        if slope is not None:
            deltas = self.layers.cotangents(slope.detach())
            self.bend = Bend(deltas, curved=cut.nonlinearity == "tanh")
            self.bend = self.bend.for_many(self.layers) if many else self.bend
            own = self.layers.gradient(deltas)
        indices = {id(leaf): index for index, leaf in enumerate(leaves.values())}
        self._own = [indices[id(value)] for value in cut.parameters if id(value) in indices]
        self._map: Derivative | None = None
        if len(self._own) < len(cut.parameters):
            self._map = Derivative(cut.parameters, list(leaves.values()), own)
        self.gradient = {} if own is None else self._to_leaves(own)

    def tangent(self, moved: Sequence[Tensor]) -> tuple[Tangent, Params]:
        """The change of the layers as the leaves move; and (∂²W/∂v² · ∂ℓ/∂W) v̇, by name."""
        if self._map is None:
            return self.layers.tangent(*halves([moved[index] for index in self._own])), {}
        parameters, bent = self._map.tangent(moved)
        return self.layers.tangent(*halves(parameters)), dict(zip(self.names, bent, strict=True))

    def product(self, tangent: Tangent, change: Tensor | None) -> Params:
        """What the Hessian has through the network, by name. change: of ∂ℓ/∂z."""
        last = torch.zeros_like(tangent.rates[-1]) if change is None else change
        cotangents = self.layers.cotangents(last, self.bend, tangent)
        return self._to_leaves(self.layers.gradient(cotangents, self.bend, tangent))

    def pulled(self, cotangent: Tensor) -> Params:
        """What a cotangent of the output is in the leaves, by name."""
        return self._to_leaves(self.layers.gradient(self.layers.cotangents(cotangent)))

    def _to_leaves(self, parameters: Sequence[Tensor]) -> Params:
        if self._map is not None:
            return dict(zip(self.names, self._map.transposed(parameters), strict=True))
        return {self.names[index]: value for index, value in zip(self._own, parameters, strict=True)}


def depend_on_each_other(networks: Sequence[CutNetwork]) -> bool:
    """Whether parameters of one are computed from the output of another."""
    outputs = [network.output for network in networks]
    parameters = [value.sum() for network in networks for value in network.parameters if value.grad_fn is not None]
    if len(networks) < 2 or not parameters:
        return False
    found = torch.autograd.grad(parameters, outputs, retain_graph=True, allow_unused=True)
    return any(slope is not None for slope in found)


def add_to(total: Params, part: Params) -> None:
    """Add values by name; some of the total may have none."""
    for name, value in part.items():
        total[name] = total[name] + value
