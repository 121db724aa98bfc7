"""The contract between an algorithm and everything else.

On the ranks, for a block of tasks at once, an algorithm says how a task's state begins, how it acts, how it
adapts, and what its functions of the parameters are (a loss, a gradient, a KL, …). On the master it says
how such evaluations turn into a step of the parameters, and owns whatever must outlive an iteration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from mmaml.policies.params import Params, ParamSpec
from mmaml.sampling.acting import Actor
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates.evaluate import Evaluate


class Algorithm(ABC):
    """One meta-reinforcement-learning algorithm.

    spec: names, shapes and order of its meta-parameters.
    functions: names of the methods that `Evaluate` may call, each
        (parameters [P], rollouts of K+1 collections, vector [·] or None, **options) -> {name: [M, …]}.
        One that holds a task in a vector offers it as "embed", from the first collection: {"embedding": [M, H]}.
    collections: how many times each task is sampled in an iteration.
    episode_noise_size: L, how many standard normal numbers an episode is given (`sampling.Step.episode_noise`).
    """

    functions: ClassVar[tuple[str, ...]]
    spec: ParamSpec
    collections: int
    episode_noise_size: int = 0

    @abstractmethod
    def init(self, rng: np.random.Generator) -> Params:
        """Meta-parameters at the start of training."""

    @abstractmethod
    def begin(self, meta: Params, identity: Tensor) -> Any:
        """State of M tasks before their first collection.

        meta: [M, …], one copy a task. identity [M]: of each task in a finite set of training tasks, or -1.
        """

    @abstractmethod
    def actor(self, state: Any) -> Actor:
        """How the tasks act in their next collection."""

    @abstractmethod
    def adapt(self, meta: Params, state: Any, rollouts: Sequence[Rollouts]) -> Any:
        """State after learning from the last of `rollouts`, all collections of the tasks so far."""

    def values(self, state: Any, rollouts: Rollouts) -> Tensor | None:
        """V of every step and of what follows each lane's last, [M, N, T+1]; None: the baseline's of the config."""
        return None

    def policy_params(self, state: Any) -> Params | None:
        """Parameters of the MLP policy that acts in this state, to be exported; None for a policy that has a memory."""
        return None

    @abstractmethod
    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        """New meta-parameters [P] from one meta-batch, and what to log of the update."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that outlives an iteration besides the parameters: tensors, numbers, strings, lists, dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
