"""What the tests of pictures share."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmaml.config.keys import Config
from mmaml.evaluation import held_out
from mmaml.figures import recording
from mmaml.sampling.rollouts import Rollouts
from mmaml.worker import Worker


def evaluated(config: Config, stages: int) -> tuple[dict[str, Any], list[Rollouts]]:
    """A state with new parameters, and what an evaluation by it samples of one held-out task of each mode."""
    worker = Worker(config)
    parameters = worker.algorithm.init(np.random.default_rng(0))
    tasks = recording.one_of_each_mode(worker, "test")
    flat = worker.algorithm.spec.flatten(parameters)
    worker.collect(flat, None, list(enumerate(tasks)), held_out.FRESH, "test", stages)
    assert worker.block is not None
    return {"parameters": parameters}, worker.block.rollouts
