"""A policy as a network of its own, for a machine without this package: TorchScript and ONNX.

    o -> (o - mean) / std, clipped, where the run normalised observations
    [o, ε = 0] -> MLP -> u,   a = low + (u + exp(log_std) noise + s) (high - low) / (2 s), clipped to [low, high]
    discrete:   a = start + argmax(u + noise)
    a Box of whole numbers:   a as of a Box, rounded

With noise 0 that is the mean of the policy's distribution, or its most probable action. Standard normal noise, or for
discrete actions standard Gumbel noise, samples from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from mmaml.envs.spaces import is_whole
from mmaml.extras import not_installed
from mmaml.policies.params import Params
from mmaml.policies.policy import MIN_LOG_STD
from mmaml.sampling.normalisation import MAX_NORMALISED, Scaling
from mmaml.sampling.policy_spaces import PolicySpaces

OPSET = 17  # of ONNX: understood by every runtime since 2022


class Network(NamedTuple):
    """A policy of one task as plain arrays, float32.

    scaling: of the observations; None where they are read as they are. weights [I, H], biases [H]: of each layer.
    nonlinearity: "tanh" or "relu", of the hidden ones. std [A]: of the action; None where actions are discrete, the
    first of which is `start`. factor, offset, low, high [A]: from the policy's units to the environment's, and the
    bounds there. whole: whether actions are rounded to whole numbers.
    """

    scaling: Scaling | None
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    nonlinearity: str
    std: Tensor | None
    start: int
    factor: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    whole: bool


def network_of(params: Params, spaces: PolicySpaces, nonlinearity: str, scaling: Scaling | None) -> Network:
    """The network of a policy's parameters, of M = 1 task, in the units of its environment.

    scaling: of the observations that the parameters are for.
    Inputs behind the observation, numbers that an episode draws, are left at 0, their mean.
    """
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    while f"policy.{len(weights)}.weight" in params:
        biases.append(params[f"policy.{len(weights)}.bias"][0, 0].detach().clone())
        weights.append(params[f"policy.{len(weights)}.weight"][0].detach().clone())
    weights[0] = weights[0][: spaces.observation_size]
    size = len(biases[-1])
    if isinstance(spaces.actions, Discrete):
        ones, free = torch.ones(size), torch.full((size,), torch.inf)
        plain = (None, int(spaces.actions.start), ones, 0 * ones, -free, free, False)
        return Network(scaling, weights, biases, nonlinearity, *plain)
    std = params["policy.log_std"].detach()[0, 0].clamp(min=MIN_LOG_STD).exp()
    low, high = (torch.from_numpy(np.asarray(bound, np.float32)) for bound in (spaces.actions.low, spaces.actions.high))
    factor, offset = torch.ones(size), torch.zeros(size)
    if spaces.scale is not None:
        factor = (high - low) / (2 * spaces.scale)
        offset = low + spaces.scale * factor
    bounds = (factor, offset, low, high)
    return Network(scaling, weights, biases, nonlinearity, std, 0, *bounds, is_whole(spaces.actions))


class Normalisation(nn.Module):
    """Observations [n, O] of any floating dtype, normalised, as float32."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.mean, self.std, self.limit = nn.Buffer(scaling.mean), nn.Buffer(scaling.std), MAX_NORMALISED

    def forward(self, observation: Tensor) -> Tensor:
        """In float64 up to the result (`mmaml.sampling.normalisation.Scaling.normalised`)."""
        return ((observation.double() - self.mean) / self.std).clamp(-self.limit, self.limit).float()


class BoxPolicy(nn.Module):
    """Continuous actions: see the module's docstring."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        assert network.std is not None
        self.network = _layers(network)
        self.std, self.factor, self.offset = (
            nn.Buffer(network.std),
            nn.Buffer(network.factor),
            nn.Buffer(network.offset),
        )
        self.low, self.high = nn.Buffer(network.low), nn.Buffer(network.high)
        self.whole = network.whole

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Observations [n, O] and noise [n, A], none for the mean, to actions [n, A]."""
        action = self.network(observation)
        if noise is not None:
            action = action + self.std * noise
        action = torch.minimum(torch.maximum(action * self.factor + self.offset, self.low), self.high)
        return torch.round(action) if self.whole else action


class DiscretePolicy(nn.Module):
    """Discrete actions: see the module's docstring."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = _layers(network)
        self.start = network.start

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Observations [n, O] and noise [n, A], none for the most probable action, to integers [n]."""
        logits = self.network(observation)
        if noise is not None:
            logits = logits + noise
        return logits.argmax(-1) + self.start


def module_of(network: Network) -> nn.Module:
    """The network as a torch module, whose parameters can be trained further."""
    return DiscretePolicy(network) if network.std is None else BoxPolicy(network)


def _layers(network: Network) -> nn.Sequential:
    layers: list[nn.Module] = [] if network.scaling is None else [Normalisation(network.scaling)]
    for weight, bias in zip(network.weights, network.biases, strict=True):
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias)
        layers += [layer, nn.Tanh() if network.nonlinearity == "tanh" else nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def onnx_file(network: Network, noise: bool) -> bytes:
    """An ONNX file's content: observation [n, O] and, with `noise`, noise [n, A] to action [n, A], or integers [n].

    Raises UsageError if the package onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise not_installed(error) or error from error

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def apply(operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    x = "observation"
    if network.scaling is not None:
        x = apply("Cast", x, to=TensorProto.DOUBLE)
        x = apply("Sub", x, constant("mean", network.scaling.mean.numpy()))
        x = apply("Div", x, constant("deviation", network.scaling.std.numpy()))
        x = apply("Cast", x, to=TensorProto.FLOAT)
        x = apply("Clip", x, *(constant(f"clip_{sign}", np.float32(sign * MAX_NORMALISED)) for sign in (-1, 1)))
    depth = len(network.weights)
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        x = apply("Gemm", x, constant(f"weight_{layer}", weight.numpy()), constant(f"bias_{layer}", bias.numpy()))
        if layer < depth - 1:
            x = apply("Tanh" if network.nonlinearity == "tanh" else "Relu", x)
    if network.std is None:
        x = apply("Add", x, "noise") if noise else x
        x = apply("ArgMax", x, axis=-1, keepdims=0)
        x = apply("Add", x, constant("start", np.int64(network.start)))
    else:
        x = apply("Add", x, apply("Mul", "noise", constant("std", network.std.numpy()))) if noise else x
        x = apply("Mul", x, constant("factor", network.factor.numpy()))
        x = apply("Add", x, constant("offset", network.offset.numpy()))
        x = apply("Max", x, constant("low", network.low.numpy()))
        x = apply("Min", x, constant("high", network.high.numpy()))
        x = apply("Round", x) if network.whole else x
    nodes.append(helper.make_node("Identity", [x], ["action"]))

    sizes = {"observation": len(network.weights[0])} | ({"noise": len(network.biases[-1])} if noise else {})
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in sizes.items()]
    shape: list[str | int] = ["n"] if network.std is None else ["n", len(network.std)]
    kind = TensorProto.INT64 if network.std is None else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info("action", kind, shape)]
    graph = helper.make_graph(nodes, "policy", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
