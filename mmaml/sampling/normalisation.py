"""Running statistics of observations and rewards, by which a run normalises them.

They are constant while an iteration samples, so that no task depends on another: `Scaling` holds their values, which
are sent with the parameters. The master adds the moments of an iteration's tasks afterwards, in task order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmaml.sampling.advantages import backward_sums
from mmaml.sampling.rollouts import Rollouts

MIN_VARIANCE = 1e-6  # added to each variance: entries that hardly vary are not blown up
OBSERVATIONS, RETURNS = "observations", "returns"


@dataclass(frozen=True)
class Scaling:
    """(observation - mean) / std is seen, mean and std [O]; reward / reward_scale is learned from."""

    mean: Tensor
    std: Tensor
    reward_scale: float

    @staticmethod
    def from_vector(vector: Tensor | None) -> Scaling | None:
        """Of [mean, std, reward_scale], [2·O + 1]; None of None, where nothing is normalised."""
        if vector is None:
            return None
        size = len(vector) // 2
        return Scaling(vector[:size], vector[size:-1], float(vector[-1]))

    def normalised(self, observations: Tensor) -> Tensor:
        """Observations [..., O] as the policy sees them."""
        return (observations - self.mean) / self.std

    def original(self, observations: Tensor) -> Tensor:
        """Normalised observations [..., O] as they were, up to rounding."""
        return observations * self.std + self.mean


class Moments:
    """Number, mean and sum of squared deviations, float64 [S], of vectors, from batches that are merged."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self.squares = 0.0, np.zeros(size), np.zeros(size)

    def add(self, count: float, mean: np.ndarray, squares: np.ndarray) -> None:
        """Merge the moments of a batch (Chan, Golub, LeVeque 1979)."""
        if not count:
            return
        total, difference = self.count + count, mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.squares = self.squares + squares + difference**2 * (self.count * count / total)
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Standard deviation [S]; 1 as long as there is nothing."""
        if not self.count:
            return np.ones_like(self.mean)
        return np.sqrt(self.squares / self.count + MIN_VARIANCE)

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"count": self.count, "mean": torch.from_numpy(self.mean), "squares": torch.from_numpy(self.squares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave. Raises ValueError for moments of vectors of another size."""
        mean, squares = state["mean"].numpy(), state["squares"].numpy()
        if mean.shape != self.mean.shape or squares.shape != self.mean.shape:
            raise ValueError(f"running statistics: expected {len(self.mean)} entries, got {len(mean)}")
        self.count, self.mean, self.squares = float(state["count"]), mean.copy(), squares.copy()


class RunningStatistics:
    """The running statistics of a run, on the master. observations, rewards: whether these are normalised."""

    def __init__(self, observations: bool, rewards: bool, observation_size: int) -> None:
        self.size = observation_size
        self.moments: dict[str, Moments] = {}
        if observations:
            self.moments[OBSERVATIONS] = Moments(observation_size)
        if rewards:
            self.moments[RETURNS] = Moments(1)

    def vector(self) -> Tensor | None:
        """What travels to the ranks, and `Scaling.from_vector` reads; None where nothing is normalised."""
        if not self.moments:
            return None
        of_observations, of_returns = self.moments.get(OBSERVATIONS), self.moments.get(RETURNS)
        mean = np.zeros(self.size) if of_observations is None else of_observations.mean
        std = np.ones(self.size) if of_observations is None else of_observations.std
        scale = np.ones(1) if of_returns is None else of_returns.std
        return torch.from_numpy(np.concatenate([mean, std, scale]).astype(np.float32))

    def update(self, sampled: Mapping[str, np.ndarray]) -> None:
        """Add what an iteration sampled: the entries of `moments_of_tasks`, each of M tasks in their order."""
        for name, moments in self.moments.items():
            batches = (sampled[f"{name}_{part}"] for part in ("count", "mean", "squares"))
            for count, mean, squares in zip(*batches, strict=True):
                moments.add(float(count), mean, squares)

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {name: moments.state_dict() for name, moments in self.moments.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave. Raises ValueError where it is of other statistics."""
        if state.keys() != self.moments.keys():
            raise ValueError(f"running statistics: expected {[*self.moments]}, got {[*state]}")
        for name, moments in self.moments.items():
            moments.load_state_dict(state[name])


def moments_of_tasks(
    collections: Sequence[Rollouts], scaling: Scaling, discount: float, over_trial: bool
) -> dict[str, np.ndarray]:
    """Moments of the real steps of each task, over all collections, float64: count [M], mean and squares [M, S].

    "observations_…": as they were before they were normalised. "returns_…": of the discounted sum of the rewards so
    far, of the episode, or of the lane if `over_trial` (Engstrom et al. 2020, §3, on reward scaling).
    """
    found: dict[str, list[np.ndarray]] = {}
    for task in range(collections[0].tasks):
        own = [data.select(slice(task, task + 1)) for data in collections]
        real = [data.mask[0].numpy() > 0 for data in own]
        seen = [scaling.original(data.observations[0]).numpy()[steps] for data, steps in zip(own, real, strict=True)]
        sums = [_sums_so_far(data, discount, over_trial)[steps] for data, steps in zip(own, real, strict=True)]
        for name, parts in ((OBSERVATIONS, seen), (RETURNS, sums)):
            values = np.concatenate(parts).astype(np.float64).reshape(sum(map(len, parts)), -1)
            mean = values.mean(0)
            for part, value in (("count", len(values)), ("mean", mean), ("squares", ((values - mean) ** 2).sum(0))):
                found.setdefault(f"{name}_{part}", []).append(np.asarray(value, np.float64))
    return {name: np.stack(values) for name, values in found.items()}


def _sums_so_far(data: Rollouts, discount: float, over_trial: bool) -> np.ndarray:
    """G_t = γ G_{t-1} + r_t of one task, [N, T], from 0 at the start of each episode, or of each lane."""
    rewards = np.where(data.mask[0].numpy() > 0, data.rewards[0].numpy(), 0.0).astype(np.float64)
    starts = np.zeros(rewards.shape, bool) if over_trial else data.episode_start[0].numpy()
    return backward_sums(rewards[:, ::-1], discount, starts[:, ::-1])[:, ::-1]  # backward in reversed time
