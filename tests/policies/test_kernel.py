"""The compiled kernel: the results of the arithmetic it replaces, and bits that depend on nothing but a task."""

from __future__ import annotations

import ctypes
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmaml.errors import UsageError
from mmaml.policies import kernel
from mmaml.policies.gru import gru_final_states, gru_shapes, gru_states, gru_step
from mmaml.policies.mlp import mlp

built = pytest.mark.skipif(not kernel.serves(), reason="the kernel is not compiled here")
# Sizes of inputs, hidden layers and outputs: with and without a rest beyond whole vectors, panels and tiles.
SIZES = [(4, 64, 64, 2), (7, 33, 100, 3), (20, 16, 130, 17), (1, 5, 1)]
ROWS = [1, 2, 23, 400]
M = 3


def _network(sizes: Sequence[int], rows: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    pairs = list(zip(sizes, sizes[1:], strict=False))
    x = torch.randn(M, rows, sizes[0], dtype=torch.float64)
    weights = [torch.randn(M, a, b, dtype=torch.float64) / a**0.5 for a, b in pairs]
    biases = [torch.randn(M, 1, b, dtype=torch.float64) / 3 for _, b in pairs]
    return x.to(dtype), [value.to(dtype) for value in weights], [value.to(dtype) for value in biases]


def _twice(values: Sequence[Tensor], function: Callable[..., Tensor]) -> list[Tensor]:
    """A function of values, its gradient, and the gradient of the gradient's square."""
    leaves = [value.detach().clone().requires_grad_() for value in values]
    output = function(*leaves)
    gradient = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(value.square().sum() for value in gradient), leaves)
    return [value.detach() for value in (output, *gradient, *second)]


def _mlp(
    sizes: Sequence[int], rows: int, nonlinearity: str, dtype: torch.dtype, tasks: slice = slice(M)
) -> list[Tensor]:
    x, weights, biases = _network(sizes, rows, dtype)
    parameters = [value[tasks] for value in (*weights, *biases)]
    depth = len(weights)
    return _twice(parameters, lambda *own: mlp(x[tasks], own[:depth], own[depth:], nonlinearity) / rows)


def _gru(cell: int, lanes: int, dtype: torch.dtype, tasks: slice = slice(M)) -> list[Tensor]:
    torch.manual_seed(0)
    steps, inputs = 9, 5
    shapes = gru_shapes("g", inputs, cell)
    params = {
        name: torch.randn(M, *shape, dtype=torch.float64).mul(0.4).to(dtype)[tasks] for name, shape in shapes.items()
    }
    x = torch.randn(steps, M, lanes, inputs, dtype=torch.float64).to(dtype)[:, tasks]
    start = torch.rand(steps, M, lanes) < 0.3
    start[0] = True
    end = torch.cat([start[1:], torch.zeros(1, M, lanes, dtype=torch.bool)])
    end[-2] = True  # no step after it counts
    start, end = start[:, tasks], end[:, tasks]

    def means(*values: Tensor) -> Tensor:
        states = gru_final_states(dict(zip(params, values, strict=True)), "g", x, start, end)
        return torch.stack([own.mean(0) for own in states.split(end.sum((0, 2)).tolist())])

    def once(x: Tensor, *values: Tensor) -> list[Tensor]:
        leaves = [value.detach().clone().requires_grad_() for value in (x, *values)]
        states = gru_states(dict(zip(params, leaves[1:], strict=True)), "g", leaves[0])
        gradients = torch.autograd.grad(states.square().mean((0, 2, 3)).sum(), leaves)
        # The task first, as all others have it.
        return [states.detach().transpose(0, 1), gradients[0].transpose(0, 1), *gradients[1:]]

    return [*_twice(list(params.values()), means), *once(x, *params.values())]


CASES: list[Callable[..., list[Tensor]]] = [
    lambda dtype, tasks=slice(M), sizes=sizes, rows=rows, f=f: _mlp(sizes, rows, f, dtype, tasks)
    for sizes in SIZES
    for rows in ROWS
    for f in ("tanh", "relu")
] + [
    lambda dtype, tasks=slice(M), cell=cell, lanes=lanes: _gru(cell, lanes, dtype, tasks)
    for cell in (3, 16, 70)
    for lanes in (2, 5, 20)
]


@built
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_double_precision(case: Callable[..., list[Tensor]]) -> None:
    for single, double in zip(case(torch.float32), case(torch.float64), strict=True):
        scale = float(double.abs().max())
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5 * scale + 1e-7)


@built
@pytest.mark.parametrize("case", CASES)
def test_a_task_alone_has_the_bits_it_has_in_a_batch(case: Callable[..., list[Tensor]]) -> None:
    together = case(torch.float32)
    for task in range(M):
        for alone, batch in zip(case(torch.float32, tasks=slice(task, task + 1)), together, strict=True):
            assert torch.equal(alone[0], batch[task])


