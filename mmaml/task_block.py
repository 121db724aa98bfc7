"""The tasks that were sampled together, and the algorithm's functions of them, in chunks that bound memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce

import torch
from torch import Tensor

from mmaml.algorithms.base import Algorithm
from mmaml.fault_points import reached
from mmaml.parallel.requests import partition
from mmaml.sampling.chunks import CPU_CHUNK_STEPS, KEPT_STEPS
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates.evaluate import Evaluate, Question, Results


class TaskBlock:
    """All collections of some tasks, on one device, and the algorithm's functions of them."""

    def __init__(self, algorithm: Algorithm, rollouts: Sequence[Rollouts], device: str = "cpu") -> None:
        self.algorithm = algorithm
        self.device = device
        self.rollouts = [collection.to(device) for collection in rollouts]
        self._prepared: dict[int, Sequence[Callable[..., dict[str, Tensor]]]] = {}
        self._prepared_for: tuple | None = None

    def answer(self, question: Question) -> Results:
        """Evaluate the algorithm's function. question.tasks: indices in the block; all of its tasks if None."""
        if question.function not in self.algorithm.functions:
            raise ValueError(f"function: expected one of {self.algorithm.functions}, got {question.function!r}")
        reached("evaluation", function=question.function)
        vector = None if question.vector is None else question.vector.to(self.device)
        results = []
        for pieces in self._pieces(question):
            parts = [piece(vector, **question.options) for piece in pieces]
            results.append({name: reduce(torch.add, (part[name] for part in parts)) for name in parts[0]})
        # detach: older versions of torch give parameters without effect zeros that require a gradient
        return fetched({name: torch.cat([result[name] for result in results]).detach() for name in results[0]})

    def _pieces(self, question: Question) -> Iterator[Sequence[Callable[..., dict[str, Tensor]]]]:
        """The function with everything but the vector bound: for each chunk of tasks, one callable per chunk of lanes.

        What an algorithm prepares for many vectors is kept for the next question at the same parameters.
        """
        parameters = question.parameters.to(self.device)
        tasks = range(self.rollouts[0].tasks) if question.tasks is None else question.tasks
        steps_per_task = self.rollouts[0].rewards[0].numel()
        size = max(1, CPU_CHUNK_STEPS // steps_per_task) if self.device == "cpu" else len(tasks)
        key = question.function, question.parameters.numpy().tobytes(), tuple(tasks), question.lanes
        if self._prepared_for != key:
            self._prepared, self._prepared_for = {}, key
        for first in range(0, len(tasks), size):
            if first in self._prepared:
                yield self._prepared[first]
                continue
            chunk = compact_index(tasks[first : first + size])
            rollouts = [collection.select(chunk) for collection in self.rollouts]
            if question.lanes is not None:
                rollouts = [collection.only_lanes(question.lanes) for collection in rollouts]
            prepared = self.algorithm.prepared(question.function, parameters, rollouts)
            if prepared is None:
                function = partial(getattr(self.algorithm, question.function), parameters)
                yield [
                    partial(function, [collection.lanes(lanes) for collection in rollouts])
                    for lanes in self._lane_chunks(question.function, rollouts[0])
                ]
                continue
            if (first + len(rollouts[0].rewards)) * steps_per_task <= KEPT_STEPS or self.device != "cpu":
                self._prepared[first] = [prepared]
            yield [prepared]

    def _lane_chunks(self, function: str, rollouts: Rollouts) -> list[slice]:
        """Which lanes are computed together: all, unless a task has too many and the function is a sum over lanes.

        At least two, since the bits of a product with a single row depend on where it lies in memory.
        """
        _, lanes, length = rollouts.rewards.shape
        if function not in self.algorithm.adds_over_lanes:
            return [slice(lanes)]
        count = max(1, lanes // max(2, CPU_CHUNK_STEPS // length))
        return [slice(block.start, block.stop) for block in partition(lanes, count)]

    def evaluate(self) -> Evaluate:
        """What an update asks of the block: tasks are known by their indices in the meta-batch."""
        in_block = {task: index for index, task in enumerate(self.rollouts[0].task_index.tolist())}
        tasks = sorted(in_block)

        def answer(question: Question) -> Results:
            asked = tasks if question.tasks is None else question.tasks
            return self.answer(replace(question, tasks=[in_block[task] for task in asked]))

        return Evaluate(answer, tasks, lambda: [collection.to("cpu") for collection in self.rollouts])


def fetched(values: Mapping[str, Tensor]) -> Results:
    """Tensors as arrays; those on a device are copied together, with one wait for each dtype."""
    results = {name: value.numpy() for name, value in values.items() if value.device.type == "cpu"}
    on_device = {name: value for name, value in values.items() if name not in results}
    for dtype in {value.dtype for value in on_device.values()}:
        chosen = {name: value for name, value in on_device.items() if value.dtype is dtype}
        flat = torch.cat([value.flatten() for value in chosen.values()]).cpu()
        parts = flat.split([value.numel() for value in chosen.values()])
        results |= {
            name: part.view(value.shape).numpy() for (name, value), part in zip(chosen.items(), parts, strict=True)
        }
    return {name: results[name] for name in values}


def compact_index(indices: Sequence[int]) -> slice | Tensor:
    """Indices of tasks, consecutive ones as a slice, which needs no copy of their rollouts."""
    consecutive = range(indices[0], indices[0] + len(indices))
    return slice(indices[0], indices[0] + len(indices)) if list(indices) == list(consecutive) else torch.tensor(indices)
