"""GridNavi: find a goal in a grid, then go straight to it in the episodes that follow.

| observation | meaning                                 |
|-------------|-----------------------------------------|
| 0, 1        | column x and row y of the agent, from 0 |

| action | meaning                    |
|--------|----------------------------|
| 0      | stay                       |
| 1, 2   | up (y + 1), right (x + 1)  |
| 3, 4   | down (y − 1), left (x − 1) |

A move out of the grid leaves the agent where it is. The reward, "reward_goal", is 1 if the agent is on the goal after
the move, which is a success, else −0.1. Episodes begin in (0, 0) and never terminate; in the published experiments they
take 15 steps, and a trial 4 episodes.

The values of a task are "goal" [2], a cell [x, y], uniform over those that are not within a diagonal step of the start.

In that setting the best policy for an unknown goal gets 4.0 in the first episode and 155/14 = 11.07 in each of the
others, 37.21 a trial; standing still gives −1.5 an episode.

Source: Zintgraf et al. 2020 (VariBAD), `environments/navigation/gridworld.py` of lmzintgraf/varibad. There, the
observation also has a flag that an episode has ended, which policies with a memory get from the sampler here.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import count
from mmaml.envs.base import Task
from mmaml.envs.discrete import GOAL, NORMAL, GridFamily, Outcome

MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
ON_GOAL, ELSEWHERE = 1.0, -0.1


class GridNavi(GridFamily):
    """size: cells on a side of the grid, at least 3."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, size: int = 5) -> None:
        self.size = count("size", size, maximum=100)
        if self.size < 3:
            raise ValueError(f"size: expected at least 3, so that there are goals, got {size}")
        observation_space = gym.spaces.Box(0, self.size - 1, (2,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observation_space, len(MOVES))
        self._cell = np.zeros((self.num_envs, 2), int)
        self._goal = np.zeros((self.num_envs, 2))

    def goals(self) -> np.ndarray:
        """The cells in which a goal can be, [goals, 2]."""
        cells = np.indices((self.size, self.size)).reshape(2, -1).T
        return cells[cells.max(1) > 1]

    def tiles(self, task: Task) -> np.ndarray:
        board = np.full((self.size, self.size), NORMAL)
        board[tuple(np.asarray(task.values["goal"], int))] = GOAL
        return board

    def cells(self, observations: np.ndarray) -> np.ndarray:
        return observations.round().astype(int)

    def cell_observations(self) -> np.ndarray:
        return np.moveaxis(np.indices((self.size, self.size)), 0, -1).astype(np.float32)

    def _advance(self, actions: np.ndarray) -> Outcome:
        self._cell = np.clip(self._cell + MOVES[actions], 0, self.size - 1)
        reached = (self._cell == self._goal).all(1)
        return Outcome({"reward_goal": np.where(reached, ON_GOAL, ELSEWHERE)}, success=reached)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"goal": goal}) for goal in rng.choice(self.goals(), n)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = self._per_lane(tasks, "goal", (2,))

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._cell[lanes] = 0

    def _observe(self) -> np.ndarray:
        return self._cell.astype(np.float32)