@built
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "relu", "sigmoid"])
def test_bits_depend_neither_on_the_number_of_rows_nor_on_where_they_lie(nonlinearity: str) -> None:
    x, (weight, *_), (bias, *_) = _network((20, 77), 41, torch.float32)
    whole = kernel.layer([(x, weight)], bias, nonlinearity)
    for rows in range(1, 41):
        assert torch.equal(kernel.layer([(x[:, -rows:], weight)], bias, nonlinearity), whole[:, -rows:])
    shifted = torch.empty(x.numel() + 1)[1:].view_as(x).copy_(x)
    turned = weight.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(kernel.layer([(shifted, turned)], bias, nonlinearity), whole)


def _otherwise_laid_out(x: Tensor) -> list[Tensor]:
    """The same numbers in every other way in which callers have them in memory."""
    last_first = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    every_second = torch.full((*x.shape[:2], 2 * x.shape[2]), torch.nan)[..., ::2].copy_(x)
    within_wider = torch.full((x.shape[0], x.shape[1] + 2, x.shape[2] + 3), torch.nan)[:, 1:-1, 1:-2].copy_(x)
    return [last_first, every_second, within_wider]


@built
@pytest.mark.parametrize("rows", [0, 1, 7, 200])
def test_bits_do_not_depend_on_the_layout_in_memory(rows: int) -> None:
    x, (weight, *_), (bias, *_) = _network((20, 37), rows, torch.float32)
    d = torch.randn(M, rows, 37)
    shared = weight[:1].expand(M, -1, -1)
    whole, of_shared = kernel.layer([(x, weight)], bias), kernel.layer([(x, shared.clone())], bias)
    assert torch.equal(kernel.layer([(x, shared)], bias), of_shared)
    for moved in zip(*map(_otherwise_laid_out, (x, weight, bias, d)), strict=True):
        assert torch.equal(kernel.layer([(moved[0], moved[1])], moved[2]), whole)
        for found, expected in zip(kernel.outer([(moved[0], moved[3])]), kernel.outer([(x, d)]), strict=True):
            assert torch.equal(found, expected)
            assert rows or not found.any()


@built
def test_a_step_of_a_gru_has_the_bits_of_all_steps() -> None:
    params = {name: torch.randn(M, *shape) / 4 for name, shape in gru_shapes("g", 5, 20).items()}
    x, h = torch.randn(6, M, 4, 5), torch.zeros(M, 4, 20)
    for t, states in enumerate(gru_states(params, "g", x)):
        h = gru_step(params, "g", x[t], h)
        assert torch.equal(h, states)


