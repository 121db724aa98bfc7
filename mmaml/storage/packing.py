"""Nested values with named tuples among them, as the plain values that a checkpoint holds, and back."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor


def packed(value: Any) -> Any:
    """Tensors, numbers, texts, None, and dictionaries, lists and named tuples of them, as plain values.

    Raises TypeError for anything else.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {"dict": [[name, packed(item)] for name, item in value.items()]}
    if isinstance(value, list):
        return {"list": [packed(item) for item in value]}
    kind = type(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"named": f"{kind.__module__}:{kind.__qualname__}", "values": [packed(item) for item in value]}
    if kind is tuple:
        return {"tuple": [packed(item) for item in value]}
    raise TypeError(f"expected tensors, numbers and the like, in dictionaries, lists and named tuples, got {kind}")


def unpacked(value: Any) -> Any:
    """What `packed` was given. Raises ValueError, LookupError or TypeError for anything else.

    The modules of named tuples have to be loaded already: no code is run for a file.
    """
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {name: unpacked(item) for name, item in value["dict"]}
    if "list" in value:
        return [unpacked(item) for item in value["list"]]
    if "tuple" in value:
        return tuple(unpacked(item) for item in value["tuple"])
    module, _, name = value["named"].partition(":")
    kind = getattr(sys.modules.get(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise ValueError(f"expected a named tuple of a loaded module, got {value['named']!r}")
    return kind(*(unpacked(item) for item in value["values"]))
