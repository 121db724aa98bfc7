"""The discounting chain: the first action decides how late the reward comes, and one choice gives a little more.

| observation | meaning                                                         |
|-------------|-----------------------------------------------------------------|
| 0           | the chain chosen by the first action; −1 before it              |
| 1           | steps since the start of the episode, as a share of its length  |

| action    | meaning                                                |
|-----------|--------------------------------------------------------|
| 0 … K − 1 | at the first step, choose the chain; later, nothing    |

A chain gives its reward, "reward_chain", once: by default after 1, 3, 10, 30 or 100 steps. It is 1, or 1.1 on the
task's chain with the bonus. So γ decides which chain looks best: with the bonus on the chain of 30 steps, that one
is best if γ²⁹ > 1/1.1, γ > 0.9967. Episodes terminate after 100 steps.

A mode is a chain that has the bonus, and the values of a task are "bonus_chain", its index.

Source: bsuite (Osband et al. 2020), `environments/discounting_chain.py` of google-deepmind/bsuite, where `mapping_seed`
is `bonus_chains` here; with the single chain 3 it is the meta-gradient experiment of Bonnet et al. 2022
(instadeepai/outer-value-function-meta-rl).
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import count, number, whole_numbers
from mmaml.envs.base import Task
from mmaml.envs.discrete import DiscreteFamily, Outcome


class DiscountingChain(DiscreteFamily):
    """reward_steps: after how many steps each of the K chains gives its reward. bonus: how much more the task's chain
    gives. bonus_chains: the chains that have the bonus in some task, each a mode; null: all. length: of an episode.
    """

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        reward_steps: Sequence[int] = (1, 3, 10, 30, 100),
        bonus: float = 0.1,
        bonus_chains: Sequence[int] | None = None,
        length: int = 100,
    ) -> None:
        self.length = count("length", length, maximum=10**6)
        self.reward_steps = whole_numbers("reward_steps", reward_steps, 1, self.length)
        chains = len(self.reward_steps)
        every = range(chains) if bonus_chains is None else bonus_chains
        self.bonus_chains = whole_numbers("bonus_chains", every, 0, chains - 1)
        self.bonus = number("bonus", bonus)
        self.num_modes = len(self.bonus_chains)
        low, high = np.array([-1, 0], np.float32), np.array([chains - 1, 1], np.float32)
        super().__init__(num_tasks, rollouts_per_task, gym.spaces.Box(low, high, dtype=np.float32), chains)
        self._chain, self._time = np.full(self.num_envs, -1), np.zeros(self.num_envs, int)
        self._bonus_chain = np.zeros(self.num_envs)

    def _advance(self, actions: np.ndarray) -> Outcome:
        self._chain = np.where(self._time == 0, actions, self._chain)
        self._time = self._time + 1
        due = self.reward_steps[self._chain] == self._time
        amount = 1 + self.bonus * (self._chain == self._bonus_chain)
        return Outcome({"reward_chain": due * amount}, terminated=self._time == self.length)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes = rng.integers(self.num_modes, size=n)
        return [Task(int(mode), {"bonus_chain": int(self.bonus_chains[mode])}) for mode in modes]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._bonus_chain = self._per_lane(tasks, "bonus_chain", ())

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._chain[lanes], self._time[lanes] = -1, 0

    def _observe(self) -> np.ndarray:
        return np.stack([self._chain, self._time / self.length], axis=1).astype(np.float32)