@built
@pytest.mark.parametrize("case", [CASES[0], CASES[11], CASES[-1]])
def test_vectors_of_either_width_give_the_same_bits(
    case: Callable[..., list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    try:
        for bits in (256, 512):
            monkeypatch.setattr(kernel, "_library", kernel._loaded(bits))
            found.append(case(torch.float32))
    finally:
        kernel._loaded()
    for narrow, wide in zip(*found, strict=True):
        assert torch.equal(narrow, wide)


@built
def test_tanh_and_sigmoid() -> None:
    x = torch.linspace(-100, 100, 200_001)[None, :, None]
    one = torch.ones(1, 1, 1)
    for name, exact in (("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        found = kernel.layer([(x, one)], None, name)
        torch.testing.assert_close(found, exact(x.double()).float(), rtol=0, atol=2e-7)
    infinite = torch.tensor([-torch.inf, torch.inf, torch.nan, -1e30, 1e30])[None, :, None]
    for name in ("tanh", "sigmoid", "relu"):
        exact = getattr(torch, name)(infinite)
        torch.testing.assert_close(
            kernel.layer([(infinite, one)], None, name), exact, atol=1e-37, rtol=0, equal_nan=True
        )


@built
def test_it_is_for_single_precision_on_the_cpu() -> None:
    assert kernel.serves(torch.zeros(1))
    assert not kernel.serves(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not kernel.serves(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("why", ["off", "not built", "stale"])
def test_without_it_all_is_computed_by_torch_and_one_line_says_why(
    why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    text = tmp_path / "library"
    text.write_text("of another kernel.c")
    spec = None if why == "not built" else ModuleSpec("kernel", None, origin=str(text))
    monkeypatch.setattr(kernel, "find_spec", lambda _: spec)
    monkeypatch.setenv(kernel.SWITCH, "Off" if why == "off" else "")
    with caplog.at_level(logging.DEBUG):
        monkeypatch.setattr(kernel, "_library", kernel._loaded())
    assert [record.levelno for record in caplog.records] == [logging.WARNING if why == "stale" else logging.DEBUG]
    assert not kernel.serves(torch.zeros(1))
    for case in (CASES[0], CASES[-1]):
        for single, double in zip(case(torch.float32), case(torch.float64), strict=True):
            torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5 * float(double.abs().max()) + 1e-7)


@built
@pytest.mark.parametrize("how", ["another source", "cut short"])
def test_a_library_that_could_end_the_process_is_not_loaded(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    spec = kernel.find_spec("mmaml.policies._kernel")
    assert spec is not None and spec.origin is not None
    whole, source = Path(spec.origin).read_bytes(), Path(kernel.__file__).with_name("kernel.c").read_bytes()
    end = whole.index(source) + len(source)
    library = tmp_path / "library.so"
    library.write_bytes(whole[: end - 1] if how == "cut short" else whole[: end - 1] + b" " + whole[end:])
    monkeypatch.setattr(kernel, "find_spec", lambda _: ModuleSpec("kernel", None, origin=str(library)))
    monkeypatch.setattr(ctypes, "CDLL", lambda path: pytest.fail(f"{path} was loaded"))
    assert kernel._loaded() is None
    (record,) = caplog.records
    assert str(library) in record.getMessage() and record.getMessage().endswith("install the package again")


@built
def test_a_library_that_has_its_source_is_whole(tmp_path: Path) -> None:
    """All that a process loads lies before the end of the source: cut there, the library still computes."""
    spec = kernel.find_spec("mmaml.policies._kernel")
    assert spec is not None and spec.origin is not None
    whole, source = Path(spec.origin).read_bytes(), Path(kernel.__file__).with_name("kernel.c").read_bytes()
    library = tmp_path / "library.so"
    library.write_bytes(whole[: whole.index(source) + len(source)])
    program = f"import ctypes; print(ctypes.CDLL({str(library)!r}).vector_bits(256))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "256\n", (ended.returncode, ended.stderr)


def test_the_switch_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, error in (("on", None), ("0", "MMAML_KERNEL: expected on or off, got '0'; unset it")):
        monkeypatch.setenv(kernel.SWITCH, value)
        with nullcontext() if error is None else pytest.raises(UsageError, match=error):
            kernel._loaded()


@built
@pytest.mark.parametrize(
    ("of", "shape"),
    [("x", (M, 4, 6)), ("weight", (1, 5, 8)), ("bias", (1, 1, 8)), ("bias", (M, 4, 8)), ("y", (M, 1, 8))],
)
def test_other_shapes_are_refused_beyond_which_is_the_memory_of_others(of: str, shape: tuple[int, ...]) -> None:
    values = {"x": torch.zeros(M, 4, 5), "weight": torch.zeros(M, 5, 8), "bias": torch.zeros(M, 1, 8)}
    values |= {"y": torch.zeros(M, 4, 8)} | {of: torch.zeros(shape)}
    with pytest.raises(
        ValueError, match=r"expected torch.float32 of the shape \[.*\] on cpu, got torch.float32 of the shape"
    ):
        kernel.rate([(values["x"], values["weight"])], values["bias"], values["y"], "tanh")


@built
def test_other_numbers_are_refused_whose_memory_would_be_read_as_float32() -> None:
    x, (weight, *_), (bias, *_) = _network((5, 8), 4, torch.float32)
    doubled = [x.double(), weight.double(), bias.double()]
    for index, value in enumerate(doubled):
        found = [x, weight, bias]
        found[index] = value
        with pytest.raises(ValueError, match=r"expected torch.float32 .*, got torch.float64"):
            kernel.layer([(found[0], found[1])], found[2])
    with pytest.raises(ValueError, match=r"d: expected torch.float32 .*, got torch.float64"):
        kernel.outer([(x, torch.zeros(M, 4, 8, dtype=torch.float64))])


@built
def test_other_shapes_of_sums_over_rows_and_of_grus_are_refused() -> None:
    params = {name: torch.zeros(M, *shape) for name, shape in gru_shapes("g", 5, 4).items()}
    x, h = torch.zeros(2, M, 3, 5), torch.zeros(M, 3, 4)
    with pytest.raises(ValueError, match="d: expected"):
        kernel.outer([(torch.zeros(M, 4, 5), torch.zeros(M, 3, 5))])
    with pytest.raises(ValueError, match="start: expected"):
        gru_step(params, "g", x[0], h[:, :1])
    with pytest.raises(ValueError, match="weights: expected"):
        gru_states({name: value[:1] for name, value in params.items()}, "g", x)
    with pytest.raises(ValueError, match="continues: expected"):
        kernel.gru_forward(x, torch.ones(1, M, 3, 1), h, [*params.values()], steps=2)
