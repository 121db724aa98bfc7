"""Layers and GRUs in passes that are compiled (`kernel.c`), where they are: for float32 on the CPU.

Left to torch, a product and each operation on its result are passes over arrays that do not fit into the cache, and
products of 64 × 64 run at two thirds of the rate of large ones. `mmaml.policies.layers` and those of GRUs ask
`serves` and else do without, with the same results but for rounding. So ranks of one run should all have the library or
all lack it: the last bits of a task are those of what computes it. MMAML_KERNEL=off leaves it out.

Bits depend neither on how many tasks or rows there are nor on where they lie in memory, and are the same on all
processors that have AVX2.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmaml.errors import UsageError
from mmaml.launcher.protocol import is_first_rank

SWITCH = "MMAML_KERNEL"
LANES = 16
OUTER_ROWS, OUTER_COLUMNS = 192, 64  # as in kernel.c
FINISHES = "linear tanh relu sigmoid tanh_rate relu_rate tanh_back relu_back tanh_bent".split()  # in the order there

# A product x w: [M, n, k], [M, k, H].
Term = tuple[Tensor, Tensor]


def _loaded(most_bits: int = 512) -> ctypes.CDLL | None:
    """The library, with vectors of at most `most_bits` bits; None if it is not built or cannot run."""
    try:
        return _library_for(most_bits)
    except OSError as error:
        level = logging.WARNING if isinstance(error, StaleLibrary) and is_first_rank() else logging.DEBUG
        logging.getLogger(__name__).log(level, "computing without the compiled kernel: %s", error)
        return None


class StaleLibrary(OSError):
    """There is a library, but not of `kernel.c` as it is now."""


def _library_for(most_bits: int) -> ctypes.CDLL:
    """Raises OSError, which says why there is no library, and UsageError for an invalid value of the switch."""
    asked = os.environ.get(SWITCH, "")
    if asked.lower() not in ("", "on", "off"):
        raise UsageError(SWITCH, expected="on or off", got=repr(asked), remedy="unset it")
    if asked.lower() == "off":
        raise OSError(f"{SWITCH}=off")
    spec = find_spec("mmaml.policies._kernel")
    if spec is None or spec.origin is None:
        raise OSError("it was not compiled when the package was installed")
    source, compiled = Path(__file__).with_name("kernel.c").read_bytes(), Path(spec.origin)
    if source not in compiled.read_bytes():  # loading it could end the process
        raise StaleLibrary(f"{compiled} is cut short or was compiled from another kernel.c; install the package again")
    library = ctypes.CDLL(spec.origin)
    if not library.vector_bits(most_bits):
        raise OSError("this processor lacks AVX2")
    pointer: Any = ctypes.c_void_p
    number: Any = ctypes.c_long
    term = [pointer, number, number, pointer, *[number] * 4]
    library.layer.argtypes = [*[number] * 4, *[pointer] * 2, number, *[pointer] * 5, *term, *term]
    library.outer.argtypes = [*[number] * 4, *[pointer] * 3, pointer, *[number] * 2, pointer, *[number] * 2]
    library.gru_forward.argtypes = [*[number] * 6, *[pointer] * 11]
    library.gru_backward.argtypes = [*[number] * 5, *[pointer] * 2, pointer, number, pointer, number, *[pointer] * 9]
    return library


_library = _loaded()


def serves(*values: Tensor) -> bool:
    """Whether the kernel computes with these: float32 on the CPU."""
    return _library is not None and all(value.dtype is torch.float32 and value.device.type == "cpu" for value in values)


def layer(terms: Sequence[Term], bias: Tensor | None = None, nonlinearity: str = "linear") -> Tensor:
    """f(Σ x w + b): one or two products, [M, 1, H] or nothing -> [M, n, H]. nonlinearity: also "sigmoid"."""
    return _layer(terms, bias, nonlinearity)[0]


def rate(terms: Sequence[Term], bias: Tensor, y: Tensor, nonlinearity: str) -> tuple[Tensor, Tensor]:
    """r = Σ x w + b, the rate of a layer's input, and r f' of its output; y: the output itself, [M, n, H]."""
    out, moved = _layer(terms, bias, f"{nonlinearity}_rate", y=y, moves=True)
    assert moved is not None
    return out, moved


def back(terms: Sequence[Term], y: Tensor, nonlinearity: str) -> Tensor:
    """(Σ x w) f': what cotangents of the layer above are before the layer whose output is y, [M, n, H]."""
    return _layer(terms, None, f"{nonlinearity}_back", y=y)[0]


