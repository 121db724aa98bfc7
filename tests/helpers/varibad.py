"""Small trials of VariBAD, and what it sampled at parameters that are not those of the start."""

from __future__ import annotations

from typing import Any

import torch

from mmaml.algorithms.varibad import VariBAD, transitions
from mmaml.task_block import TaskBlock
from tests.helpers.support import sampled, small_config

TRIALS: dict[str, Any] = {
    "env": "BernoulliBandit",
    "meta_batch_size": 3,
    "rollouts_per_meta_task": 4,
    "max_path_length": 1,
    "episodes_per_trial": 5,
    "cell_size": 4,
    "belief_size": 2,
    "encoder_hidden_sizes": [6],
    "decoder_hidden_sizes": [5, 4],
    "hidden_sizes": [8],
    "decoder_reads": "observation_action",
}
# Trials of two episodes of one to three steps, some of which fill their lanes; observed is how many were taken.
UNEVEN: dict[str, Any] = {
    "env": "tests.helpers.probes:RandomLengths",
    "env_kwargs": {"longest": 3},
    "max_path_length": 3,
    "episodes_per_trial": 2,
    "meta_batch_size": 5,
    "collect": "episodes",
    "decoder_reads": "next_observation",
}


def config_of(algorithm: str = "varibad", **overrides: Any) -> Any:
    return small_config(algorithm, **TRIALS | overrides)


def collected(**overrides: Any) -> tuple[VariBAD, TaskBlock, torch.Tensor]:
    """One meta-batch, at parameters that are not those of the start."""
    config = config_of(**overrides)
    worker, parameters, _ = sampled(config)
    moved = parameters + 0.3 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
    worker.collect(moved, None, list(enumerate(worker.sample_tasks(config.meta_batch_size, 0))), 0)
    assert worker.block is not None and isinstance(worker.algorithm, VariBAD)
    return worker.algorithm, worker.block, moved


def trials_of(block: TaskBlock) -> dict[str, torch.Tensor]:
    return {name: value.flatten(0, 1) for name, value in transitions(block.rollouts[0]).items()}
