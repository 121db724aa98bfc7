"""Sampling against a bare loop, on one core: `python benchmarks/sampling.py`

The bare loop only steps the environment's arrays and applies the batched policy, for one rank's share of the
published sizes on two ranks (20 tasks x 20 rollouts x 100 steps). Sampling adds noise, rescaling of actions,
bookkeeping of episodes, storage, and the arrangement as dense [M, N, T, …] arrays.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import numpy as np
import torch

from benchmarks.helpers.arguments import take_none
from mmaml.config.loading import load_config
from mmaml.envs.registry import make_family
from mmaml.sampling.acting import Step
from mmaml.sampling.collector import Lanes, rollout
from mmaml.seeding import generator
from mmaml.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
TASKS, REPEATS = 20, 15


def main() -> None:
    take_none(__doc__)
    torch.set_num_threads(1)
    config = load_config(ROOT / "configs/point_env_momentum_dense.json", {}, "mmaml")
    worker = Worker(config)
    algorithm = worker.algorithm
    lanes, horizon = config.rollouts_per_meta_task, config.max_path_length
    flat = algorithm.spec.flatten(algorithm.init(generator(config.seed, "parameters")))
    meta = {name: value.expand(TASKS, *value.shape) for name, value in algorithm.spec.unflatten(flat).items()}
    env = make_family(config.env, TASKS, lanes)
    env.set_tasks(worker.sample_tasks(TASKS, 0))
    actor = algorithm.actor(algorithm.begin(meta, torch.zeros(TASKS, dtype=torch.long)))
    keys = [(0, task, 0) for task in range(TASKS)]

    def bare() -> None:
        observation, _ = env.reset(seed=0)
        nothing = torch.empty(0)
        for _ in range(horizon):
            step = Step(torch.from_numpy(observation).view(TASKS, lanes, -1), nothing, nothing, nothing, nothing)
            observation, *_ = env.step(actor(step, None)[0].mean.view(TASKS * lanes, -1).numpy())

    def ours() -> None:
        noise = worker._noise(keys, "train", horizon)
        rollout(env, actor, Lanes(horizon), noise, list(range(TASKS)), env.normalization_scale)

    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    with torch.no_grad():
        for _ in range(REPEATS):  # in turn, so that both meet the same machine
            for name, function in (("bare", bare), ("ours", ours)):
                clock = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - clock)
    steps = TASKS * lanes * horizon
    best = {name: float(np.min(values)) for name, values in seconds.items()}
    for name, value in best.items():
        print(f"{name}: {steps / value:,.0f} env steps/s on one core")
    print(f"sampling / bare loop: {best['bare'] / best['ours']:.2f} (to reach: 0.7)")


if __name__ == "__main__":
    main()