def bent_back(terms: Sequence[Term], y: Tensor, rate: Tensor, delta: Tensor) -> Tensor:
    """(Σ x w) f' - 2 y r d for tanh; y, r and d: [M, n, H]."""
    return _layer(terms, None, "tanh_bent", y=y, rate=rate, delta=delta)[0]


def outer(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Σ x^T d over pairs and rows, [M, I, H], and the sum of the first d over rows, [M, 1, H].

    pairs: x [M, n, I] and d [M, n, H].
    """
    x, d = pairs[0]
    (tasks, _, inputs), cols = x.shape, d.shape[2]
    sums = x.new_zeros(tasks, 1, cols)
    if cols < LANES <= inputs:  # the wide factor fills vectors
        _add_outer(x[..., :0], d, None, sums)
        transposed = x.new_zeros(tasks, cols, inputs)
        for x, d in pairs:
            _add_outer(d, x, transposed, None)
        return transposed.transpose(1, 2), sums
    out = x.new_zeros(tasks, inputs, cols)
    for index, (x, d) in enumerate(pairs):
        _add_outer(x, d, out, None if index else sums)
    return out, sums


def gru_forward(
    x: Tensor, continues: Tensor | None, start: Tensor, weights: Sequence[Tensor], steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """The first steps of a GRU as `mmaml.policies.gru` has them: gates, h U_c, candidate, states before and after.

    x: [T, M, N, F]. continues: [T, M, N, 1], 0 where an episode starts, else 1; None: none starts within, and no states
    before are returned. start: the state at first, [M, N, C]. weights: in the order of `gru_shapes`. The results are
    [T, M, N, ·], of which those of a task lie together; beyond the steps they are left as they are.
    """
    assert _library is not None
    (length, tasks, lanes, inputs), cell = x.shape, start.shape[-1]
    _check("x", x, length, tasks, lanes, inputs)
    _check("start", start, tasks, lanes, cell)
    _check("continues", continues, length, tasks, lanes, 1)
    for value, (rows, parts) in zip(
        weights, ((inputs, 2), (cell, 2), (1, 2), (inputs, 1), (cell, 1), (1, 1)), strict=True
    ):
        _check("weights", value, tasks, rows, parts * cell)
    x, start, weights = x.contiguous(), start.contiguous(), [_matrices(value) for value in weights]
    continues = None if continues is None else continues.contiguous()
    gates, q, n, after = (steps_of_tasks(x, size) for size in (2 * cell, cell, cell, cell))
    before = None if continues is None else steps_of_tasks(x, cell)
    wide, wide2 = _padded(cell), _padded(2 * cell)
    room = x.new_empty((1 + inputs + cell) * wide2 + (2 + inputs + cell) * wide)
    pointers = (ctypes.c_void_p * len(weights))(*map(_at, weights))
    apart = (ctypes.c_long * len(weights))(*(value.stride(0) for value in weights))
    arrays = map(_at, (gates, q, n, before, after))
    sizes = tasks, steps, length, lanes, inputs, cell
    _library.gru_forward(*sizes, _at(x), _at(continues), _at(room), _at(start), pointers, apart, *arrays)
    return gates, q, n, before, after


def gru_backward(
    continues: Tensor | None,
    ug: Tensor,
    uc: Tensor,
    forward: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    d_after: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives in gates and candidate, before their nonlinearities, and in h U_c: [T, M, N, ·].

    forward: what `gru_forward` returned, of which the states after the steps serve where those before them are None.
    d_after: the gradient in the states, laid out as these; what the later steps add is added to it.
    """
    assert _library is not None
    gates, q, n, before, after = forward
    length, tasks, lanes, cell = q.shape
    ug, uc, continues = _matrices(ug), _matrices(uc), None if continues is None else continues.contiguous()
    d_gates, d_q, d_n = (steps_of_tasks(q, size) for size in (2 * cell, cell, cell))
    room = q.new_empty(3 * cell * _padded(cell) + 2 * lanes * cell)
    matrices = _at(ug), ug.stride(0), _at(uc), uc.stride(0)
    arrays = map(_at, (gates, q, n, before, after, d_after, d_gates, d_q, d_n))
    _library.gru_backward(tasks, steps, length, lanes, cell, _at(continues), _at(room), *matrices, *arrays)
    return d_gates, d_n, d_q


def steps_of_tasks(x: Tensor, size: int) -> Tensor:
    """Room for [T, M, N, size], in which the steps of a task lie together. x: [T, M, N, ·]."""
    steps, tasks, lanes = x.shape[:3]
    return x.new_empty(tasks, steps, lanes, size).transpose(0, 1)


def _layer(
    terms: Sequence[Term],
    bias: Tensor | None,
    finish: str,
    y: Tensor | None = None,
    rate: Tensor | None = None,
    delta: Tensor | None = None,
    moves: bool = False,
) -> tuple[Tensor, Tensor | None]:
    assert _library is not None
    terms = [(_rows(x), weight) for x, weight in terms]
    (tasks, rows, _), cols = terms[0][0].shape, terms[0][1].shape[2]
    for x, weight in terms:
        _check("x", x, tasks, rows, weight.shape[1])
        _check("weight", weight, tasks, weight.shape[1], cols)
    for value in (y, rate, delta):
        _check("values beside a layer", value, tasks, rows, cols)
    _check("bias", bias, tasks, 1, cols)
    bias = None if bias is None else _rows(bias)
    beside = [None if value is None else value.contiguous() for value in (y, rate, delta)]
    out = terms[0][0].new_empty(tasks, rows, cols)
    moved = torch.empty_like(out) if moves else None
    room = out.new_empty((1 + sum(weight.shape[1] for _, weight in terms)) * _padded(cols))
    products: list[int | None] = []
    for x, weight in terms:
        products += [_at(x), x.stride(0), x.stride(1), _at(weight), *weight.stride(), weight.shape[1]]
    if len(terms) == 1:
        products += [None, 0, 0, None, 0, 0, 0, 0]
    apart = 0 if bias is None else bias.stride(0)
    arrays = map(_at, (out, moved, *beside))
    _library.layer(tasks, rows, cols, FINISHES.index(finish), _at(room), _at(bias), apart, *arrays, *products)
    return out, moved


def _add_outer(x: Tensor, d: Tensor, out: Tensor | None, sums: Tensor | None) -> None:
    """Add x^T d to `out` and the sums of d to `sums`, where there are these."""
    assert _library is not None
    x, d = _rows(x), _rows(d)
    (tasks, rows, inputs), cols = x.shape, d.shape[2]
    _check("x", x, tasks, rows, inputs)
    _check("d", d, tasks, rows, cols)
    _check("sum of products", out, tasks, inputs, cols)
    room = d.new_empty(OUTER_ROWS * OUTER_COLUMNS)
    factors = _at(x), x.stride(0), x.stride(1), _at(d), d.stride(0), d.stride(1)
    _library.outer(tasks, rows, inputs, cols, _at(room), _at(out), _at(sums), *factors)


def _check(name: str, value: Tensor | None, *shape: int) -> None:
    """Raises ValueError unless a tensor, if there is one, is as is read: else memory of others would be read."""
    if value is not None and not (value.shape == shape and value.dtype is torch.float32 and value.is_cpu):
        got = f"{value.dtype} of the shape {[*value.shape]} on {value.device}"
        raise ValueError(f"{name}: expected {torch.float32} of the shape {[*shape]} on cpu, got {got}")


def _at(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()


def _rows(x: Tensor) -> Tensor:
    """The same with the numbers of a row side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _matrices(weight: Tensor) -> Tensor:
    """The same with every task's matrix in one piece; tasks may share it."""
    lies_so = weight.stride(2) == 1 and (weight.stride(1) == weight.shape[2] or weight.shape[1] == 1)
    return weight if lies_so else weight.contiguous()


def _padded(cols: int) -> int:
    return -(-cols // LANES) * LANES
