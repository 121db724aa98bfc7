"""A device that stands in for a GPU: it computes on the CPU, mixes with CPU tensors as little as CUDA does, and counts.

`.to(DEVICE)` moves a tensor there, and `counted()` says what was asked of the device meanwhile. A tensor of the device
holds one of the CPU. CPU tensors are refused beside it, as by CUDA, but for what CUDA takes too: a single number in an
elementwise operation, and indices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, library
from torch.autograd import Function
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = "standin"
aten = torch.ops.aten
# Besides elementwise operations, what takes a number [] of the CPU; and what takes indices of the CPU.
TAKES_NUMBERS = {aten.fill_, aten.masked_fill, aten.masked_fill_}
INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
ALLOCATES = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


@dataclass
class Count:
    """What was asked of the device. operations: all that was dispatched to it, views too, by name.

    kernels: operations that compute something, or copy. synchronisations: those that wait for the device, by name:
    results that the CPU reads, shapes that depend on them, and copies between the device and pageable memory.
    """

    operations: Counter[str] = field(default_factory=Counter)
    kernels: int = 0
    synchronisations: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, computes: bool = True, waits: bool = False) -> None:
        """One operation."""
        self.operations[name] += 1
        self.kernels += computes
        self.synchronisations[name] += waits


_counts: list[Count] = []


@contextmanager
def counted() -> Iterator[Count]:
    """Count what is asked of the device as long as this lasts."""
    count = Count()
    _counts.append(count)
    try:
        yield count
    finally:
        _counts.remove(count)
        count.synchronisations = +count.synchronisations  # without those that are none


def _add(name: str, computes: bool = True, waits: bool = False) -> None:
    for count in _counts:
        count.add(name, computes, waits)


class DeviceTensor(Tensor):
    """A tensor of the device. held: on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=f"{DEVICE}:0"
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy; use Tensor.cpu()")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        given = _by_name(function, args, kwargs or {})
        written = [name for name, argument in _arguments(function).items() if _is_written(argument)]
        crosses = _crosses(function, given)
        if not crosses:
            _refuse_mixture(function, given, written)
        _add(str(function), _computes(function), crosses or _waits(function, given))

        result = function(*_held(args), **_options(_held(kwargs or {})))
        if written:
            found = tuple(given[name] for name in written)
            assert all(value.shape == value.held.shape for value in found if isinstance(value, DeviceTensor))
            return found[0] if len(found) == 1 else found
        return result if crosses else tree_map_only(Tensor, DeviceTensor, result)


def _held(values: Any) -> Any:
    return tree_map_only(DeviceTensor, lambda value: value.held, values)


def _options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an operation on what is held."""
    return {name: torch.device("cpu") if name == "device" else value for name, value in kwargs.items()}


def _arguments(function: Any) -> dict[str, Any]:
    return {argument.name: argument for argument in function._schema.arguments}


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _by_name(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(_arguments(function), args, strict=False)) | dict(kwargs)


def _crosses(function: Any, given: Mapping[str, Any]) -> bool:
    """Whether an operation copies from one device to the other."""
    if function.overloadpacket is aten.copy_:
        return isinstance(given["self"], DeviceTensor) != isinstance(given["src"], DeviceTensor)
    device = given.get("device")
    return function.overloadpacket is aten._to_copy and device is not None and device.type != DEVICE


def _refuse_mixture(function: Any, given: Mapping[str, Any], written: Sequence[str]) -> None:
    """Raise RuntimeError for CPU tensors that CUDA would refuse beside its own."""
    packet = function.overloadpacket
    takes_numbers = packet in TAKES_NUMBERS | INDEXES or torch.Tag.pointwise in function.tags
    for name, value in given.items():
        if packet in INDEXES and name == "indices":
            continue
        for tensor in tree_flatten(value)[0]:
            if not isinstance(tensor, Tensor) or isinstance(tensor, DeviceTensor):
                continue
            if name in written or tensor.dim() or not takes_numbers:
                raise RuntimeError(
                    f"{function}: expected all tensors to be on the same device, "
                    f"but found at least two devices, {DEVICE}:0 and cpu, the latter of {name}"
                )


def _computes(function: Any) -> bool:
    """Whether an operation does more than to allocate, or to look at a tensor in another way."""
    arguments, returns = function._schema.arguments, function._schema.returns
    if function.overloadpacket in ALLOCATES or function.overloadpacket is aten.detach:
        return False
    is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
    return not is_view or any(map(_is_written, arguments))


def _waits(function: Any, given: Mapping[str, Any]) -> bool:
    """Whether the CPU waits for the result, or for the shape that it has."""
    if function.overloadpacket in INDEXES:
        indices = [index for index in given["indices"] if index is not None]
        one_value = "values" in given and given["values"].numel() == 1  # filled in under the mask
        return any(
            not isinstance(index, DeviceTensor) or (index.dtype in (torch.bool, torch.uint8) and not one_value)
            for index in indices
        )
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*function.tags})


class _LibraryGRU(Function):
    """`torch.gru` of one layer as one operation, and one for its gradient, as cuDNN has it."""

    @staticmethod
    def forward(ctx, x, start, *weights):  # type: ignore[override]
        _add("gru")
        with torch.enable_grad():
            leaves = [value.held.detach().requires_grad_() for value in (x, start, *weights)]
            outputs = torch.gru(leaves[0], leaves[1], leaves[2:], len(weights) == 4, 1, 0.0, True, False, False)
        ctx.leaves, ctx.outputs = leaves, outputs
        return tuple(DeviceTensor(value.detach()) for value in outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):  # type: ignore[override]
        _add("gru_backward")
        found = torch.autograd.grad(ctx.outputs, ctx.leaves, [value.held for value in gradients], retain_graph=True)
        return tuple(map(DeviceTensor, found))


def _gru(x, start, weights, *options):  # type: ignore[no-untyped-def]
    if not all(isinstance(value, DeviceTensor) for value in (x, start, *weights)):
        raise RuntimeError("gru: input and parameter tensors are not at the same device")
    biases, layers, dropout, _, bidirectional, batch_first = options
    assert len(weights) == 2 + 2 * biases and (layers, dropout, bidirectional, batch_first) == (1, 0.0, False, False)
    return _LibraryGRU.apply(x, start, *weights)


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):  # type: ignore[no-untyped-def]
    _add("aten.empty.memory_format", computes=False)
    return DeviceTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):  # type: ignore[no-untyped-def]
    _add("aten.empty_strided.default", computes=False)
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _made(name: str, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A factory of the device, by one of the CPU."""

    def on_device(*arguments: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        _add(name)
        return DeviceTensor(make(*arguments, dtype=dtype))

    return on_device


def _copy_from(source, target, non_blocking=False):  # type: ignore[no-untyped-def]
    """What `torch.tensor(…, device=DEVICE)` and a list as an index come to."""
    _add("aten.copy_.default", waits=True)
    _held(target).copy_(_held(source))
    return target


if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    raise ModuleNotFoundError("the stand-in for a GPU needs a newer torch, in which devices can be written in Python")
# What makes tensors of nothing reaches no tensor's __torch_dispatch__; a GRU would reach it as the operations of each
# step. The library lives as long as the process, as does the device.
backend_registration._setup_privateuseone_for_python_backend(DEVICE)
_library = library.Library("aten", "IMPL")
_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")
for _name in ("arange", "arange.start", "arange.start_step", "eye", "eye.m"):
    _library.impl(_name, _made(f"aten.{_name}", getattr(torch, _name.partition(".")[0])), "PrivateUse1")
_library.impl("gru.input", _gru, "AutogradPrivateUse1")
