"""The contract between an algorithm and everything else.

On the ranks, for a block of tasks at once, an algorithm says how a task's state begins, how it acts, what its
advantages are, how it adapts, and what its functions of the parameters are (a loss, a gradient, a KL, …). On the master
it says how such evaluations turn into a step of the parameters, and owns whatever must outlive an iteration:
optimisers, a buffer of earlier trials.

An algorithm that adapts by learning samples a task in several collections, with `adapt` in between. One that adapts by
remembering samples it once: a lane is a trial, several episodes of one task, over which its actor carries a memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mmaml.config.keys import Config
from mmaml.policies.params import Params, ParamSpec
from mmaml.sampling.acting import Actor
from mmaml.sampling.advantages import advantages, after_truncations
from mmaml.sampling.normalisation import Scaling
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates.evaluate import Evaluate


class Algorithm(ABC):
    """One meta-reinforcement-learning algorithm.

    config: the run's.
    spec: names, shapes and order of its meta-parameters.
    functions: names of the methods that a `Question` may name, each
        (parameters [P], rollouts of all collections, vector [·] or None, **options) -> {name: [M, …]}.
        One that holds a task in a vector offers it as "embed", from the first collection: {"embedding": [M, H]}.
    adds_over_lanes: those of them whose results for a task are sums over its lanes, with each step multiplied by its
        weight. They are computed for some lanes at a time if all lanes of a task do not fit into memory.
    episode_noise_size: L, how many standard normal numbers an episode is given (`sampling.Step.episode_noise`).
    """

    functions: ClassVar[tuple[str, ...]]
    adds_over_lanes: ClassVar[tuple[str, ...]] = ()
    config: Config
    spec: ParamSpec
    episode_noise_size: int = 0

    @property
    def credit(self) -> Literal["episode", "trial"]:
        """How far rewards are credited to earlier actions: over an episode or a trial, as the algorithm declares."""
        return self.config.declaration.credit

    @property
    def collections(self) -> int:
        """How many times each task is sampled in an iteration."""
        return 1 if self.credit == "trial" else self.config.stages

    @abstractmethod
    def init(self, rng: np.random.Generator) -> Params:
        """Meta-parameters at the start of training."""

    @abstractmethod
    def begin(self, meta: Params, identity: Tensor) -> Any:
        """State of M tasks before their first collection.

        meta: [M, …], one copy a task. identity [M]: of each task in a finite set of training tasks, or -1. If a state
        has `params`, adapted parameters by name [M, …], these have to be finite after `adapt`.
        """

    @abstractmethod
    def actor(self, state: Any) -> Actor:
        """How the tasks act in their next collection. What it remembers of a lane, it carries on (`Actor`)."""

    def adapt(self, meta: Params, state: Any, rollouts: Sequence[Rollouts]) -> Any:
        """State after learning from the last of `rollouts`, all collections of the tasks so far."""
        return state

    def values(self, state: Any, rollouts: Rollouts) -> Tensor | None:
        """V of every step and of what follows each lane's last real one, [M, N, T+1]; None: the baseline's.

        The value of what follows is not used, and may be anything, where `rollouts.followed` is None.
        """
        return None

    def advantages(self, state: Any, rollouts: Rollouts, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Â and the targets of a value function, [M, N, T] each, 0 on padding.

        rewards [M, N, T]: those to learn from, which may be scaled. By default as the configuration says, from `values`
        or the baseline, over an episode or the trial (`credit`). Those over an episode are normalised per task and made
        positive, if the configuration says so; those over a trial are left as they are, for an update to normalise. An
        algorithm that has its own declares the keys of the group "Advantages" that it does not read
        (`Declaration.without`).
        """
        config, values = self.config, self.values(state, rollouts)
        by_episode, after = self.credit == "episode", None
        if values is not None and by_episode:
            after = after_truncations(rollouts, lambda data: self.values(state, data))
        return advantages(
            rollouts,
            config.baseline,
            config.discount,
            config.gae_lambda,
            normalize=by_episode and config.normalize_adv,
            positive=by_episode and config.positive_adv,
            values=None if values is None else values.numpy(),
            rewards=rewards.numpy(),
            over_trial=not by_episode,
            after=None if after is None else after.numpy(),
        )

    def values_after(self, state: Any, rollouts: Rollouts) -> Tensor | None:
        """Values of what followed truncated steps, [M, N, T, V].

        For an algorithm whose functions find returns themselves, by V value functions: what followed is known only
        where the tasks were sampled. None: it needs none.
        """
        return None

    @torch.no_grad()
    def estimate_advantages(self, state: Any, rollouts: Rollouts, scaling: Scaling | None) -> None:
        """Store in `rollouts` what `advantages` and `values_after` give.

        scaling: by whose `reward_scale` the rewards to learn from are divided; None: they are those of `rollouts`.
        """
        rewards = rollouts.rewards if scaling is None else rollouts.rewards / scaling.reward_scale
        with np.errstate(over="ignore", invalid="ignore"):  # the caller reports what is not finite
            rollouts.advantages, rollouts.value_targets = self.advantages(state, rollouts, rewards)
            rollouts.values_after = self.values_after(state, rollouts)

    def prepared(
        self, function: str, parameters: Tensor, rollouts: Sequence[Rollouts]
    ) -> Callable[[Tensor], dict[str, Tensor]] | None:
        """One of `functions` as a function of the vector, with what is the same for all vectors computed once.

        For a function that an update asks at many vectors, such as a matrix product; not of some lanes at a time. What
        comes back is held while the parameters and the rollouts are the same. None: there is nothing worth preparing.
        """
        return None

    def policy_params(self, state: Any) -> Params | None:
        """Parameters of the MLP policy that acts in this state, to be exported; None for a policy that has a memory."""
        return None

    @property
    def expectation(self) -> str:
        """What `expected_rewards` gives, in words."""
        return "expected reward"

    def expected_rewards(
        self, parameters: Tensor, trials: Rollouts, steps: Tensor, observations: Tensor
    ) -> Tensor | None:
        """What rewards are expected where an action leads to `observations` [k, O], for pictures: [M, N, S, k].

        steps [M, N, S]: after how many steps of each lane of `trials`, 0 … T. None for an algorithm that holds no such
        belief.
        """
        return None

    @abstractmethod
    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        """New meta-parameters [P] from one meta-batch, and what to log of the update."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that outlives an iteration besides the parameters: tensors, numbers, strings, lists, dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave. Raises ValueError where it does not fit the algorithm."""
