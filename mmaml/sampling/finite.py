"""NaN and infinity: found in the iteration in which they appear, and named by task, step and tensor.

A rank examines what it sampled before a task adapts to it, and the parameters after adaptation; the master examines
what an update is made of. The sum of a tensor, which is quick, is finite only if all entries are. Where it is not, the
exact search follows; it finds nothing if only the sum was too large.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmaml.envs.base import Task
from mmaml.errors import NotFinite
from mmaml.policies.distributions import Distribution
from mmaml.sampling.rollouts import Rollouts

# The tensors of rollouts that are examined, and what a message calls an entry; causes before their consequences.
SAMPLED = {
    "observations": "observation",
    "final_observations": "observation",
    "followed": "observation",
    "mean": "mean of the action",
    "log_std": "log-std of the action",
    "logits": "logit",
    "actions": "action",
    "log_probs": "log-probability",
    "rewards": "reward",
}
PROCESSED = {"value_targets": "value target", "advantages": "advantage", "values_after": "value after a truncation"}
EXAMINED = SAMPLED | PROCESSED
_ORDER = {name: rank for rank, name in enumerate(EXAMINED)}


class Finding(NamedTuple):
    """Where one tensor of a task first is not finite, and how many of its entries are not, `entries`.

    block_index: of the task in its block. entry: of the step's vector; None where a step has one number.
    """

    block_index: int
    name: str
    step: int
    lane: int
    entry: int | None
    value: float
    entries: int

    @property
    def sort_key(self) -> tuple[bool, int, int]:
        """Of the findings in a task the smallest is the first cause: sampled before estimated, by step, by tensor."""
        return self.name in PROCESSED, self.step, _ORDER[self.name]

    def __str__(self) -> str:
        entry = "" if self.entry is None else f"[{self.entry}]"
        return f"step {self.step} of rollout {self.lane}: {EXAMINED[self.name]}{entry} is {self.value}"


def check_rollouts(data: Rollouts, tasks: Sequence[Task], collection: int, names: Collection[str]) -> None:
    """Raise NotFinite, naming the first task and its first number, if one of a real step is not finite.

    tasks: those of the rollouts. names: of the tensors that are examined, `SAMPLED` or `PROCESSED`. What is not
    finite in padding is set to 0, where it can do no harm.
    """
    if all(sum_is_finite(value) for name, value in _tensors(data).items() if name in names):
        return
    found = findings(data, names)
    if not found:
        _clean_padding(data, names)
        return
    task_indices = data.task_index.tolist()
    first = min(found, key=lambda one: (task_indices[one.block_index], one.sort_key))
    index, stage = task_indices[first.block_index], 1 + (first.name in PROCESSED)
    raise NotFinite(f"{named(index, tasks[first.block_index], collection)}, {first}", (collection, stage, index))


def findings(data: Rollouts, names: Collection[str] = tuple(EXAMINED)) -> list[Finding]:
    """One finding for each task and tensor with a number on a real step that is not finite, in order."""
    found = []
    for name in _tensors(data).keys() & set(names):
        values, counts, offset = _laid_out(data, name)
        for block_index, bad in enumerate(~torch.isfinite(values) & counts[..., None]):  # [N, T, E]
            if bad.any():
                found.append(_finding(block_index, name, values[block_index], bad, offset))
    return sorted(found, key=lambda one: (one.block_index, one.sort_key))


def _tensors(data: Rollouts) -> dict[str, Tensor]:
    return data.fields() | ({} if data.followed is None else {"followed": data.followed})


def _laid_out(data: Rollouts, name: str) -> tuple[Tensor, Tensor, int]:
    """A tensor as [M, N, T, E]; which of its steps count, bool [M, N, T]; its first step's number."""
    values = _tensors(data)[name]
    counts, offset = data.mask > 0, 0
    if name == "followed":  # a truncated step, which is real
        rows, offset, counts = values, 1, data.truncated
        values = rows.new_zeros(*counts.shape, rows.shape[-1])
        values[counts] = rows
    elif name == "final_observations":  # it follows the last step, if the episode goes on
        values, offset = values[:, :, None], counts.shape[-1]
        counts = (counts & ~data.terminated)[..., -1:]
    elif values.dim() == 3:
        values = values[..., None]
    if values.shape[1:3] != counts.shape[1:3]:  # one for all steps
        counts = torch.ones(values.shape[:3], dtype=torch.bool)
    return values, counts, offset


def _finding(block_index: int, name: str, values: Tensor, bad: Tensor, offset: int) -> Finding:
    step, lane, entry = bad.transpose(0, 1).nonzero()[0].tolist()
    value = values[lane, step, entry].item()
    several = None if name in ("rewards", "log_probs", *PROCESSED) else entry
    return Finding(block_index, name, offset + step, lane, several, value, int(bad.sum()))


def _clean_padding(data: Rollouts, names: Collection[str]) -> None:
    for name, value in data.fields().items():
        if name in names:
            value[~torch.isfinite(value)] = 0.0  # no real step has any


def finding_of_step(observations: Tensor, distribution: Distribution, actions: Tensor, step: int) -> Finding | None:
    """The first of a step's numbers that is not finite, of all tasks, if there is one. Tensors [M, N, E]."""
    for name, values in {"observations": observations, **distribution._asdict(), "actions": actions}.items():
        bad = ~torch.isfinite(values)
        if bad.any():
            block_index = int(bad.flatten(1).any(1).nonzero()[0])
            return _finding(block_index, name, values[block_index][:, None], bad[block_index][:, None], step)
    return None


def not_finite_given(found: Finding, task_indices: Sequence[int], tasks: Sequence[Task], collection: int) -> NotFinite:
    """The error for what a policy gave to an environment, which raised at that."""
    index = task_indices[found.block_index]
    return NotFinite(
        f"{named(index, tasks[found.block_index], collection)}, {found}", (collection, 0, found.step, index)
    )


def named(index: int, task: Task, collection: int) -> str:
    """A task's collection, as a message names it."""
    return f"task {index} (mode {task.mode}), collection {collection}"


def check_adapted(
    params: Mapping[str, Tensor], task_indices: Sequence[int], tasks: Sequence[Task], collection: int
) -> None:
    """Raise NotFinite if a task's parameters are not finite after the inner step on a collection.

    params: name -> [M, …], M tasks in the order of task_indices and tasks.
    """
    if all(sum_is_finite(value) for value in params.values()):
        return
    for index, block_index in sorted(zip(task_indices, range(len(tasks)), strict=True)):
        for name, value in params.items():
            if (where := first_not_finite(value[block_index])) is not None:
                whose = f"task {index} (mode {tasks[block_index].mode}), inner step {collection + 1}"
                raise NotFinite(f"{whose}: adapted parameter {name}{where}", (collection, 3, index))


def sum_is_finite(values: Tensor) -> bool:
    """Whether the sum is finite, and so every entry; a sum may also overflow where all entries are finite."""
    return math.isfinite(values.sum().item())


def first_not_finite(values: Tensor) -> str | None:
    """ "[1, 3] is inf" of the first entry that is not finite."""
    bad = ~torch.isfinite(values)
    if not bad.any():
        return None
    index = bad.nonzero()[0].tolist()
    return f"{index or ''} is {values[tuple(index)].item()}"
