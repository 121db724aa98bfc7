"""Rollouts of M tasks: dense arrays [M, N, T, …], episodes marked by flags.

A task has N lanes of T = E·H steps: E episodes of at most H steps, one after another, which is a trial; E is 1 for
algorithms without a memory. `collect: "lanes"`: where an episode terminates, the lane starts another, until it is full.
`collect: "episodes"`: exactly E episodes a lane; the steps after the last are padding, `mask` 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmaml.policies.distributions import DISTRIBUTIONS, Distribution
from mmaml.sampling.acting import Step

# The `Rollouts.fields` that have no axis of steps. Shapes do not show it: O may be equal to T.
NOT_OF_STEPS = frozenset({"log_std", "final_observations", "task_index", "identity", "blow_ups"})


@dataclass
class Rollouts:
    """What one collection gathers for M tasks. float32 except for the flags, contiguous.

    observations [M, N, T, O] as the policy saw them, actions [M, N, T, A] as it drew them, rewards [M, N, T]
    distribution [M, N, T, A]: what sampled the actions; log_probs [M, N, T]: of the actions
    mask [M, N, T]: 1 on real steps, 0 on padding; weights: mask / (real steps of the task)
    episode_start, terminated, truncated, episode_end: bool [M, N, T]. truncated: the horizon or the environment's own
        limit. episode_end: the last real step of an episode, also of one that the end of its lane cut.
    final_observations [M, N, O]: what follows the last step of each lane
    followed [n, O]: what followed each of the n `truncated` steps, in the order of task, lane and step, where its value
        counts (`mmaml.sampling.advantages`). None where it counts for nothing, since the horizon is finite. Only
        advantages need it: rollouts that are taken from others, or travel, have None.
    advantages, value_targets [M, N, T]: as `Algorithm.advantages` gives them, 0 before
    values_after [M, N, T, V]: as `Algorithm.values_after` gives them; None for most algorithms
    success [M, N, T]: 1 where the family reports success, NaN where it reports none
    episode_noise [M, N, T, L]: standard normal, constant within an episode; L is the algorithm's, 0 for most
    task_index [M]: of each task in its meta-batch; identity [M]: in a finite set of training tasks, or -1
    blow_ups [M]: how often the physics of a lane blew up, padding included; NaN where there is no physics
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    distribution: Distribution
    log_probs: Tensor
    mask: Tensor
    weights: Tensor
    episode_start: Tensor
    terminated: Tensor
    truncated: Tensor
    episode_end: Tensor
    final_observations: Tensor
    advantages: Tensor
    value_targets: Tensor
    episode_noise: Tensor
    task_index: Tensor
    identity: Tensor
    success: Tensor
    blow_ups: Tensor
    followed: Tensor | None = None
    values_after: Tensor | None = None

    @staticmethod
    def recorded(
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        distribution: Distribution,
        mask: Tensor,
        episode_start: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        final_observations: Tensor,
        episode_noise: Tensor,
        followed: Tensor | None = None,
    ) -> Rollouts:
        """What acting has recorded, with what follows from it. Advantages and value targets are still 0.

        Tasks are numbered from 0, without an identity among training tasks; success and blow-ups are unknown (NaN).
        """
        shape = mask.shape
        return Rollouts(
            observations=observations,
            actions=actions,
            rewards=rewards,
            distribution=distribution,
            log_probs=distribution.log_prob(actions),
            mask=mask,
            weights=_weights(mask),
            episode_start=episode_start,
            terminated=terminated,
            truncated=truncated,
            episode_end=terminated | truncated | _last_of_lane(mask),
            final_observations=final_observations,
            advantages=torch.zeros(shape),
            value_targets=torch.zeros(shape),
            episode_noise=episode_noise,
            task_index=torch.arange(shape[0]),
            identity=torch.full(shape[:1], -1),
            success=torch.full(shape, torch.nan),
            blow_ups=torch.full(shape[:1], torch.nan),
            followed=followed,
        )

    @property
    def tasks(self) -> int:
        """M."""
        return self.observations.shape[0]

    def flat(self, name: str) -> Tensor:
        """One field with rollouts and steps flattened: [M, N·T, …]."""
        return getattr(self, name).flatten(1, 2)

    def flat_distribution(self) -> Distribution:
        """The sampling distribution of every step, [M, N·T, A]."""
        return type(self.distribution)(*(value.flatten(1, 2) for value in self.distribution))

    def times(self) -> Tensor:
        """Steps since the start of the episode that each step belongs to: [M, N, T]."""
        index = torch.arange(self.rewards.shape[-1], device=self.rewards.device)
        return index - (index * self.episode_start).cummax(-1).values

    def last_of_lane(self) -> Tensor:
        """The last real step of each lane: bool [M, N, T]."""
        return _last_of_lane(self.mask)

    def experience(self) -> Tensor:
        """[o, a, r] of every step, which an encoder of the task reads: [M, N, T, O+A+1]."""
        return torch.cat([self.observations, self.actions, self.rewards.unsqueeze(-1)], dim=-1)

    def steps(self) -> Step:
        """What the policy saw before each step, [M, N, T, …]: the tensors that `Step` held as it acted."""
        return Step(
            self.observations,
            _one_later(self.actions)[:, :, :-1],
            _one_later(self.rewards)[:, :, :-1],
            self.episode_start,
            self.episode_noise,
        )

    def going_on(self, steps: Tensor) -> Rollouts:
        """As if episodes had gone on after some steps, truncated or last of their lane: [M, N, T+1, …].

        What followed, and would have been seen then, is at the step after, in the place of the next episode's start or
        of padding. What comes later is of no meaning until another episode starts. steps: bool [M, N, T].
        """
        after = _one_later(steps)
        fields = {
            name: value if name in NOT_OF_STEPS else torch.cat([value, torch.zeros_like(value[:, :, :1])], 2)
            for name, value in self.fields().items()
        }
        fields["observations"][:, :, -1] = self.final_observations
        if self.followed is not None:
            fields["observations"][_one_later(steps & self.truncated)] = self.followed[steps[self.truncated]]
        fields["episode_start"] &= ~after
        fields["episode_noise"][after] = self.episode_noise[steps]
        return Rollouts.from_fields(fields)

    def episode_numbers(self) -> Tensor:
        """Which episode of its lane each step belongs to, from 0 on: [M, N, T]."""
        return self.episode_start.cumsum(-1) - 1

    def episode(self, number: int, horizon: int) -> Rollouts:
        """One episode of every lane, [M, N, H, …], padded behind its end; all padding in lanes that have none.

        number: of the episode in its lane, from 0 on. horizon: H, steps of the longest.
        """
        inside = (self.episode_numbers() == number) & (self.mask > 0)
        first = inside.int().argmax(-1, keepdim=True)
        index = (first + torch.arange(horizon)).clamp(max=self.rewards.shape[-1] - 1)
        inside = inside.gather(-1, index) & (first + torch.arange(horizon) < self.rewards.shape[-1])

        def cut(value: Tensor) -> Tensor:
            where = index if value.dim() == 3 else index[..., None].expand(*index.shape, value.shape[3])
            return value.gather(2, where)

        fields = {name: value if name in NOT_OF_STEPS else cut(value) for name, value in self.fields().items()}
        for name in ("episode_start", "terminated", "truncated", "episode_end"):
            fields[name] = fields[name] & inside
        mask = inside.to(self.mask.dtype)
        return Rollouts.from_fields(fields | {"mask": mask, "weights": _weights(mask)})

    def select(self, index: slice | Tensor) -> Rollouts:
        """The rollouts of some tasks."""
        chosen = index if isinstance(index, slice) else index.to(self.rewards.device)  # once, for all tensors
        return self._map(lambda value: value[chosen])

    def lanes(self, index: slice | Sequence[int]) -> Rollouts:
        """Some lanes of every task, with the weights of their steps as they are among all lanes."""
        chosen = index if isinstance(index, slice) else torch.tensor(index, device=self.rewards.device)
        per_lane = {name for name, value in self.fields().items() if value.shape[1:2] == self.rewards.shape[1:2]}
        return Rollouts.from_fields(
            {name: value[:, chosen] if name in per_lane else value for name, value in self.fields().items()}
        )

    def only_lanes(self, index: Sequence[int]) -> Rollouts:
        """Some lanes of every task, as rollouts of their own."""
        cut = self.lanes(list(index))
        return dataclasses.replace(cut, weights=_weights(cut.mask))

    def to(self, device: torch.device | str) -> Rollouts:
        """The rollouts on another device."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Rollouts:
        return Rollouts.from_fields({name: function(value) for name, value in self.fields().items()})

    def fields(self) -> dict[str, Tensor]:
        """All tensors that are not None, by name, without `followed`; those of the distribution by their names."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["followed"]
        if self.values_after is None:
            del values["values_after"]
        return values | values.pop("distribution")._asdict()

    @staticmethod
    def concatenate(blocks: Sequence[Rollouts]) -> Rollouts:
        """The tasks of several blocks, in their order."""
        if len(blocks) == 1:
            return blocks[0]
        fields = [block.fields() for block in blocks]
        return Rollouts.from_fields({name: torch.cat([each[name] for each in fields]) for name in fields[0]})

    @staticmethod
    def from_fields(fields: Mapping[str, Tensor]) -> Rollouts:
        """Rollouts of what `fields` gave, in files of version 0.1 too."""
        if "position" in fields:
            fields = {"task_index" if name == "position" else name: value for name, value in fields.items()}
        kind = next(kind for kind in DISTRIBUTIONS if set(kind._fields) <= set(fields))
        others = {name: value for name, value in fields.items() if name not in kind._fields}
        return Rollouts(**others, distribution=kind(*(fields[name] for name in kind._fields)))  # type: ignore[arg-type]


def _weights(mask: Tensor) -> Tensor:
    """1 / (real steps of the task) on real steps, 0 on padding: [M, N, T]."""
    return mask / mask.sum((1, 2), keepdim=True).clamp(min=1)


def _last_of_lane(mask: Tensor) -> Tensor:
    real = mask > 0
    follows = torch.cat([real[..., 1:], torch.zeros_like(real[..., :1])], -1)
    return real & ~follows


def _one_later(values: Tensor) -> Tensor:
    """Values [M, N, T, …] one step later, [M, N, T+1, …]: those of the step before; zeros at the first."""
    return torch.cat([torch.zeros_like(values[:, :, :1]), values], 2)
