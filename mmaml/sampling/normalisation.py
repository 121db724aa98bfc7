"""Running statistics of observations and rewards, by which a run normalises them.

They are constant while an iteration samples, so that no task depends on another: `Scaling` holds their values, which
are sent with the parameters. The master adds the moments of an iteration's tasks afterwards, in task order. All is
computed in float64 from what the environment returned; what is normalised becomes float32.
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
MAX_NORMALISED = 10.0  # to which normalised observations are clipped: also before anything is known of their scale
PARTS = 3  # float32 numbers that hold a mean: a single one would round away the changes of, say, a clock
CHUNK = 65_536  # numbers of each task whose moments are taken together
OBSERVATIONS, RETURNS = "observations", "returns"
PARTS_OF_MOMENTS = ("count", "mean", "squares")


@dataclass(frozen=True)
class Scaling:
    """(observation - mean) / std is seen, mean and std [O], float64; reward / reward_scale is learned from."""

    mean: Tensor
    std: Tensor
    reward_scale: float

    @staticmethod
    def from_vector(vector: Tensor | None) -> Scaling | None:
        """Of what `vector` gave; None of None, where nothing is normalised."""
        if vector is None:
            return None
        *parts, std = vector[:-1].double().view(PARTS + 1, -1)
        return Scaling(sum(parts, start=torch.zeros_like(std)), std, float(vector[-1]))

    def vector(self) -> Tensor:
        """As it travels, float32 [4·O + 1]: the mean as a sum of three, the standard deviation, reward_scale."""
        parts, left = [], self.mean.double()
        for _ in range(PARTS):
            parts.append(left.float())
            left = left - parts[-1].double()
        return torch.cat([*parts, self.std.float(), torch.tensor([self.reward_scale], dtype=torch.float32)])

    def normalised(self, observations: Tensor) -> Tensor:
        """Observations [..., O], float32 or float64, as the policy sees them, float32; what is infinite stays so."""
        values = (observations.double() - self.mean) / self.std
        return torch.where(values.isinf(), values, values.clamp(-MAX_NORMALISED, MAX_NORMALISED)).float()

    def renormalised(self, observations: Tensor, vector: Tensor) -> Tensor:
        """Observations [..., O] that the scaling of a vector has normalised, as this one would have; float32.

        To the bit as they are where both are the same. What was clipped is taken for what it was clipped to.
        """
        before = Scaling.from_vector(vector)
        assert before is not None
        values = (observations.double() * before.std + (before.mean - self.mean)) / self.std
        return values.clamp(-MAX_NORMALISED, MAX_NORMALISED).float()

    def original(self, observations: Tensor) -> Tensor:
        """Normalised observations [..., O] as they were, float32, up to rounding and clipping."""
        return (observations.double() * self.std + self.mean).float()


def scaling_size(observation_size: int) -> int:
    """How many numbers `Scaling.vector` has."""
    return (PARTS + 1) * observation_size + 1


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
        scale = 1.0 if of_returns is None else float(of_returns.std[0])
        return Scaling(torch.from_numpy(mean), torch.from_numpy(std), scale).vector()

    def update(self, sampled: Mapping[str, np.ndarray]) -> None:
        """Add what an iteration sampled of M tasks, in order: `ObservedMoments.found` and `moments_of_returns`."""
        for name, moments in self.moments.items():
            batches = (sampled[f"{name}_{part}"] for part in PARTS_OF_MOMENTS)
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


class ObservedMoments:
    """Moments of the observations of M tasks, N lanes each, taken as they come: before they are normalised.

    A task's are computed from its own observations alone, in chunks that do not depend on the others: the same bits on
    any rank.
    """

    def __init__(self, tasks: int, lanes: int, observation_size: int) -> None:
        self._moments = [Moments(observation_size) for _ in range(tasks)]
        self._chunk = max(1, CHUNK // (lanes * observation_size))
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, observations: np.ndarray, real: np.ndarray) -> None:
        """Those of one step, [M, N, O], which are kept. real: which of them count, bool [M, N]."""
        self._waiting.append((observations, real))
        if len(self._waiting) == self._chunk:
            self._merge()

    def found(self) -> dict[str, np.ndarray]:
        """As `RunningStatistics.update` takes them: "observations_…", count [M], mean and squares [M, O]."""
        self._merge()
        return {
            f"{OBSERVATIONS}_{part}": np.stack([np.asarray(getattr(own, part), np.float64) for own in self._moments])
            for part in PARTS_OF_MOMENTS
        }

    def _merge(self) -> None:
        if not self._waiting:
            return
        observations, real = (np.stack(column, axis=1) for column in zip(*self._waiting, strict=True))
        for own, values, counts in zip(self._moments, observations, real, strict=True):
            own.add(*moments_of(values[counts]))
        self._waiting.clear()


def moments_of(values: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """How many vectors [n, S] there are, their mean and their sum of squared deviations, float64 [S]."""
    values = values.astype(np.float64)
    mean = values.mean(0) if len(values) else np.zeros(values.shape[1])
    return float(len(values)), mean, ((values - mean) ** 2).sum(0)


def moments_of_returns(collections: Sequence[Rollouts], discount: float, over_trial: bool) -> dict[str, np.ndarray]:
    """Moments of the returns so far of the real steps of each task, over all collections, float64.

    "returns_…", count [M], mean and squares [M, 1]: of the discounted sum of the rewards so far, of the episode, or of
    the lane if `over_trial` (Engstrom et al. 2020, §3, on reward scaling).
    """
    found: dict[str, list[np.ndarray]] = {f"{RETURNS}_{part}": [] for part in PARTS_OF_MOMENTS}
    for task in range(collections[0].tasks):
        own = [data.select(slice(task, task + 1)) for data in collections]
        sums = [_sums_so_far(data, discount, over_trial)[data.mask[0].numpy() > 0] for data in own]
        for values, moment in zip(found.values(), moments_of(np.concatenate(sums)[:, None]), strict=True):
            values.append(np.asarray(moment, np.float64))
    return {name: np.stack(values) for name, values in found.items()}


def _sums_so_far(data: Rollouts, discount: float, over_trial: bool) -> np.ndarray:
    """G_t = γ G_{t-1} + r_t of one task, [N, T], from 0 at the start of each episode, or of each lane."""
    rewards = np.where(data.mask[0].numpy() > 0, data.rewards[0].numpy(), 0.0).astype(np.float64)
    starts = np.zeros(rewards.shape, bool) if over_trial else data.episode_start[0].numpy()
    return backward_sums(rewards[:, ::-1], discount, starts[:, ::-1])[:, ::-1]  # backward in reversed time
