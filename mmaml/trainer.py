"""Meta-training: read `train` and `one_iteration` to see the whole of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, TextIO

import torch

from mmaml.config.keys import Config
from mmaml.errors import ConfigError, NotFinite
from mmaml.evaluation.embeddings import write_embeddings
from mmaml.evaluation.periodic import evaluation_row
from mmaml.parallel.launch import check_rank_count, physics_threads
from mmaml.parallel.ranks import Ranks
from mmaml.parallel.shutdown import shutdown
from mmaml.reporting.columns import returns_row
from mmaml.storage import checkpoint
from mmaml.storage.compatibility import check_fits
from mmaml.storage.progress_file import Row
from mmaml.training_run import Run
from mmaml.updates.finite import require_finite
from mmaml.worker import Worker
from mmaml.written_paths import as_written


def train(
    config: Config,
    ranks: Ranks,
    on_iteration: Callable[[Row], object] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Meta-train by `config` on all `ranks`, writing into `config.dump_path`.

    on_iteration: called on rank 0 with the row of each iteration that has been logged; what it raises ends the run.
    stream: where rank 0 displays the run; standard output when None.
    Raises ConfigError (more ranks than tasks, a device that is not there) or CheckpointError on every
    rank, before any work; on rank 0, with a checkpoint written, Interrupted if a signal asked to stop, and RunStopped
    if more went wrong than the configuration allows.
    """
    device = ranks.agree(lambda: check_ranks_and_device(config, ranks))
    ranks.meet()
    with closing(Worker(config, physics_threads(config, ranks.size, ranks.cores))) as worker:
        state = ranks.on_master(lambda: restored_state(config, worker))
        ranks.set_timeout(config.rank_timeout, remedy=as_written(f"continue with --restore_path {config.dump_path}"))
        if not ranks.serve(worker, config.master_samples):
            return  # the master has finished
        run = Run(config, ranks, worker, state, device, stream)
        with run.finishing():
            for iteration in range(run.iteration, config.n_itr):
                with shutdown.abandonable():
                    row = one_iteration(run, iteration)
                logged = run.finish_iteration(iteration, row)
                if on_iteration is not None:
                    on_iteration(logged)
                shutdown.check()
            with shutdown.abandonable():
                write_embeddings(run.master, run.parameters)
        run.close()


def one_iteration(run: Run, iteration: int) -> dict[str, float]:
    """Sample and adapt, update, evaluate; the iteration's row of the log."""
    master = run.master
    row: dict[str, float] = {"Itr": iteration, "EnvStepsPerSecond": float("nan")}
    master.reset_clocks()
    cpu = time.process_time()
    clock = sampled_at = time.perf_counter()
    try:
        tasks = master.sample_tasks(run.config.meta_batch_size, iteration)
        sampled = master.collect(run.parameters, tasks, iteration)
        sampled_at = time.perf_counter()
        run.watch_rewards(sampled)
        run.env_steps += int(sampled["env_steps"].sum())
        row |= returns_row(sampled) | sampling_times(sampled, sampled_at - clock)

        parameters, updated = run.algorithm.update(run.parameters, master.evaluate(), iteration)
        require_finite(run.algorithm.spec, parameters)
        run.accept(parameters, sampled)
        row |= updated
    except NotFinite as finding:
        run.skip_update(finding, iteration)
    update_seconds = time.perf_counter() - sampled_at
    waiting = sampled_at - clock + update_seconds - master.seconds_busy
    row |= {"n_timesteps": run.env_steps, **run.counts}
    row |= evaluation_row(master, run.parameters, iteration)
    return row | {
        "Time-OuterStep": update_seconds,
        "Time-Communication": waiting if master.device == "cpu" else float("nan"),
        "Time-Recovery": master.seconds_lost,
        "Time-CPU": time.process_time() - cpu + master.cpu_seconds,
        "ItrTime": time.perf_counter() - clock,
    }


def sampling_times(sampled: dict[str, Any], seconds: float) -> dict[str, float]:
    """Columns of the log: seconds of the slowest rank in each part of sampling."""
    rollout, processing, inner = sampled["seconds"].max(0)
    return {
        "Time-Sampling": seconds,
        "Time-Rollout": rollout,
        "Time-SampleProc": processing,
        "Time-InnerStep": inner,
        "EnvStepsPerSecond": sampled["env_steps"].sum() / seconds,
    }


def check_ranks_and_device(config: Config, ranks: Ranks) -> str:
    """The master's device, "cpu" or "cuda…"; raises ConfigError if ranks or device do not fit the config."""
    check_rank_count(ranks.size, config)
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device.startswith("cuda") and (torch.device(config.device).index or 0) >= available:
        raise ConfigError(
            "device",
            expected=f"a CUDA device for '{config.device}'",
            got=f"{available}, counted from 0" if available else "none",
            remedy='use "cpu" or "auto"',
        )
    device = ("cuda" if available else "cpu") if config.device == "auto" else config.device
    if device != "cpu" and config.meta_gradient == "ranks":
        return "cpu"
    return device


def restored_state(config: Config, worker: Worker) -> dict[str, Any] | None:
    """The checkpoint to continue from, or None for a new run. Raises CheckpointError."""
    if config.restore_path is None:
        return None
    path, state = checkpoint.newest(config.restore_path)
    check_fits(state, path, config, worker.algorithm)
    worker.statistics(state)  # raises here, before any work, where they do not fit
    return state
