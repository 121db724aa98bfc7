"""Meta-training: read `train` to see the whole of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from mmaml import checkpoint
from mmaml.algorithms.base import Evaluate
from mmaml.comm import Ranks
from mmaml.config import Config, ConfigError
from mmaml.launch import check_rank_count
from mmaml.logging import RunLogger
from mmaml.reports import evaluation_row, returns_row, write_embeddings
from mmaml.rollouts import Rollouts
from mmaml.seeding import generator
from mmaml.worker import TaskBlock, Worker, collect


def train(config: Config, ranks: Ranks) -> None:
    """Meta-train by `config` on all `ranks`, writing into `config.dump_path`.

    Raises ConfigError (more ranks than tasks, a device that is not there) or CheckpointError on every
    rank, before any work.
    """
    device = ranks.agree(lambda: check_ranks_and_device(config, ranks))
    state = ranks.agree(lambda: restored_state(config))
    worker = Worker(config)
    if not ranks.serve(worker, config.master_samples):
        return  # the master has finished
    run = Run(config, worker, state)
    for iteration in range(run.iteration, config.n_itr):
        clock = time.perf_counter()
        ranks.seconds_busy = 0.0
        tasks = worker.sample_tasks(config.meta_batch_size, iteration)
        sampled = collect(ranks, worker, run.parameters, tasks, iteration)
        sampling_seconds = time.perf_counter() - clock

        evaluate = meta_batch(config, ranks, worker, device)
        run.parameters, updated = worker.algorithm.update(run.parameters, evaluate, iteration)
        update_seconds = time.perf_counter() - clock - sampling_seconds
        waiting = sampling_seconds + update_seconds - ranks.seconds_busy

        run.env_steps += int(sampled["env_steps"].sum())
        row: dict[str, float] = {"Itr": iteration, "n_timesteps": run.env_steps}
        row |= returns_row(sampled) | updated
        row |= evaluation_row(config, ranks, worker, run.parameters, iteration)
        rollout, processing, inner = sampled["seconds"].max(0)
        row |= {
            "Time-Sampling": sampling_seconds,
            "Time-Rollout": rollout,
            "Time-SampleProc": processing,
            "Time-InnerStep": inner,
            "Time-OuterStep": update_seconds,
            "Time-Communication": waiting if device == "cpu" else float("nan"),
            "ItrTime": time.perf_counter() - clock,
            "EnvStepsPerSecond": sampled["env_steps"].sum() / sampling_seconds,
        }
        run.finish_iteration(iteration, row)
    write_embeddings(config, ranks, worker, run.parameters)
    run.close()


class Run:
    """What the master carries from iteration to iteration, and where it goes: log and checkpoints."""

    def __init__(self, config: Config, worker: Worker, state: dict[str, Any] | None) -> None:
        assert config.dump_path is not None
        self.config = config
        self.dump_path = Path(config.dump_path)
        self.worker = worker
        self.iteration = 0
        self.env_steps = 0
        self.seconds = 0.0
        spec = worker.algorithm.spec
        if state is None:
            self.parameters = spec.flatten(worker.algorithm.init(generator(config.seed, "parameters")))
        else:
            self.parameters = spec.flatten(state["parameters"])
            worker.algorithm.load_state_dict(state["algorithm"])
            self.iteration, self.env_steps = state["iteration"], state["env_steps"]
            self.seconds = state["seconds"]
        self._clock = time.perf_counter() - self.seconds
        restored = config.restore_path and checkpoint.run_directory(config.restore_path)
        continues = restored and Path(restored).resolve() == self.dump_path.resolve()
        self.logger = RunLogger(config, self.dump_path, self.iteration if continues else None)

    def finish_iteration(self, iteration: int, row: dict[str, float]) -> None:
        """Log the iteration and, when it is due, write a checkpoint."""
        if not torch.isfinite(self.parameters).all():
            raise FloatingPointError(
                f"parameters are not finite after iteration {iteration}; lower learning_rate or inner_lr and "
                "continue from the last checkpoint with --restore_path"
            )
        self.iteration = iteration + 1
        self.seconds = time.perf_counter() - self._clock
        self.logger.log(row | {"Time": self.seconds})
        if self.iteration % self.config.save_steps == 0 or self.iteration == self.config.n_itr:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of everything that the next iteration depends on."""
        checkpoint.save(
            self.dump_path / "checkpoints",
            self.iteration,
            {
                "iteration": self.iteration,
                "env_steps": self.env_steps,
                "seconds": self.seconds,
                "parameters": {k: v.clone() for k, v in self.worker.algorithm.spec.unflatten(self.parameters).items()},
                "algorithm": self.worker.algorithm.state_dict(),
                "config": self.config.to_dict(),
                "rng": {"seed": self.config.seed, "iteration": self.iteration},
            },
            keep=self.config.max_checkpoints_to_keep,
            keep_every_hours=self.config.keep_checkpoint_every_n_hours,
        )

    def close(self) -> None:
        """Close files and environments."""
        self.logger.close()
        self.worker.close()


def meta_batch(config: Config, ranks: Ranks, worker: Worker, device: str) -> Evaluate:
    """Where the meta-objective is evaluated: on the ranks that sampled, or on the master's device."""
    if meta_gradient_home(config, device) == "ranks":
        return ranks.evaluator()
    fields = ranks.call("rollouts", (), subset=range(config.meta_batch_size))
    collections = [
        {name.split("/")[1]: torch.from_numpy(value) for name, value in fields.items() if name.startswith(f"{k}/")}
        for k in range(worker.algorithm.collections)
    ]
    rollouts = [Rollouts.from_fields(collection) for collection in collections]
    return TaskBlock(worker.algorithm, rollouts, device).evaluate


def meta_gradient_home(config: Config, device: str) -> str:
    """ "master" or "ranks"; by itself the master where it has a GPU."""
    if config.meta_gradient != "auto":
        return config.meta_gradient
    return "ranks" if device == "cpu" else "master"


def check_ranks_and_device(config: Config, ranks: Ranks) -> str:
    """The master's device, "cpu" or "cuda…"; raises ConfigError if ranks or device do not fit the config."""
    check_rank_count(ranks.size, config)
    available = torch.cuda.is_available()
    if config.device.startswith("cuda") and not available:
        raise ConfigError(f'device: expected a CUDA device for \'{config.device}\', found none; use "cpu" or "auto"')
    device = ("cuda" if available else "cpu") if config.device == "auto" else config.device
    if device != "cpu" and config.meta_gradient == "ranks":
        return "cpu"
    return device


def restored_state(config: Config) -> dict[str, Any] | None:
    """The checkpoint to continue from, or None for a new run."""
    return None if config.restore_path is None else checkpoint.load(config.restore_path)
