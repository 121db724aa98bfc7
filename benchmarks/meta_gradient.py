"""Meta-gradient and meta-loss against their multiply-adds: `python benchmarks/meta_gradient.py`

The multiply-adds, counted below, take a certain time as torch's large float32 matrix products on the same core.
Published sizes: one rank's share of two, and two tasks, as a rank of twenty has them. `MMAML_KERNEL=off` measures torch
alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process
from mmaml.updates.evaluate import Question

prepare_process()  # before NumPy and torch load
import numpy as np
import torch

from benchmarks.helpers.arguments import take_none
from mmaml.config.keys import Config
from mmaml.config.loading import load_config
from mmaml.seeding import generator
from mmaml.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
TASKS, FEW_TASKS, REPEATS, LARGE = 20, 2, 7, 2048


def multiply_adds(config: Config, observation: int, action: int, encoder: bool, differentiated: bool) -> float:
    """Multiply-adds for one task. differentiated: of the meta-gradient, else of the meta-loss.

    A network of w weights costs w a sample forward. An inner step: forward 1, its gradient 2, and back through it 6
    (two products forward, four back), to which the gradient of the KL adds none. The last collection: forward 1,
    gradient 2. No product leads to the observations, so that the first layer has half of the backward products. The
    GRU: forward 1, gradient 2.
    """
    samples = config.rollouts_per_meta_task * config.max_path_length
    sizes = (observation, *config.hidden_sizes, action)
    first, *later = [a * b for a, b in zip(sizes, sizes[1:], strict=False)]
    inner = 9 * sum(later) + 4 * first if differentiated else 3 * sum(later) + 2 * first
    last = 3 * sum(later) + 2 * first if differentiated else sum(later) + first
    total = config.num_inner_grad_steps * inner + last
    if encoder:
        cell, inputs = config.cell_size, observation + action + 1
        total += 3 * cell * (3 * cell) + 2 * inputs * 3 * cell if differentiated else 3 * cell * (cell + inputs)
    return float(samples * total)


def best(function, repeats: int = REPEATS) -> float:  # type: ignore[no-untyped-def]
    """Least CPU seconds of several calls."""
    seconds = []
    for _ in range(repeats):
        clock = time.process_time()
        function()
        seconds.append(time.process_time() - clock)
    return float(np.min(seconds))


def main() -> None:
    take_none(__doc__)
    torch.set_num_threads(1)
    large = torch.randn(LARGE, LARGE)
    for name in ("mmaml", "promp"):
        config = load_config(ROOT / "configs/point_env_momentum_dense.json", {}, name)
        worker = Worker(config)
        flat = worker.algorithm.spec.flatten(worker.algorithm.init(generator(config.seed, "parameters")))
        worker.collect(flat, None, list(enumerate(worker.sample_tasks(TASKS, 0))), iteration=0)
        block = worker.block
        assert block is not None
        options = {"clip": True, "clip_eps": 0.1, "kl_coefficients": [5e-4] * config.num_inner_grad_steps}
        for function, tasks in (("meta_gradient", TASKS), ("meta_loss", TASKS), ("meta_gradient", FEW_TASKS)):
            question = Question(function, flat, None, range(tasks), options={"outer_kl_coefficient": 0.0} | options)
            block.answer(question)
            ours = best(lambda block=block, question=question: block.answer(question))
            rate = LARGE**3 / best(lambda: large @ large)
            count = tasks * multiply_adds(config, 4, 2, name == "mmaml", function == "meta_gradient")
            print(
                f"{name}: {function} of {tasks} tasks {ours:.4f} CPU s; its {2 * count / 1e9:.2f} GFLOP as large "
                f"products {count / rate:.4f} s ({2 * rate / 1e9:.0f} GFLOP/s); ratio {ours * rate / count:.2f}"
                " (to reach: 2)"
            )


if __name__ == "__main__":
    main()
