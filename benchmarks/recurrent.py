"""RL² and VariBAD against what they cannot do without, and the published code: `python benchmarks/recurrent.py`

Sampling, against a bare loop that only steps the environment and the GRU with its policy; an epoch's gradient, against
its multiplications and additions as three products of all steps of all tasks at once: forward, backward, weights. Whole
iterations in one process, everything included, against those of github.com/lmzintgraf/varibad (57e1795), which were
measured on one core of a machine of this kind. CPU seconds, since the machine may have other work.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import numpy as np
import torch

from benchmarks.helpers.arguments import take_none
from mmaml.config.keys import Config
from mmaml.config.loading import load_config
from mmaml.envs.registry import make_family
from mmaml.policies.gru import gru_step
from mmaml.sampling.collector import Lanes, rollout
from mmaml.seeding import generator
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
REPEATS = 7
FIRST, MEASURED = 2, 10  # iterations of a run: those that are not measured, and those that are
# Env steps per CPU second of the published code, in all of its processes; and how many times that is to be reached.
PUBLISHED = {"rl2_ppo": (413, 30), "grid_navi_varibad": (465, 20), "rl2_half_cheetah_direction": (606, 10)}


def main() -> None:
    take_none(__doc__)
    torch.set_num_threads(1)
    for name in ("rl2_ppo", "rl2_half_cheetah_direction"):
        config = load_config(CONFIGS / f"{name}.json", {"normalize_observations": False, "normalize_rewards": False})
        print(f"{name}: {config.env}, {config.meta_batch_size} tasks, T = {config.lane_length}")
        worker = Worker(config)
        algorithm = worker.algorithm
        parameters = algorithm.spec.flatten(algorithm.init(generator(config.seed, "parameters")))
        sampling(config, worker, parameters)
        epoch(config, worker, parameters)
    for name, (published, times) in PUBLISHED.items():
        rate = iterations(name)
        print(f"{name}: {rate:,.0f} env steps per CPU second of whole iterations")
        print(f"  the published code: {published}; ratio {rate / published:.0f} (to reach: {times})")


def sampling(config: Config, worker: Worker, parameters: torch.Tensor) -> None:
    """Print how fast trials are sampled, and the bare loop. Half of the tasks, as one of two ranks has them."""
    tasks, lanes = config.meta_batch_size // 2, config.rollouts_per_meta_task
    algorithm, layout = worker.algorithm, Lanes(config.max_path_length, config.episodes_per_trial)
    meta = {n: value.expand(tasks, *value.shape) for n, value in algorithm.spec.unflatten(parameters).items()}
    env = make_family(config.env, tasks, lanes, **config.env_kwargs)
    env.set_tasks(worker.sample_tasks(tasks, 0))
    actor, scale = algorithm.actor(meta), worker.spec.action_scale(config.normalization_scale)
    keys, seeds = [(0, task, 0) for task in range(tasks)], list(range(tasks))
    discrete = worker.spec.has_discrete_actions

    def bare() -> None:
        observation, _ = env.reset(seed=seeds)
        h, size = torch.zeros(tasks, lanes, config.cell_size), worker.spec.observation_size
        rest = torch.zeros(tasks, lanes, worker.action_size + 2)
        for _ in range(layout.length):
            x = torch.cat([torch.from_numpy(observation).view(tasks, lanes, size), rest], -1)
            h = gru_step(meta, "memory.gru", x, h)
            out = torch.bmm(h, meta["policy.weight"]).flatten(0, 1)
            observation, *_ = env.step(out.argmax(1).numpy() if discrete else out.numpy())

    def ours() -> None:
        noise = worker._noise(keys, "train", layout.length)
        rollout(env, actor, layout, noise, seeds, scale)

    seconds = fastest({"bare loop": bare, "sampling": ours})
    for name, value in seconds.items():
        print(f"  {name}: {tasks * lanes * layout.length / value:,.0f} env steps per CPU second")
    print(f"  sampling / bare loop: {seconds['bare loop'] / seconds['sampling']:.2f} (to reach: 0.6)")


def epoch(config: Config, worker: Worker, parameters: torch.Tensor) -> None:
    """Print how long the gradient of all tasks takes, and its products."""
    items = list(enumerate(worker.sample_tasks(config.meta_batch_size, 0)))
    worker.collect(parameters, None, items, 0)
    block = worker.block
    assert block is not None
    cell, inputs = config.cell_size, worker.spec.observation_size + worker.action_size + 2
    rows = config.meta_batch_size * config.rollouts_per_meta_task * config.lane_length
    x, d = torch.randn(rows, inputs + cell), torch.randn(rows, 3 * cell)
    forward, back = torch.randn(inputs + cell, 3 * cell), torch.randn(3 * cell, cell)
    question = Question("meta_gradient", parameters, options={"clip": True, "clip_eps": 0.2})

    def products() -> None:
        _ = x @ forward, d @ back, x.T @ d

    seconds = fastest({"products": products, "gradient": lambda: block.answer(question)})
    for name, value in seconds.items():
        print(f"  {name}: {value:.3f} CPU seconds for {rows:,} steps")
    print(f"  gradient / products: {seconds['gradient'] / seconds['products']:.2f} (to reach: 3)")


def iterations(name: str) -> float:
    """Env steps per CPU second of whole iterations of a run in one process, without its start and end."""
    config = load_config(CONFIGS / f"{name}.json")
    with tempfile.TemporaryDirectory() as folder:
        overrides = json.dumps({"n_itr": FIRST + MEASURED, "parallel": False, "dump_path": f"{folder}/run"})
        command = [sys.executable, "-m", "mmaml", "train", name, "--overrides", overrides]
        subprocess.run(command, check=True, capture_output=True, cwd=CONFIGS.parent)
        with open(Path(folder) / "run" / "progress.csv", newline="") as file:
            seconds = [float(row["Time-CPU"]) for row in csv.DictReader(file)][FIRST:]
    return MEASURED * config.meta_batch_size * config.rollouts_per_meta_task * config.lane_length / sum(seconds)


@torch.no_grad()
def fastest(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least CPU seconds of each; in turn, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            clock = time.process_time()
            with torch.enable_grad() if name == "gradient" else torch.no_grad():
                function()
            seconds[name].append(time.process_time() - clock)
    return {name: float(np.min(values)) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
