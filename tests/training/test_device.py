"""The master's device is not the CPU: the same numbers, by the stand-in for a GPU, and by a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.parallel.ranks import connect
from mmaml.policies import kernel
from mmaml.task_block import TaskBlock
from mmaml.trainer import one_iteration
from mmaml.training_run import Run
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker
from tests.helpers.support import VARIANTS, sampled, small_config

stand_in = pytest.importorskip("tests.helpers.device")  # of the oldest versions of torch
DEVICE, counted = stand_in.DEVICE, stand_in.counted
RAGGED = {"env": "tests.helpers.probes:RandomLengths"}
DEVICES = [
    DEVICE,
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def assert_close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Within the rounding of sums that are taken in another order."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    difference, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
    assert np.isfinite(size) and difference <= 1e-5 * size + 1e-8, f"{what}: {difference} of {size}"


@pytest.fixture(autouse=True)
def _without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides by torch: `tests/policies/test_kernel.py` compares it with the kernel."""
    monkeypatch.setattr(kernel, "_library", None)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_function_is_that_of_the_cpu(variant: str, device: str) -> None:
    """Away from where the tasks were sampled, and with episodes of many lengths."""
    config = small_config(
        **RAGGED | VARIANTS[variant] | {"meta_batch_size": 6, "hidden_sizes": [64, 64], "num_inner_grad_steps": 2}
    )
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    on_device = TaskBlock(worker.algorithm, worker.block.rollouts, device)
    random = torch.Generator().manual_seed(0)
    moved = parameters + 0.01 * torch.randn(parameters.shape, generator=random)
    vectors = {"fisher_product": torch.randn(len(parameters), generator=random)}
    credits = torch.randn(6, generator=random)
    objective = {"clip": True, "clip_eps": 0.1, "kl_coefficients": [5e-4, 5e-4], "outer_kl_coefficient": 1e-3}
    for function in worker.algorithm.functions:
        options: dict[str, Any] = objective if function in ("meta_gradient", "meta_loss") else {}
        question = Question(function, moved, vectors.get(function, credits), options=options)
        expected, found = (block.answer(question) for block in (worker.block, on_device))
        assert found.keys() == expected.keys() and any(value.any() for value in expected.values())
        for name, value in expected.items():
            assert_close(found[name], value, f"{name} of {function}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_iteration_ends_as_on_the_cpu(variant: str, device: str, tmp_path: Path) -> None:
    """With the meta-gradient on the master, and few conjugate gradients, which enlarge rounding beyond comparison."""

    def trained(on: str) -> tuple[np.ndarray, Mapping[str, float]]:
        """The change of the parameters, and the row of the log."""
        config = small_config(
            **RAGGED
            | {"cg_iters": 2}
            | VARIANTS[variant]
            | {"meta_gradient": "master", "dump_path": str(tmp_path / on)}
        )
        worker = Worker(config)
        with connect(parallel=False) as ranks:
            ranks.serve(worker)
            run = Run(config, ranks, worker, None, on)
            before = run.parameters.clone()
            row = one_iteration(run, 0)
            run.close()
        worker.close()
        return (run.parameters - before).numpy(), row

    (expected, row), (found, found_row) = trained("cpu"), trained(device)
    # Adam makes steps of rounding, where a gradient is nothing else.
    assert np.linalg.norm(found - expected) < 1e-2 * np.linalg.norm(expected)
    for name in row.keys() & {"LossBefore", "LossAfter", "KLInner", "KLOuter", "LineSearchStep"}:
        assert found_row[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name


def test_an_epoch_of_mmaml_asks_for_few_operations_however_long_its_episodes() -> None:
    """Those of two inner steps; a GPU is bound by their number."""
    counts = []
    for steps in (10, 20):
        sizes = {"max_path_length": steps, "num_inner_grad_steps": 2, "hidden_sizes": [64, 64]}
        worker, parameters, _ = sampled(small_config(**VARIANTS["mmaml"] | sizes))
        assert worker.block is not None
        block = TaskBlock(worker.algorithm, worker.block.rollouts, DEVICE)
        options = {"clip": True, "clip_eps": 0.1, "kl_coefficients": [5e-4, 5e-4]}
        with counted() as count:
            block.answer(Question("meta_gradient", parameters, options=options))
        counts.append(count.operations.total())
    assert counts[0] == counts[1] <= 1500


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"mgrl"}))  # which finds its returns on the CPU
@pytest.mark.parametrize("tasks", [None, [0, 2, 3]])
def test_an_epoch_waits_for_the_device_only_at_its_ends(tasks: list[int] | None, variant: str) -> None:
    """To take parameters there, a vector, and the indices of a minibatch, and to take all results from there."""
    worker, parameters, _ = sampled(small_config(**RAGGED | VARIANTS[variant]))
    assert worker.block is not None
    block = TaskBlock(worker.algorithm, worker.block.rollouts, DEVICE)
    question = Question("", parameters, torch.zeros(4), tasks)
    for function in ("meta_gradient", "meta_loss"):
        with counted() as count:
            block.answer(replace(question, function=function))
        indices = len(block.rollouts) if tasks else 0
        assert count.synchronisations.total() == 3 + indices, count.synchronisations


