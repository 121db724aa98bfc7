"""What the master asks of the ranks in an iteration: collect rollouts, evaluate functions on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.base import Algorithm
from mmaml.config.keys import Config
from mmaml.envs.base import Task
from mmaml.errors import RunStopped
from mmaml.parallel.launch import physics_threads
from mmaml.parallel.peers import Listener
from mmaml.parallel.placement import Placement
from mmaml.parallel.ranks import Ranks
from mmaml.sampling.rollouts import Rollouts
from mmaml.task_block import TaskBlock
from mmaml.updates.evaluate import Evaluate, Question, Results
from mmaml.updates.finite import checked
from mmaml.worker import Worker


class Master:
    """How rank 0 calls all ranks, itself included.

    worker: this rank's. log: problems are reported to it. state: of a checkpoint, whose running statistics are
    continued. device: where the meta-gradient is computed if the master computes it.
    statistics: running statistics by which observations and rewards are normalised.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        worker: Worker,
        log: Listener,
        state: Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.config, self.ranks, self.worker, self.device = config, ranks, worker, device
        self.statistics = worker.statistics(state)
        self.warn = log.warn
        ranks.listen(log)

    @property
    def algorithm(self) -> Algorithm:
        """The master's own, which updates."""
        return self.worker.algorithm

    def reset_clocks(self) -> None:
        """Count the seconds below from now on."""
        self.ranks.seconds_busy = self.ranks.cpu_seconds = self.ranks.roster.seconds_lost = 0.0

    @property
    def seconds_busy(self) -> float:
        """Seconds that the slowest rank spent on each call, added up."""
        return self.ranks.seconds_busy

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds that the other ranks spent on all calls."""
        return self.ranks.cpu_seconds

    @property
    def seconds_lost(self) -> float:
        """Seconds that lost ranks have cost."""
        return self.ranks.roster.seconds_lost

    @property
    def task_indices(self) -> list[int]:
        """Indices in the meta-batch of the tasks sampled last, without those whose environments failed."""
        return self.ranks.indices

    def sample_tasks(self, n: int, iteration: int, purpose: str = "train") -> list[Task]:
        """As `Worker.sample_tasks`."""
        return self.worker.sample_tasks(n, iteration, purpose)

    def collect(self, parameters: Tensor, tasks: Sequence[Task], iteration: int, **options: Any) -> Results:
        """`Worker.collect` of a whole meta-batch; results in task order.

        Raises NotFinite, and RunStopped where the environments of all tasks failed.
        """
        items, scaling = list(enumerate(tasks)), self.statistics.vector()
        result = self.ranks.call("collect", items, parameters, scaling, iteration=iteration, **options)
        if not result:
            environments = (
                "the environment of the only task" if len(tasks) == 1 else f"the environments of all {len(tasks)} tasks"
            )
            raise RunStopped(f"{environments} failed; fix it")
        return result

    def evaluate(self) -> Evaluate:
        """What an update asks of the meta-batch collected last: on the ranks that sampled, or on the master's device.

        Answers raise NotFinite if an update must not continue from their numbers (`mmaml.updates.finite.checked`).
        """
        if placement(self.config, self.ranks, self.device).meta_gradient == "master":
            evaluate = TaskBlock(self.algorithm, self.rollouts(), self.device).evaluate()
        else:
            evaluate = Evaluate(self._ask, self.task_indices, self.rollouts)
        return checked(replace(evaluate, scaling=self.statistics.vector()), self.algorithm.spec)

    def rollouts(self) -> list[Rollouts]:
        """All collections of the meta-batch collected last."""
        return by_collection(self.ranks.call("rollouts", (), subset=self.task_indices))

    def _ask(self, question: Question) -> Results:
        tasks = self.task_indices if question.tasks is None else question.tasks
        return self.ranks.call(
            "evaluate",
            (),
            question.parameters,
            question.vector,
            tasks,
            function=question.function,
            lanes=question.lanes,
            arguments=dict(question.options),
        )


def placement(config: Config, ranks: Ranks, device: str) -> Placement:
    """Where a run computes; with "auto" the meta-gradient on the master where that has a GPU. device: the master's."""
    automatic = "ranks" if device == "cpu" else "master"
    meta_gradient = automatic if config.meta_gradient == "auto" else config.meta_gradient
    threads = physics_threads(config, ranks.size, ranks.cores)
    return Placement(ranks.size, ranks.roster.machines, meta_gradient, device, threads)


def by_collection(fields: Mapping[str, np.ndarray]) -> list[Rollouts]:
    """What `Worker.rollouts` gives, "collection/field" -> array, as the rollouts of each collection."""
    collections: dict[int, dict[str, Tensor]] = {}
    for key, value in fields.items():
        collection, _, name = key.partition("/")
        collections.setdefault(int(collection), {})[name] = torch.from_numpy(value)
    return [Rollouts.from_fields(collections[collection]) for collection in sorted(collections)]
