"""MAML's trust region: `python benchmarks/trust_region.py`

2D navigation, 20 tasks × 20 rollouts × 100 steps, 64 × 64 tanh, one inner step, 10 conjugate-gradient iterations.
Prints what one product with the Fisher matrix takes on one core, relative to its multiply-adds as large matrix
products and to the same product with every derivative left to autograd; what an update takes; and whole iterations on
two ranks. CPU seconds, since the machine may have other work; wall time beside them for iterations.
"""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import numpy as np
import torch

from benchmarks.helpers.arguments import take_none
from mmaml.config.loading import load_config
from mmaml.seeding import generator
from mmaml.updates import curvature
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker

MPIRUN = Path(sys.executable).with_name("mpirun")
CONFIG = ROOT / "configs" / "navigation_2d_maml.json"
OVERRIDES = {"hidden_sizes": [64, 64], "hidden_nonlinearity": "tanh"}
REPEATS, LARGE = 7, 2048
FEW, MANY = 2, 12  # iterations of two runs, whose difference is measured


def multiply_adds(tasks: int, steps: int, sizes: tuple[int, ...]) -> float:
    """Multiply-adds of one product.

    A pass forwards through a network of few inputs takes two products a layer, y' W and y V, and a pass back two, c Wᵀ
    and yᵀ c; the first layer has one of either. The inner step is passed through both ways, each time in both
    directions, and the divergence once in both.
    """
    first, *others = (a * b for a, b in zip(sizes, sizes[1:], strict=False))
    return 3.0 * tasks * steps * (2 * first + 4 * sum(others))


def least(function: Callable[[], object]) -> float:
    """CPU seconds of one call, the least of several."""
    function()
    seconds = []
    for _ in range(REPEATS):
        clock = time.process_time()
        function()
        seconds.append(time.process_time() - clock)
    return min(seconds)


def products() -> None:
    config = load_config(CONFIG, OVERRIDES, "maml")
    worker = Worker(config)
    algorithm, tasks = worker.algorithm, config.meta_batch_size
    flat = algorithm.spec.flatten(algorithm.init(generator(config.seed, "parameters")))
    worker.collect(flat, None, list(enumerate(worker.sample_tasks(tasks, 0))), iteration=0)
    block = worker.block
    assert block is not None
    vector = torch.randn(len(flat), generator=torch.Generator().manual_seed(0))
    question, gradient = Question("fisher_product", flat, vector), Question("meta_gradient", flat)
    ours = least(lambda: block.answer(question))
    preparing = least(lambda: algorithm.prepared("fisher_product", flat, block.rollouts))
    large = torch.randn(LARGE, LARGE)
    rate = LARGE**3 / least(lambda: large @ large)
    steps = config.rollouts_per_meta_task * config.max_path_length
    count = multiply_adds(tasks, steps, (worker.spec.observation_size, *config.hidden_sizes, worker.action_size))
    with patch.object(curvature, "depend_on_each_other", lambda networks: True):
        block.answer(gradient)  # so that nothing is held
        autograd = least(lambda: block.answer(question))
    print(f"one Fisher product of {tasks} tasks: {ours:.3f} CPU s on one core")
    print(f"  its {2 * count / 1e9:.1f} GFLOP as large products {count / rate:.3f} s; ratio {ours * rate / count:.2f}")
    print(f"  with every derivative left to autograd {autograd:.3f} s; ratio {ours / autograd:.2f}")
    print(f"  what all products of an update share: {preparing:.3f} s")
    print(f"a meta-gradient {least(lambda: block.answer(gradient)):.3f} s, ", end="")
    print(f"a meta-loss {least(lambda: block.answer(Question('meta_loss', flat))):.3f} s")
    print(f"an update: {least(lambda: algorithm.update(flat, block.evaluate(), 0)):.3f} CPU s")


def run(iterations: int, folder: Path) -> tuple[float, list[float]]:
    """CPU seconds of all processes of a run, and the time at which each iteration was logged."""
    dump_path = folder / str(iterations)
    command = [MPIRUN, "-n", 2, sys.executable, "-m", "mmaml", "train", CONFIG, "--dump_path", dump_path]
    command += ["--overrides", json.dumps(OVERRIDES | {"n_itr": iterations})]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=ROOT)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(dump_path / "progress.csv", newline="") as file:
        return used.ru_utime + used.ru_stime, [float(row["Time"]) for row in csv.DictReader(file)]


def iterations() -> None:
    with tempfile.TemporaryDirectory() as name:
        short, _ = run(FEW, Path(name))
        both, times = run(MANY, Path(name))
    cpu = (both - 2 * short) / (MANY - FEW)
    wall = np.diff(times)[1:]
    print(f"an iteration, 2 ranks: {cpu:.2f} CPU s; {np.median(wall):.2f} s, at best {min(wall):.2f} (to reach: 0.75)")


def main() -> None:
    take_none(__doc__)
    torch.set_num_threads(1)
    products()
    iterations()


if __name__ == "__main__":
    main()
