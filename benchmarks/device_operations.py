"""What an epoch asks of the master's device: `python benchmarks/device_operations.py [algorithm …]`

A GPU is bound by how many operations it is given one after the other, and by how often the CPU waits for it. They are
counted on a device that stands in for one (`tests/helpers/device.py`), for a meta-gradient of 40 tasks of 100 steps; a
Fisher product where the algorithm has one. Sizes of networks and the number of rollouts change neither.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import torch

from mmaml.algorithms import algorithm_class
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.loading import load_config
from mmaml.updates.evaluate import Question
from mmaml.worker import TaskBlock
from tests.helpers.device import DEVICE, Count, counted
from tests.helpers.support import REQUIRED, sampled

TASKS, STEPS = 40, 100
SIZES: dict[str, Any] = {
    "env": "MetaPointEnvMomentumModes",
    "meta_batch_size": TASKS,
    "rollouts_per_meta_task": 2,
    "hidden_sizes": [64, 64],
    "num_inner_grad_steps": 2,
    "parallel": False,
}
OBJECTIVE = {"clip": True, "clip_eps": 0.1, "kl_coefficients": [5e-4, 5e-4]}
TARGET = 1500  # operations of an epoch of MMAML


def count(name: str, function: str, steps: int) -> Count:
    """What one evaluation of a function of an algorithm asks of the device."""
    config = load_config(None, SIZES | REQUIRED.get(name, {}) | {"max_path_length": steps}, name)
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    block = TaskBlock(worker.algorithm, worker.block.rollouts, DEVICE)
    vectors = {"fisher_product": torch.ones(len(parameters))}
    vector = vectors.get(function, torch.ones(TASKS) if name == "e_maml" else None)
    options = OBJECTIVE if function == "meta_gradient" else {}
    with counted() as found:
        block.answer(Question(function, parameters, vector, options=options))
    return found


def main() -> None:
    torch.set_num_threads(1)
    print(f"{TASKS} tasks, {STEPS} steps{'operations':>25}{'kernels':>10}{'synchronisations':>19}{'a step more':>13}")
    for name in sys.argv[1:] or ALGORITHMS:
        for function in ("meta_gradient", "gradients", "fisher_product"):
            if function not in algorithm_class(name).functions:
                continue
            found, half = (count(name, function, steps) for steps in (STEPS, STEPS // 2))
            operations = found.operations.total()
            growth = (operations - half.operations.total()) / (STEPS - STEPS // 2)
            target = f"  (to stay under: {TARGET})" if (name, function) == ("mmaml", "meta_gradient") else ""
            print(
                f"{name + ', ' + function:32}{operations:12,}{found.kernels:10,}{found.synchronisations.total():19}"
                f"{growth:13.1f}{target}"
            )


if __name__ == "__main__":
    main()
