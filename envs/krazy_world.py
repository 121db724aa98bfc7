"""Krazy World: a grid of goals, ice, transporters, energy and death, of which only the cells nearby are seen.

A board has size · size cells [x, y]. Every cell is a tile:

| tile           | what happens to an agent that is on it after a move                                      |
|----------------|------------------------------------------------------------------------------------------|
| 0, normal      | nothing                                                                                  |
| 1, goal        | a reward of 1, "reward_goal"; the tile becomes normal                                    |
| 2, transporter | it is moved to the other transporter of the pair                                         |
| 3, death       | the episode terminates                                                                   |
| 4, ice         | it moves on in the same direction, for nothing, until it is on no ice or at the border   |
| 5, energy      | `energy_gain` more moves; the tile becomes normal                                        |

A move out of the board leaves the agent where it is, and what holds for its tile happens again. Each action takes one
of the `energy` moves that an agent has at the start; with the last one the episode terminates. Success: all goals of
the board are reached. An episode begins with the board as it was, and the agent on the task's start.

| observation, S = `size` | meaning                                                                               |
|-------------------------|---------------------------------------------------------------------------------------|
| 0 … S − 1               | x of the agent: 1 in the entry of its index, else 0                                   |
| S … 2S − 1              | y of the agent                                                                        |
| the others              | 6 entries a cell, 1 in that of its tile, else 0: of the 8 cells around the agent (all |
|                         | 0 beyond the border), or of all cells with `view` "global"                            |

| action | meaning, unless `shuffle_actions` |
|--------|-----------------------------------|
| 0, 1   | right (x + 1), left (x − 1)       |
| 2, 3   | up (y + 1), down (y − 1)          |

The values of a task: "board" [S, S], the tile at each x, y; "start" [2]; "transporters" [pairs, 2, 2], which belong
together; "actions" [4], the direction of each action; "tiles" [6], in which entry of an observation each tile is shown.
All arrangements of tiles are equally likely, but goals are drawn last, among the free cells that are more than
`goal_distance` steps from the start. The start is a normal tile.

Source: Stadie et al. 2018 (E-MAML and E-RL²), by krazyworld 2.0 (`krazy_gridworld.py` of bstadie/krazyworld, commit
14fedb5, and its README), with the numbers of its example. It is not known to us which of its settings the paper's
experiments had: size of the view, whether actions and tiles were shuffled, the horizon; they trained on 32 boards and
tested on 64 others. Different on purpose from that code: observations are one vector of the same facts instead of a
picture or a grid of codes; ice costs no moves, as its README says (the code takes one a cell); tiles are drawn without
two on one cell and with the last row and column; the distance of goals is measured from the start, not from a corner.
The first version of the code also had walls with a door and a key, which 2.0 names but never draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import choice, count, flag, number
from mmaml.envs.base import Task
from mmaml.envs.discrete import (
    DEATH,
    ENERGY,
    GOAL,
    ICE,
    NORMAL,
    TILES,
    TRANSPORTER,
    GridFamily,
    Outcome,
    one_hot,
)

DIRECTIONS = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
AROUND = np.array([[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)])
VIEWS = ("local", "global")
ENDLESS = 2**31  # moves, for an agent that needs no energy


class KrazyWorld(GridFamily):
    """size: cells on a side. goals, transporters: how many, and how many pairs. death, ice, energy_cells: shares of the
    cells that are such tiles. energy: moves at the start, null: endless. energy_gain: see the tiles. goal_distance: see
    the tasks. view: "local" or "global". shuffle_actions, shuffle_tiles: every task has an order of its own of the
    actions' directions, and of the entries that show tiles.
    """

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        size: int = 10,
        goals: int = 3,
        transporters: int = 1,
        death: float = 0.08,
        ice: float = 0.05,
        energy_cells: float = 0.05,
        energy: int | None = 50,
        energy_gain: int = 8,
        goal_distance: int = 2,
        view: str = "local",
        shuffle_actions: bool = False,
        shuffle_tiles: bool = False,
    ) -> None:
        self.size = count("size", size, maximum=50)
        self.goals = count("goals", goals)
        self.transporters = _from_0("transporters", transporters)
        self.tile_counts = {
            tile: int(_share(name, share) * self.size**2)
            for tile, name, share in (
                (DEATH, "death", death),
                (ICE, "ice", ice),
                (ENERGY, "energy_cells", energy_cells),
            )
        }
        self.energy = ENDLESS if energy is None else count("energy", energy, maximum=10**6)
        self.energy_gain = count("energy_gain", energy_gain, maximum=10**6)
        self.goal_distance = _from_0("goal_distance", goal_distance)
        self.view = choice("view", view, VIEWS)
        self.shuffle_actions = flag("shuffle_actions", shuffle_actions)
        self.shuffle_tiles = flag("shuffle_tiles", shuffle_tiles)
        self._check_room()
        seen = len(AROUND) if self.view == "local" else self.size**2
        observation_space = gym.spaces.Box(0, 1, (2 * self.size + len(TILES) * seen,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observation_space, len(DIRECTIONS))
        self._lanes = np.arange(self.num_envs)
        self._cell = np.zeros((self.num_envs, 2), int)
        self._moves_left, self._goals_left = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
        # A border of tiles that are none, so that cells beyond the board can be looked at.
        self._board = np.full((self.num_envs, self.size + 2, self.size + 2), len(TILES), np.int8)

    def tiles(self, task: Task) -> np.ndarray:
        return np.asarray(task.values["board"], int)

    def cells(self, observations: np.ndarray) -> np.ndarray:
        by_axis = observations[..., : 2 * self.size].reshape(*observations.shape[:-1], 2, self.size)
        return by_axis.argmax(-1)

    def _check_room(self) -> None:
        """Raise ValueError if the tiles may not fit, wherever the start is."""
        nearby = 2 * self.goal_distance * (self.goal_distance + 1)
        needed = 1 + nearby + self.goals + 2 * self.transporters + sum(self.tile_counts.values())
        if needed > self.size**2:
            raise ValueError(
                f"size: expected at least {needed} cells for the start, the cells within goal_distance, and the other "
                f"tiles, got {self.size} · {self.size}"
            )

    def _advance(self, actions: np.ndarray) -> Outcome:
        directions = DIRECTIONS[self._directions[self._lanes, actions]]
        self._moves_left -= 1
        reached, dead = np.zeros(self.num_envs, int), np.zeros(self.num_envs, bool)
        moving = arrived = np.ones(self.num_envs, bool)
        while moving.any():
            aimed = self._cell + directions
            moving = moving & ((aimed >= 0) & (aimed < self.size)).all(1)
            self._cell = np.where(moving[:, None], aimed, self._cell)
            tile = np.where(arrived, self._tiles_at(self._cell), NORMAL)
            reached += tile == GOAL
            dead |= tile == DEATH
            self._moves_left += self.energy_gain * (tile == ENERGY)
            self._remove((tile == GOAL) | (tile == ENERGY))
            self._transport(tile == TRANSPORTER)
            moving = arrived = moving & (tile == ICE)
        self._goals_left -= reached
        dead |= self._moves_left < 1
        return Outcome({"reward_goal": reached}, terminated=dead, success=self._goals_left == 0)

    def _tiles_at(self, cells: np.ndarray) -> np.ndarray:
        """The tile at one cell of each lane, or more, [M·N, …]; cells [M·N, …, 2], at most one beyond the border."""
        lanes = self._lanes.reshape(-1, *[1] * (cells.ndim - 2))
        return self._board[lanes, cells[..., 0] + 1, cells[..., 1] + 1]

    def _remove(self, lanes: np.ndarray) -> None:
        """Make normal the tile that the agent is on, in lanes, bool [M·N]."""
        x, y = self._cell[lanes].T + 1
        self._board[lanes, x, y] = NORMAL

    def _transport(self, lanes: np.ndarray) -> None:
        """Move the agent from one transporter to the other, in lanes, bool [M·N]."""
        for lane in np.flatnonzero(lanes):
            pairs = self._pairs[lane]
            pair, end = np.argwhere((pairs == self._cell[lane]).all(2))[0]
            self._cell[lane] = pairs[pair, 1 - end]

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, self._drawn_values(rng)) for _ in range(n)]

    def _drawn_values(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        cells = rng.permutation(np.indices((self.size, self.size)).reshape(2, -1).T)
        board = np.full((self.size, self.size), NORMAL)
        start, free = cells[0], cells[1:]
        for tile, number_of in ((TRANSPORTER, 2 * self.transporters), *self.tile_counts.items()):
            board[tuple(free[:number_of].T)] = tile
            if tile == TRANSPORTER:
                pairs = free[:number_of].reshape(-1, 2, 2)
            free = free[number_of:]
        far = free[np.abs(free - start).sum(1) > self.goal_distance]
        board[tuple(far[: self.goals].T)] = GOAL
        orders = [rng.permutation(size) for size in (len(DIRECTIONS), len(TILES))]
        actions = orders[0] if self.shuffle_actions else np.arange(len(DIRECTIONS))
        tiles = orders[1] if self.shuffle_tiles else np.arange(len(TILES))
        return {"board": board, "start": start, "transporters": pairs, "actions": actions, "tiles": tiles}

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        shapes = {
            "board": (self.size, self.size),
            "start": (2,),
            "transporters": (self.transporters, 2, 2),
            "actions": (len(DIRECTIONS),),
            "tiles": (len(TILES),),
        }
        values = {name: self._per_lane(tasks, name, shape).astype(int) for name, shape in shapes.items()}
        self._boards, self._starts, self._pairs, self._directions = list(values.values())[:4]
        # What is seen of each tile, and of none: [M·N, tiles + 1, tiles].
        beyond = np.zeros((self.num_envs, 1, len(TILES)))
        self._shown = np.concatenate([np.eye(len(TILES))[values["tiles"]], beyond], axis=1).astype(np.float32)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._board[lanes, 1:-1, 1:-1] = self._boards[lanes]
        self._cell[lanes], self._moves_left[lanes] = self._starts[lanes], self.energy
        self._goals_left[lanes] = (self._boards[lanes] == GOAL).sum((1, 2))

    def _observe(self) -> np.ndarray:
        if self.view == "local":
            tiles = self._tiles_at(self._cell[:, None] + AROUND)
        else:
            tiles = self._board[:, 1:-1, 1:-1].reshape(self.num_envs, -1)
        shown = self._shown[self._lanes[:, None], tiles].reshape(self.num_envs, -1)
        return np.concatenate(
            [one_hot(self._cell[:, 0], self.size), one_hot(self._cell[:, 1], self.size), shown], axis=1
        )


def _from_0(name: str, value: int) -> int:
    """A whole number of at least 0, else ValueError."""
    return 0 if value == 0 and isinstance(value, int) and not isinstance(value, bool) else count(name, value)


def _share(name: str, value: float) -> float:
    """A number from 0 to 1, else ValueError."""
    share = number(name, value)
    if share > 1:
        raise ValueError(f"{name}: expected a share of the cells, from 0 to 1, got {value!r}")
    return share
