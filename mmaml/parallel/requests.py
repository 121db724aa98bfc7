"""What the master asks of the ranks and what they answer, as values; which rank gets which items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

Arrays = dict[str, np.ndarray]


def partition(items: int, ranks: int) -> list[range]:
    """Consecutive blocks, whose sizes differ by one at most; the first are the larger."""
    size, larger = divmod(items, ranks)
    starts = [rank * size + min(rank, larger) for rank in range(ranks + 1)]
    return [range(a, b) for a, b in zip(starts, starts[1:], strict=False)]


class Released(NamedTuple):
    """What the master says last. others_lost: whether there are ranks that MPI would wait for at its end."""

    others_lost: bool


class Request(NamedTuple):
    """What a worker is asked: a method, flat parameters and vector, and further arguments."""

    method: str
    parameters: Tensor | None = None
    vector: Tensor | None = None
    options: Mapping[str, Any] = {}

    @property
    def phase(self) -> str:
        """What a rank does that answers it."""
        return str(self.options.get("function", self.method))


class Asked(NamedTuple):
    """A request to one rank, as it travels; flats: whether parameters and vector travel beside it."""

    method: str
    flats: tuple[bool, bool]
    options: Mapping[str, Any]
    items: Sequence[Any]


class Answer(NamedTuple):
    """A rank's answer: arrays with one entry per item, or the error in their place; and the time it took.

    seconds: by the clock. cpu_seconds: of all threads of the rank's process.
    """

    result: Arrays
    fault: Exception | None
    seconds: float
    cpu_seconds: float


class Part(NamedTuple):
    """Results of some items, by the indices of these among all."""

    indices: list[int]
    result: Arrays


@dataclass
class Dealt:
    """The items dealt last, to whom (rank -> indices of its items, in its own order), and what was asked of them."""

    request: Request
    items: Sequence[Any] = ()
    held: dict[int, list[int]] = field(default_factory=dict)

    @property
    def indices(self) -> list[int]:
        """Indices of the items that ranks hold, in order: all except those whose environments failed."""
        return sorted(index for indices in self.held.values() for index in indices)


def extending(request: Request, extend: bool) -> Request:
    """The request; with extend, its items come after those that the rank holds already."""
    return request._replace(options={**request.options, "extend": True}) if extend else request


def travelling(request: Request, items: Sequence[Any]) -> tuple[Asked, list[np.ndarray]]:
    """A request as it travels: the message, and the arrays beside it."""
    parameters, vector = request.parameters, request.vector
    asked = Asked(request.method, (parameters is not None, vector is not None), request.options, items)
    return asked, [flat.numpy() for flat in (parameters, vector) if flat is not None]


def in_order(parts: Sequence[Part]) -> Arrays:
    """The results of all parts, by the indices of the items. An item of two parts: of a rank lost after it answered."""
    if not parts:
        return {}
    joined = parts[0].result
    if len(parts) > 1:
        joined = {name: np.concatenate([part.result[name] for part in parts]) for name in joined}
    lies_at = {index: at for at, index in enumerate(index for part in parts for index in part.indices)}
    order = [lies_at[index] for index in sorted(lies_at)]
    return joined if order == list(range(len(order))) else {name: value[order] for name, value in joined.items()}
