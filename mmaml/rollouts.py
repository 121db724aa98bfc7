"""Rollouts of M tasks: dense arrays [M, N, T, …], episodes told apart by flags.

A task has N lanes of T steps. `collect: "lanes"`: where an episode terminates, the lane starts another.
`collect: "episodes"`: one episode a lane; the steps after its end are padding, `mask` 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from mmaml.policies.distributions import Gaussian


@dataclass
class Rollouts:
    """What one collection gathers for M tasks. float32 but for the flags, contiguous.

    observations [M, N, T, O], actions [M, N, T, A] as the policy drew them, rewards [M, N, T]
    mean [M, N, T, A], log_std [M, 1, 1, A]: the sampling distribution; log_probs [M, N, T]: of the actions
    mask [M, N, T]: 1 on real steps, 0 on padding; weights: mask / (real steps of the task)
    episode_start, terminated, truncated, episode_end: bool [M, N, T]. truncated: the task's horizon or the
        environment's own limit, after which nothing counts. episode_end: the last real step of an episode,
        also of one that the end of its lane cut.
    final_observations [M, N, O]: what follows the last step of each lane
    advantages [M, N, T]: filled by `mmaml.processing`
    success [M, N, T]: 1 where the family reports success, NaN where it reports none
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    mean: Tensor
    log_std: Tensor
    log_probs: Tensor
    mask: Tensor
    weights: Tensor
    episode_start: Tensor
    terminated: Tensor
    truncated: Tensor
    episode_end: Tensor
    final_observations: Tensor
    advantages: Tensor
    success: Tensor

    @property
    def tasks(self) -> int:
        """M."""
        return self.observations.shape[0]

    def flat(self, name: str) -> Tensor:
        """One field with rollouts and steps flattened: [M, N·T, …]."""
        return getattr(self, name).flatten(1, 2)

    def flat_distribution(self) -> Gaussian:
        """The sampling distribution of every step, [M, N·T, A]."""
        return Gaussian(self.flat("mean"), self.flat("log_std"))

    def select(self, index: slice | Tensor) -> Rollouts:
        """The rollouts of some tasks."""
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Rollouts:
        """The rollouts on another device."""
        return self._map(lambda value: value.to(device))

    def _map(self, function) -> Rollouts:  # type: ignore[no-untyped-def]
        return Rollouts(**{name: function(value) for name, value in self.fields().items()})

    def fields(self) -> dict[str, Tensor]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
