"""Memory & Planning game: find out how a board is arranged while walking to one goal after another.

| observation, C = `size`² | meaning                                                       |
|--------------------------|---------------------------------------------------------------|
| 0 … C − 1                | the label of the agent's cell: 1 in the entry of it, else 0   |
| C … 2C − 1               | the label of the goal's cell                                  |

| action  | meaning                                                                             |
|---------|-------------------------------------------------------------------------------------|
| 0 … 4   | up (y + 1), down (y − 1), left (x − 1), right (x + 1), collect, in the task's order |

The board of size · size cells [x, y] has no border: a move out of it enters at the opposite side. Every cell has a
label of its own. To collect on the goal gives 1, "reward_goal", and a new goal, which is any other cell; the agent
stays where it is. An episode begins with the agent in any cell, the goal in any other. It never terminates; in the
published game it takes 100 steps, and is the only one of its trial.

The values of a task are "labels" [C], the label of each cell x · size + y, and "actions" [5], the meaning of each
action: both permutations, all equally likely.

On 4 · 4 cells, 100 steps give on average: 0.9618 to a random policy; 5.1418 to one that moves at random and collects on
the goal, 7.2129 if all of its moves are up or right; 31.6143 to one that knows the task and takes shortest paths
(`shortest_path_goals`). What the best policy gets that has to find out is not known.

Source: Ritter et al. 2021, "Rapid task-solving in novel environments", by its code (`rapid_task_solving` of
deepmind-research). There the actions mean the same in every task: `shuffle_actions` false.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import count, flag
from mmaml.envs.base import Task
from mmaml.envs.discrete import DiscreteFamily, Outcome, one_hot

MOVES = np.array([[0, 1], [0, -1], [-1, 0], [1, 0], [0, 0]])
COLLECT = len(MOVES) - 1


class MemoryPlanningGame(DiscreteFamily):
    """size: cells on a side of the board, at least 2. shuffle_actions: every task has an order of its own of the
    actions' meanings.
    """

    def __init__(
        self, num_tasks: int = 1, rollouts_per_task: int = 1, *, size: int = 4, shuffle_actions: bool = True
    ) -> None:
        self.size = count("size", size, maximum=50)
        if self.size < 2:
            raise ValueError(f"size: expected at least 2, so that there are goals, got {size}")
        self.shuffle_actions = flag("shuffle_actions", shuffle_actions)
        self.labels = self.size**2
        observation_space = gym.spaces.Box(0, 1, (2 * self.labels,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observation_space, len(MOVES))
        self._lanes = np.arange(self.num_envs)
        self._cell = np.zeros((self.num_envs, 2), int)
        self._goal = np.zeros(self.num_envs, int)  # by the index of its cell

    def _advance(self, actions: np.ndarray) -> Outcome:
        meanings = self._meanings[self._lanes, actions]
        self._cell = (self._cell + MOVES[meanings]) % self.size
        here = self._indices()
        collected = (meanings == COLLECT) & (here == self._goal)
        steps_on = self._drawn(lambda rng, n: rng.integers(1, self.labels, n))
        self._goal = np.where(collected, (here + steps_on) % self.labels, self._goal)
        return Outcome({"reward_goal": collected})

    def _indices(self) -> np.ndarray:
        """The index of each agent's cell, [M·N]."""
        return self._cell[:, 0] * self.size + self._cell[:, 1]

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, self._drawn_values(rng)) for _ in range(n)]

    def _drawn_values(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        labels, meanings = rng.permutation(self.labels), rng.permutation(len(MOVES))
        return {"labels": labels, "actions": meanings if self.shuffle_actions else np.arange(len(MOVES))}

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._label = self._per_lane(tasks, "labels", (self.labels,)).astype(int)
        self._meanings = self._per_lane(tasks, "actions", (len(MOVES),)).astype(int)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._cell[lanes] = rng.integers(self.size, size=(len(lanes), 2))
        self._goal[lanes] = (self._indices()[lanes] + rng.integers(1, self.labels, len(lanes))) % self.labels

    def _observe(self) -> np.ndarray:
        shown = (self._label[self._lanes, cells] for cells in (self._indices(), self._goal))
        return np.concatenate([one_hot(label, self.labels) for label in shown], axis=1)


def shortest_path_goals(size: int, steps: int) -> np.ndarray:
    """Goals that a policy that knows the task collects on average in 0 … T steps of an episode, [T + 1]. steps: T."""
    along_an_axis = np.minimum(np.arange(size), size - np.arange(size))
    needed = (along_an_axis[:, None] + along_an_axis).ravel()[1:] + 1  # for each other cell: to walk there and collect
    goals = np.zeros(steps + 1)
    for t in range(1, steps + 1):
        collected = needed[needed <= t]
        goals[t] = (1 + goals[t - collected]).sum() / len(needed)
    return goals
