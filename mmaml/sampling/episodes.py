"""Episodes that are recorded one step at a time, in any number and of any length, as the rollouts of one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmaml.policies.distributions import Distribution
from mmaml.sampling.rollouts import Rollouts


@dataclass
class Episode:
    """An episode of L steps so far. What the policy was given and put out, and what came of it.

    observations [O], actions [A] as the policy drew them, distributions [1, 1, A], rewards: an entry a step.
    noise [Z]: standard normal numbers that the episode was given. final: the observation [O] after the last step,
    where it is known. terminated, truncated: how it ended; both false while it goes on.
    """

    noise: Tensor
    observations: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    final: Tensor | None = None
    terminated: bool = False
    truncated: bool = False


def rollouts_of(episodes: Sequence[Episode], horizon: int, finite_horizon: bool = False) -> Rollouts:
    """Episodes of a task, each of 1 to `horizon` steps, as rollouts of M = 1 task, without advantages.

    Each episode is a lane of T = `horizon` steps; what is left of a lane is padding, which repeats the last step. An
    episode that goes on is one that the end of its lane cut: what follows it is its `final` observation, or where that
    is not known the last one; and so for one that is truncated, unless its value counts for nothing: finite_horizon.
    """
    lanes = len(episodes)
    lengths = torch.tensor([len(episode.rewards) for episode in episodes])
    steps = torch.arange(horizon)
    shape = (1, lanes, horizon)
    mask = (steps < lengths[:, None]).float().view(shape)
    last = (steps == lengths[:, None] - 1).view(shape)
    terminated, truncated = (
        last & torch.tensor(flags).view(1, lanes, 1)
        for flags in ([e.terminated for e in episodes], [e.truncated for e in episodes])
    )
    finals = [episode.observations[-1] if episode.final is None else episode.final for episode in episodes]
    observations = torch.stack(
        [_padded(e.observations, horizon, final) for e, final in zip(episodes, finals, strict=True)]
    )
    actions = torch.stack([_padded(episode.actions, horizon) for episode in episodes])[None]
    return Rollouts.recorded(
        observations[None],
        actions,
        torch.stack([_padded([*map(torch.tensor, e.rewards)], horizon) for e in episodes])[None].float(),
        _distribution(episodes, horizon),
        mask,
        (steps == 0).expand(shape).clone(),
        terminated,
        truncated,
        torch.stack(finals)[None],
        torch.stack([episode.noise.expand(horizon, -1) for episode in episodes])[None].contiguous(),
        None if finite_horizon else torch.stack(finals)[torch.tensor([e.truncated for e in episodes])],
    )


def _padded(values: Sequence[Tensor], horizon: int, padding: Tensor | None = None) -> Tensor:
    """[T, …]: the values, then `padding`, by default the last of them."""
    padding = values[-1] if padding is None else padding
    return torch.stack([*values, *[padding] * (horizon - len(values))])


def _distribution(episodes: Sequence[Episode], horizon: int) -> Distribution:
    """What distributed the actions of all steps, as acting records it."""
    kind = type(episodes[0].distributions[0])
    fields = [
        torch.cat([_padded([d[index] for d in episode.distributions], horizon) for episode in episodes], dim=2)
        for index in range(len(kind._fields))
    ]  # [T, 1, N, A]
    steps = [kind(*(field[t] for field in fields)) for t in range(horizon)]
    return kind.recorded(steps)  # type: ignore[arg-type]