# The stand-in itself.

ON_DEVICE = torch.ones(2, 3).to(DEVICE)
ON_CPU, NUMBER = torch.ones(2, 3), torch.tensor(2.0)
MIXTURES: dict[str, Callable[[], Any]] = {
    "sum": lambda: ON_DEVICE + ON_CPU,
    "product of matrices": lambda: torch.mm(ON_CPU.T, ON_DEVICE),
    "output": lambda: torch.mul(ON_DEVICE, 2.0, out=torch.empty(2, 3)),
    "number that is written": lambda: NUMBER.clone().add_(ON_DEVICE.sum()),
    "number among the parts of a tensor": lambda: torch.stack([ON_DEVICE.sum(), NUMBER]),
    "index of a tensor of the CPU": lambda: ON_CPU[ON_DEVICE > 0],
    "GRU": lambda: torch.gru(
        ON_DEVICE[:, None], torch.zeros(1, 1, 3), [torch.ones(9, 3)] * 2, False, 1, 0.0, True, False, False
    ),
    "gradient": lambda: torch.autograd.grad(ON_DEVICE.clone().requires_grad_().sum(), ON_CPU.clone().requires_grad_()),
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_stand_in_refuses_to_mix_with_the_cpu(mixture: str) -> None:
    with pytest.raises(RuntimeError, match=r"same device|used in the graph"):
        MIXTURES[mixture]()


def test_the_stand_in_refuses_to_be_read_in_place() -> None:
    with pytest.raises(TypeError, match="can't convert"):
        ON_DEVICE.numpy()


def test_a_function_that_mixes_devices_fails_on_the_stand_in() -> None:
    """Such as one that makes a tensor of what it has read, and forgets where it belongs."""
    worker, parameters, _ = sampled(small_config("promp"))
    assert worker.block is not None

    class Faulty(type(worker.algorithm)):  # type: ignore[misc]
        def inner_loss(self, new: Any, data: Any) -> torch.Tensor:
            return super().inner_loss(new, data) * torch.ones(data.tasks)

    worker.algorithm.__class__ = Faulty
    question = Question("meta_loss", parameters)
    worker.block.answer(question)
    with pytest.raises(RuntimeError, match="at least two devices"):
        TaskBlock(worker.algorithm, worker.block.rollouts, DEVICE).answer(question)


def test_the_stand_in_takes_of_the_cpu_what_cuda_takes() -> None:
    for value in (ON_DEVICE + NUMBER, ON_DEVICE * NUMBER, torch.where(ON_DEVICE > 0, NUMBER, 0.0)):
        assert value.device.type == DEVICE
    assert torch.equal((ON_DEVICE / NUMBER).cpu(), ON_CPU / 2)
    assert torch.equal(ON_DEVICE[torch.tensor([1, 0, 1])].cpu(), torch.ones(3, 3))


@pytest.mark.parametrize(
    "asked, operations, kernels, synchronisations",
    [
        (lambda x: x + 1, 1, 1, 0),
        (lambda x: x.add_(0), 1, 1, 0),
        (lambda x: x.T, 1, 0, 0),
        (lambda x: x.T @ x, 2, 1, 0),
        (lambda x: torch.empty(2, device=x.device), 1, 0, 0),
        (lambda x: torch.zeros(2, device=x.device), 2, 1, 0),
        (lambda x: x.masked_fill(x > 0, 0.0), 2, 2, 0),
        (lambda x: x.cpu(), 1, 1, 1),
        (lambda x: x[0, 0].item(), 3, 1, 1),
        (lambda x: bool(x[0, 0]), 3, 1, 1),
        (lambda x: x.nonzero(), 1, 1, 1),
        (lambda x: x[x > 0], 2, 2, 1),
        (lambda x: x[torch.tensor([0])], 1, 1, 1),
        (lambda x: torch.tensor([1.0], device=x.device), 3, 1, 1),
    ],
)
def test_the_stand_in_counts(asked: Any, operations: int, kernels: int, synchronisations: int) -> None:
    with counted() as count:
        asked(ON_DEVICE)
    found = count.operations.total(), count.kernels, count.synchronisations.total()
    assert found == (operations, kernels, synchronisations), count


def test_gradients_on_the_stand_in_are_those_of_the_cpu() -> None:
    """Of a GRU too, which is one operation and one for its gradient, as with the library of a GPU."""
    random = torch.Generator().manual_seed(0)
    x, h = torch.randn(5, 2, 3, generator=random), torch.zeros(1, 2, 4)
    weights = [torch.randn(12, size, generator=random) for size in (3, 4)]

    def gradients(device: str) -> list[torch.Tensor]:
        leaves = [value.to(device).requires_grad_() for value in (x, *weights)]
        states, _ = torch.gru(leaves[0], h.to(device), leaves[1:], False, 1, 0.0, True, False, False)
        return list(torch.autograd.grad(states.tanh().sum(), leaves))

    with counted() as count:
        found = gradients(DEVICE)
    assert all(map(torch.equal, (value.cpu() for value in found), gradients("cpu")))
    assert count.operations["gru"] == count.operations["gru_backward"] == 1
