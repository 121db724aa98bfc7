"""What an epoch asks of the master's device: `python benchmarks/device_operations.py [algorithm …]`

A GPU is bound by how many operations it is given one after the other, and by how often the CPU waits for it. They are
counted on a device that stands in for one (`tests/helpers/device.py`), for a meta-gradient of 40 tasks of 100 steps; a
Fisher product where the algorithm has one. Sizes of networks and the number of rollouts change neither.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import torch

from benchmarks.helpers.arguments import chosen
from mmaml.algorithms import algorithm_class
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.loading import load_config
from mmaml.task_block import TaskBlock
from mmaml.updates.evaluate import Question
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
FUNCTIONS = ("meta_gradient", "gradients", "fisher_product")
TARGET = 1500  # operations of an epoch of MMAML


def asked(name: str, function: str, steps: int) -> dict[str, Count]:
    """What evaluations of a function of an algorithm ask of the device, by a label.

    A Fisher product is asked for twice: the first prepares what all have in common.
    """
    config = load_config(None, SIZES | REQUIRED.get(name, {}) | {"max_path_length": steps}, name)
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    block = TaskBlock(worker.algorithm, worker.block.rollouts, DEVICE)
    credits = torch.ones(TASKS) if name == "e_maml" else None
    question = Question(function, parameters, credits, options=OBJECTIVE if function == "meta_gradient" else {})
    if function != "fisher_product":
        return {function: evaluated(block, question)}
    vectors = {"first fisher_product": torch.ones(len(parameters)), "next fisher_product": -torch.ones(len(parameters))}
    return {label: evaluated(block, replace(question, vector=vector)) for label, vector in vectors.items()}


def evaluated(block: TaskBlock, question: Question) -> Count:
    """What one evaluation asks of the device."""
    with counted() as found:
        block.answer(question)
    return found


def main() -> None:
    names = chosen(__doc__, "algorithm", ALGORITHMS)
    torch.set_num_threads(1)
    print(f"{TASKS} tasks, {STEPS} steps{'operations':>25}{'kernels':>10}{'synchronisations':>19}{'a step more':>13}")
    for name in names:
        for function in FUNCTIONS:
            if function in algorithm_class(name).functions:
                whole, half = (asked(name, function, steps) for steps in (STEPS, STEPS // 2))
                for label, found in whole.items():
                    operations = found.operations.total()
                    growth = (operations - half[label].operations.total()) / (STEPS - STEPS // 2)
                    target = f"  (to stay under: {TARGET})" if (name, label) == ("mmaml", "meta_gradient") else ""
                    print(
                        f"{name + ', ' + label:32}{operations:12,}{found.kernels:10,}"
                        f"{found.synchronisations.total():19}{growth:13.1f}{target}"
                    )


if __name__ == "__main__":
    main()
