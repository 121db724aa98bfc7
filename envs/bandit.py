"""Bandits: find out which of K arms gives most, while pulling.

| observation | meaning            |
|-------------|--------------------|
| 0           | 0: nothing is seen |

| action    | meaning      |
|-----------|--------------|
| 0 … K − 1 | pull the arm |

An episode is one pull and terminates with it, so that a trial of n pulls has `episodes_per_trial` n and
`max_path_length` 1. The reward is what the arm gives, "reward_pull". The values of a task are "means" [K], what each
arm gives on average, independent and uniform in [0, 1].

`bayes_optimal_return` is the best that a trial can give on Bernoulli arms. For 10 pulls it is 6.0218 of 2 arms and
6.6600 of 5; a random policy gets half a reward a pull.

Source: Duan et al. 2016 (RL²), section 3.1, for the Bernoulli arms; the Gaussian ones are those of
tristandeleu/pytorch-maml-rl (`maml_rl/envs/bandit.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import count, number
from mmaml.envs.base import Task
from mmaml.envs.discrete import DiscreteFamily, Outcome


class Bandit(DiscreteFamily):
    """The base of both. arms: K."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, arms: int = 5) -> None:
        self.arms = count("arms", arms, maximum=1000)
        super().__init__(num_tasks, rollouts_per_task, gym.spaces.Box(0, 1, (1,), np.float32), self.arms)
        self._means = np.zeros((self.num_envs, self.arms))
        self._lanes = np.arange(self.num_envs)

    def _advance(self, actions: np.ndarray) -> Outcome:
        rewards = self._pulled(self._means[self._lanes, actions])
        return Outcome({"reward_pull": rewards}, terminated=np.ones(self.num_envs, bool))

    @abstractmethod
    def _pulled(self, means: np.ndarray) -> np.ndarray:
        """What arms give that give `means` [M·N] on average."""

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"means": means}) for means in rng.uniform(0, 1, (n, self.arms))]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._means = self._per_lane(tasks, "means", (self.arms,))

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        pass  # every pull is the first of its episode

    def _observe(self) -> np.ndarray:
        return np.zeros((self.num_envs, 1), np.float32)


class BernoulliBandit(Bandit):
    """An arm gives 1 with a probability that is its mean, else 0."""

    def _pulled(self, means: np.ndarray) -> np.ndarray:
        return self._drawn(lambda rng, n: rng.random(n)) < means


class GaussianBandit(Bandit):
    """An arm gives its mean + N(0, std²)."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, arms: int = 5, std: float = 1.0) -> None:
        self.std = number("std", std)
        super().__init__(num_tasks, rollouts_per_task, arms=arms)

    def _pulled(self, means: np.ndarray) -> np.ndarray:
        return means + self.std * self._drawn(lambda rng, n: rng.standard_normal(n))


def bayes_optimal_return(arms: int, pulls: int) -> float:
    """The largest expected sum of rewards of a trial of `pulls` pulls of Bernoulli arms with means U(0, 1).

    By dynamic programming over how often each arm gave 1 and 0. The number of states grows as pulls^(2·arms) / arms!:
    a moment for 2 arms and 20 pulls, or for 5 arms and 10 pulls.
    """

    @cache
    def value(counts: tuple[tuple[int, int], ...], left: int) -> float:
        """counts: of every arm, how often it gave 1 and 0, sorted: arms with equal counts are equal."""
        best = 0.0
        for arm in range(arms) if left else ():
            if arm and counts[arm] == counts[arm - 1]:
                continue
            ones, zeros = counts[arm]
            mean = (ones + 1) / (ones + zeros + 2)
            others = counts[:arm] + counts[arm + 1 :]
            won, lost = (tuple(sorted((*others, after))) for after in ((ones + 1, zeros), (ones, zeros + 1)))
            best = max(best, mean * (1 + value(won, left - 1)) + (1 - mean) * value(lost, left - 1))
        return best

    return value(((0, 0),) * arms, pulls)
