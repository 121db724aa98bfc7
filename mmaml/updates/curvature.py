"""Products with the Hessian of a loss, at one point and in many directions (Pearlmutter 1994)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmaml.policies.layers import Bend, Tangent, halves
from mmaml.policies.mlp import CutNetwork, cut_networks
from mmaml.policies.params import Derivative, Params


class Curvature:
    """The Hessian of a loss of M tasks in all values it depends on, as a linear function of a direction.

    A loss ℓ(z, v) of values v and of the outputs z of MLPs, whose weights W are functions of v:

        H v̇ = ∂²ℓ (ż, v̇) + (∂W/∂v)ᵀ [ (∂z/∂W)ᵀ (∂²ℓ (ż, v̇))_z + (∂²z/∂W² · ∂ℓ/∂z) Ẇ ] + (∂²W/∂v² · ∂ℓ/∂W) v̇

    with Ẇ = (∂W/∂v) v̇ and ż = (∂z/∂W) Ẇ. All that costs is in the networks, where it is written out (`Layers`); ℓ and
    W are small graphs, kept for all products.

    loss: values [M, …] -> [M]. at_minimum: ∂ℓ/∂z is 0, as of a divergence from the point itself: its terms are left
    out. cut: False leaves everything to autograd, which is done anyway where a network's weights depend on the output
    of another. gradient: ∇ℓ by name.
    """

    def __init__(
        self, loss: Callable[[Params], Tensor], values: Params, at_minimum: bool = False, cut: bool = True
    ) -> None:
        self.leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            with cut_networks() as networks:
                total = loss(self.leaves).sum()
            if not cut or depend_on_each_other(networks):
                networks, total = [], loss(self.leaves).sum()
            outputs = [network.output for network in networks]
            self._inputs = [*outputs, *self.leaves.values()]
            found = torch.autograd.grad(total, self._inputs, create_graph=True, allow_unused=True)
        self._slopes = [
            (slope, index) for index, slope in enumerate(found) if slope is not None and slope.requires_grad
        ]
        self._networks = [
            _Network(network, self.leaves, None if at_minimum else slope)
            for network, slope in zip(networks, found, strict=False)
        ]
        self.gradient = self._by_name([None if slope is None else slope.detach() for slope in found[len(outputs) :]])
        for network in self._networks:
            _add(self.gradient, network.gradient)

    def product(self, direction: Params) -> Params:
        """H v̇, by name. direction: v̇, of all values."""
        moved = [direction[name] for name in self.leaves]
        tangents = [network.tangent(moved) for network in self._networks]
        arriving = [*(tangent.rates[-1] for tangent, _ in tangents), *moved]
        changes: Sequence[Tensor | None] = [None] * len(self._inputs)
        if self._slopes:
            slopes, indices = zip(*self._slopes, strict=True)
            rates = [arriving[index] for index in indices]
            changes = torch.autograd.grad(slopes, self._inputs, rates, retain_graph=True, allow_unused=True)
        result = self._by_name(changes[len(tangents) :])
        for network, (tangent, bent), change in zip(self._networks, tangents, changes, strict=False):
            _add(result, network.product(tangent, change))
            _add(result, bent)
        return result

    def _by_name(self, found: Sequence[Tensor | None]) -> Params:
        return {
            name: torch.zeros_like(leaf) if value is None else value
            for (name, leaf), value in zip(self.leaves.items(), found, strict=True)
        }


class _Network:
    """A network within the loss, as a function of the leaves.

    slope: ∂ℓ/∂z; None if it is 0.
    """

    def __init__(self, cut: CutNetwork, leaves: Params, slope: Tensor | None) -> None:
        self.layers, self.names = cut.layers, list(leaves)
        self.bend: Bend | None = None
        own: list[Tensor] | None = None
        if slope is not None:
            deltas = self.layers.cotangents(slope.detach())
            self.bend = Bend(deltas, curved=cut.nonlinearity == "tanh").for_many(self.layers)
            own = self.layers.gradient(deltas)
        indices = {id(leaf): index for index, leaf in enumerate(leaves.values())}
        self._own = [indices[id(value)] for value in cut.parameters if id(value) in indices]
        self._map: Derivative | None = None
        if len(self._own) < len(cut.parameters):
            self._map = Derivative(cut.parameters, list(leaves.values()), own)
        self.gradient = {} if own is None else self._pulled(own)

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
        return self._pulled(self.layers.gradient(cotangents, self.bend, tangent))

    def _pulled(self, parameters: Sequence[Tensor]) -> Params:
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


def _add(total: Params, part: Params) -> None:
    for name, value in part.items():
        total[name] = total[name] + value
