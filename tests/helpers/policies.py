"""Trained policies, and loops in which they live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import mmaml
from mmaml.sampling.policy_spaces import PolicySpaces
from mmaml.seeding import generator
from mmaml.storage import checkpoint
from mmaml.worker import Worker
from tests.helpers.support import small_config


def trained(folder: Path, algorithm: str = "maml", **keys: Any) -> Path:
    """The checkpoint of a run that has not begun to learn."""
    worker = Worker(config := small_config(algorithm, **keys))
    spec = worker.algorithm.spec
    state = {
        "iteration": 0,
        "env_steps": 0,
        "seconds": 0.0,
        "parameters": worker.algorithm.init(generator(config.seed, "parameters")),
        "algorithm": worker.algorithm.state_dict(),
        "config": config.to_dict(),
        "environment": PolicySpaces.of_spec(worker.spec, config.normalization_scale).record(),
    }
    assert {*state["parameters"]} == {*spec.shapes}
    return checkpoint.write(folder, 0, state)


def episode(policy: mmaml.TrainedPolicy, steps: int, seed: int = 0, lanes: int = 0) -> None:
    """Random observations and rewards, of one lane, or of several at once."""
    rng, size = np.random.default_rng(seed), policy.spaces.observation_size
    shape = (lanes,) if lanes else ()
    for step in range(steps):
        policy.act(rng.normal(size=(*shape, size)))
        policy.record(rng.normal(size=shape), truncated=step == steps - 1)
