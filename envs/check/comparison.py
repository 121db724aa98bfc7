"""Whether two values of a user's code are the same, to the last bit, whatever they are made of."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np


def copied(value: Any) -> Any:
    """A deep copy; the value itself where it cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:  # a user's object may refuse in any way
        return value


def same(one: Any, other: Any) -> bool:
    """Whether two values are of one type and hold the same; NaN is the same as NaN.

    Objects are compared by their attributes. Those that have none, and no equality, are compared as they are pickled.
    """
    try:
        return _same(one, other)
    except Exception:  # a user's __eq__ may fail in any way; values that refer to themselves never end
        return False


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return _same_arrays(one, other)
    if isinstance(one, float | np.floating):
        return bool(one == other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Sequence) and not isinstance(one, str | bytes):
        return len(one) == len(other) and all(map(_same, one, other))
    if hasattr(one, "__array__"):  # a tensor
        return _same_arrays(np.asarray(one), np.asarray(other))
    if isinstance(one, FunctionType):
        return _same(_parts(one), _parts(other))
    if getattr(one, "__dict__", None) and not isinstance(one, type):
        return _same(vars(one), vars(other))
    return _equal(one, other)


def _parts(function: FunctionType) -> tuple[Any, ...]:
    """What a function does, and the values that it was made with."""
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    return function.__code__, function.__defaults__, function.__kwdefaults__, held


def _same_arrays(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.hasobject:
        return all(map(_same, one.ravel(), other.ravel()))
    return one.tobytes() == other.tobytes() or bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _equal(one: Any, other: Any) -> bool:
    """By the type's own equality where it has one that answers, else by their pickles."""
    try:
        if one == other:
            return True
        if type(one).__eq__ is not object.__eq__:
            return False
    except ValueError:  # a dataclass that holds arrays
        pass
    return pickle.dumps(one) == pickle.dumps(other)
