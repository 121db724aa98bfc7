"""The episodes of a user's loop, which run in lanes: acting in them, recording them, and what each lane remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmaml.errors import UsageError
from mmaml.policies.distributions import Distribution
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.episodes import Episode
from mmaml.sampling.finite import first_not_finite
from mmaml.storage.packing import packed, unpacked

# Remedies where numbers are not finite: of a policy that adapts by inner steps, and of one that remembers.
TOO_FAR = "load the policy with a lower inner_lr, or adapt from more episodes"
TOO_LARGE = "give observations and rewards of the size that they had in training"


class Sizes(NamedTuple):
    """What the lanes of a policy have in common.

    actions: what distributes them; action: A, numbers of an action; noise: numbers that an episode draws. horizon: T,
    steps after which an episode is over. remembers: whether the policy adapts by remembering what is recorded.
    """

    actions: type[Distribution]
    action: int
    noise: int
    horizon: int
    remembers: bool


@dataclass
class _Lane:
    """An episode that runs. recorded: false once a step of it was acted and not recorded; over: whether it has ended.

    Of the lane, whichever episode they were of: action [A] and reward, the last ones, zeros at first; memory: what the
    policy carries on, None at first and for one that has none.
    """

    episode: Episode
    action: Tensor
    reward: float = 0.0
    memory: Any = None
    recorded: bool = True
    over: bool = False


class _Acted(NamedTuple):
    """What `act` did last and `record` has not seen: for each of n lanes [O], [A], [1, 1, A] and its memory."""

    lanes: Sequence[int]
    observations: Tensor
    actions: Tensor
    distributions: Sequence[Distribution]
    memories: Sequence[Any]


class Lanes:
    """Episodes that run at the same time, by the number of their lane.

    actor: how the policy acts. episodes: those of which steps were recorded, in the order of their beginnings; none of
    a policy that remembers.
    """

    def __init__(self, actor: Actor, sizes: Sizes) -> None:
        self.actor, self._sizes = actor, sizes
        self.episodes: list[Episode] = []
        self._lanes: dict[int, _Lane] = {}
        self._acted: _Acted | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a pickle, which cannot hold the actor: a function, which whoever unpickles sets anew."""
        return {name: value for name, value in vars(self).items() if name != "actor"}

    @property
    def acted(self) -> Sequence[int]:
        """The lanes of the last `act`, as long as it is not recorded; else none."""
        return () if self._acted is None else self._acted.lanes

    def act(
        self, observations: Tensor, lanes: Sequence[int], deterministic: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """Actions [n, A] in n lanes, of observations [n, O] as the policy sees them.

        Raises UsageError for actions, or logits of them, that are not finite, and where an episode is recorded in
        parts.
        """
        self._leave_unrecorded()
        self._begin_episodes(lanes, deterministic, rng)
        shape = (len(lanes), self._sizes.action)
        noise = np.zeros(shape, np.float32) if deterministic else self._sizes.actions.draw_noise(rng, shape)
        with torch.no_grad():
            actions, distributions, memories = self._drawn(observations, lanes, torch.from_numpy(noise))
        for name, numbers in (("action", actions), ("distribution", torch.cat([of[0][0] for of in distributions]))):
            if (where := first_not_finite(numbers)) is not None:
                raise UsageError("act", f"{name}{where}", TOO_LARGE if self._sizes.remembers else TOO_FAR)
        self._acted = _Acted(lanes, observations, actions, distributions, memories)
        return actions.numpy()

    def record(
        self, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, following: Tensor | None
    ) -> np.ndarray:
        """Record what came of the last `act` in each of its n lanes; which episodes are over, bool [n].

        rewards: [n]; terminated, truncated: bool [n]. following: the next observations, [n, O]. Raises UsageError where
        steps of an episode before this one were not recorded.
        """
        acted = self._acted
        assert acted is not None
        for index in acted.lanes:
            if not self._lanes[index].recorded:
                raise UsageError(
                    "record",
                    "steps before this one were not recorded",
                    "record every step of an episode, and call start_episode where one begins without record",
                )
        self._acted = None
        over = np.zeros(len(acted.lanes), bool)
        for row, index in enumerate(acted.lanes):
            lane = self._lanes[index]
            episode = lane.episode
            if not episode.rewards and not self._sizes.remembers:
                self.episodes.append(episode)
            episode.observations.append(acted.observations[row])
            episode.actions.append(acted.actions[row])
            episode.distributions.append(acted.distributions[row])
            episode.rewards.append(float(rewards[row]))
            episode.final = None if following is None else following[row]
            episode.terminated = bool(terminated[row])
            full = len(episode.rewards) == self._sizes.horizon
            episode.truncated = bool(truncated[row]) or (full and not episode.terminated)
            lane.action, lane.reward, lane.memory = acted.actions[row], float(rewards[row]), acted.memories[row]
            lane.over = over[row] = episode.terminated or episode.truncated
        return over

    def start_episode(self, lanes: Sequence[int] | None) -> None:
        """Let the next `act` begin an episode: of some lanes, or of all when None."""
        self._acted = None
        for lane in self._lanes if lanes is None else lanes:
            if lane in self._lanes:
                self._lanes[lane].over = True

    def memories(self) -> list[dict[str, Any]]:
        """What the lanes carry on, as plain values for a file; the episodes that run are left out."""
        return [
            {"lane": index, "action": lane.action, "reward": lane.reward, "memory": packed(lane.memory)}
            for index, lane in self._lanes.items()
            if lane.memory is not None
        ]

    def remember(self, memories: Sequence[Mapping[str, Any]]) -> None:
        """Carry on what `memories` gave, in the next episodes. Raises what `TrainedPolicy.restore` does."""
        self._acted = None
        for lane in memories:
            none = Episode(torch.zeros(self._sizes.noise))
            memory, action, reward = unpacked(lane["memory"]), lane["action"], float(lane["reward"])
            if action.shape != (self._sizes.action,):
                raise ValueError(f"expected an action [{self._sizes.action}], got {list(action.shape)}")
            self._lanes[int(lane["lane"])] = _Lane(none, action, reward, memory, over=True)

    def _leave_unrecorded(self) -> None:
        """Forget a step that was acted and not recorded: no part of an episode that is."""
        for index in self._acted.lanes if self._acted is not None else ():
            lane = self._lanes[index]
            if lane.episode.rewards or self._sizes.remembers:
                why = "the policy remembers rewards" if self._sizes.remembers else "steps of this episode are recorded"
                raise UsageError(
                    "act",
                    expected=f"record(reward) first, since {why}",
                    got="an act that is not recorded",
                    remedy="record every step" + ("" if self._sizes.remembers else " of an episode, or none"),
                )
            lane.recorded = False
        self._acted = None

    def _begin_episodes(self, lanes: Sequence[int], deterministic: bool, rng: np.random.Generator) -> None:
        new = [lane for lane in lanes if lane not in self._lanes or self._lanes[lane].over]
        shape = (len(new), self._sizes.noise)
        noise = np.zeros(shape) if deterministic or 0 in shape else rng.standard_normal(shape)
        for lane, numbers in zip(new, torch.from_numpy(noise.astype(np.float32)), strict=True):
            before = self._lanes.get(lane)
            if before is None:
                self._lanes[lane] = _Lane(Episode(numbers), torch.zeros(self._sizes.action))
            else:
                self._lanes[lane] = _Lane(Episode(numbers), before.action, before.reward, before.memory)

    def _drawn(self, observations: Tensor, lanes: Sequence[int], noise: Tensor) -> tuple[Tensor, list[Any], list[Any]]:
        """Actions [n, A] that the noise selects, and for each lane what distributed its own, and what it carries on.

        Lanes that carry nothing yet act apart from the others: an actor gets one carry, or None, for all its lanes.
        """
        actions = torch.empty_like(noise)
        distributions: list[Any] = [None] * len(lanes)
        memories: list[Any] = [None] * len(lanes)
        is_new = [self._lanes[lane].memory is None for lane in lanes]
        for group in {*is_new}:
            rows = [row for row, new in enumerate(is_new) if new is group]
            own = [lanes[row] for row in rows]
            before = None if group else joined([self._lanes[lane].memory for lane in own])
            distribution, after = self.actor(self._step(observations[rows], own), before)
            actions[rows] = distribution.sample(noise[rows][None])[0]
            for index, row in enumerate(rows):
                distributions[row] = type(distribution)(*(_of_lane(value, index) for value in distribution))
                memories[row] = part(after, index)
        return actions, distributions, memories

    def _step(self, observations: Tensor, lanes: Sequence[int]) -> Step:
        """What the policy sees, of M = 1 task."""
        running = [self._lanes[lane] for lane in lanes]
        starts = [lane.recorded and not lane.episode.rewards for lane in running]
        return Step(
            observations[None],
            torch.stack([lane.action for lane in running])[None],
            torch.tensor([[lane.reward for lane in running]], dtype=torch.float32),
            torch.tensor([starts]),
            torch.stack([lane.episode.noise for lane in running])[None],
        )


def _of_lane(value: Tensor, lane: int) -> Tensor:
    """[1, n or 1, A] -> [1, 1, A]."""
    return value[:, lane : lane + 1] if value.shape[1] > 1 else value


def part(memory: Any, lane: int) -> Any:
    """What one lane carries on of what n lanes do: of tensors [1, n, …], in tuples or not, those [1, 1, …]."""
    if isinstance(memory, tuple):
        return tuple(part(item, lane) for item in memory)
    return None if memory is None else memory[:, lane : lane + 1]


def joined(memories: Sequence[Any]) -> Any:
    """What several lanes carry on, together: the reverse of `part`."""
    if isinstance(memories[0], tuple):
        return tuple(joined(items) for items in zip(*memories, strict=True))
    return None if memories[0] is None else torch.cat(list(memories), 1)
