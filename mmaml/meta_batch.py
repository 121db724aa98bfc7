"""What the master asks of the ranks in an iteration: collect rollouts, evaluate the meta-objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmaml.config.keys import Config
from mmaml.envs.base import Task
from mmaml.errors import RunStopped
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates.evaluate import Evaluate

if TYPE_CHECKING:
    from mmaml.parallel.ranks import Ranks
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmaml.parallel.ranks import Ranks
from mmaml.worker import TaskBlock, Worker


def collect(
    ranks: Ranks, parameters: Tensor, tasks: Sequence[Task], iteration: int, **options: Any
) -> dict[str, np.ndarray]:
    """`Worker.collect` of a whole meta-batch, on all ranks; results in task order.

    Raises NotFinite, and RunStopped where the environments of all tasks failed.
    """
    result = ranks.call("collect", list(enumerate(tasks)), parameters, iteration=iteration, **options)
    if not result:
        environments = (
            "the environment of the only task" if len(tasks) == 1 else f"the environments of all {len(tasks)} tasks"
        )
        raise RunStopped(f"stopped: {environments} failed; mend it")
    return result


def meta_batch(config: Config, ranks: Ranks, worker: Worker, device: str) -> Evaluate:
    """Where the meta-objective is evaluated: on the ranks that sampled, or on the master's device."""
    if meta_gradient_home(config, device) == "ranks":
        return ranks.evaluator()
    fields = ranks.call("rollouts", (), subset=ranks.places)
    rollouts = [
        Rollouts.from_fields({name: torch.from_numpy(value) for name, value in collection.items()})
        for collection in by_collection(fields)
    ]
    return TaskBlock(worker.algorithm, rollouts, device).evaluator()


def meta_gradient_home(config: Config, device: str) -> str:
    """ "master" or "ranks"; by itself the master where it has a GPU."""
    if config.meta_gradient != "auto":
        return config.meta_gradient
    return "ranks" if device == "cpu" else "master"


def by_collection(fields: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What `Worker.rollouts` gives, "collection/field" -> array, as the fields of each collection."""
    collections: dict[int, dict[str, np.ndarray]] = {}
    for key, value in fields.items():
        collection, _, name = key.partition("/")
        collections.setdefault(int(collection), {})[name] = value
    return [collections[collection] for collection in sorted(collections)]
