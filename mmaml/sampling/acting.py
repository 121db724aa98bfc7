"""What a policy sees before it acts, and what an actor is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from mmaml.policies.distributions import Distribution


class Step(NamedTuple):
    """What a policy may see before it acts: the observation, and what came of its last action.

    observation [M, N, O], previous_action [M, N, A], previous_reward [M, N], episode_start bool [M, N].
    At an episode's start the previous action and reward are those that ended the episode before; zeros at
    the first step of the lane. episode_noise [M, N, L]: standard normal, drawn anew for each episode.

    `Rollouts.steps` gives the same of all T steps of a collection, [M, N, T, …].
    """

    observation: Tensor
    previous_action: Tensor
    previous_reward: Tensor
    episode_start: Tensor
    episode_noise: Tensor


# What acts in all lanes of M tasks. It is called once a time step, with what is seen and with what it returned last to
# be carried on, None at the first step of the lanes: a memory that lasts over the episodes of a lane. It keeps nothing
# itself. Returns the distribution of the actions, and what is to be carried on: tensors, tuples of these, or None.
Actor = Callable[[Step, Any], tuple[Distribution, Any]]


def memoryless(distribution: Callable[[Step], Distribution]) -> Actor:
    """The actor that carries nothing on."""
    return lambda step, _: (distribution(step), None)
