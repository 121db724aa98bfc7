"""What a policy sees before it acts, and what an actor is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mmaml.policies.distributions import Distribution


class Step(NamedTuple):
    """What a policy may see before it acts: the observation, and what came of its last action.

    observation [M, N, O], previous_action [M, N, A], previous_reward [M, N], episode_start bool [M, N].
    At an episode's start the previous action and reward are those that ended the episode before; zeros at
    the first step of the collection. episode_noise [M, N, L]: standard normal, drawn anew for each episode.
    """

    observation: Tensor
    previous_action: Tensor
    previous_reward: Tensor
    episode_start: Tensor
    episode_noise: Tensor


Actor = Callable[[Step], Distribution]
