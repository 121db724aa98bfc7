"""Krazy World: boards, what every tile does, what is seen, and a lane against a reimplementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.discrete import DEATH, ENERGY, GOAL, ICE, NORMAL, TRANSPORTER
from mmaml.envs.krazy_world import KrazyWorld
from tests.helpers.samples import assert_counts

LETTERS = {".": NORMAL, "G": GOAL, "T": TRANSPORTER, "X": DEATH, "I": ICE, "E": ENERGY, "S": NORMAL}
RIGHT, LEFT, UP, DOWN = range(4)
STEPS = [(1, 0), (-1, 0), (0, 1), (0, -1)]


def world(*rows: str, lanes: int = 1, **env_kwargs: Any) -> KrazyWorld:
    """A board as it is drawn, the top row first, with its start S; reset."""
    letters = np.array([list(row) for row in rows])[::-1].T  # [x, y]
    twins = np.argwhere(letters == "T").reshape(-1, 2, 2)
    family = KrazyWorld(1, lanes, size=len(rows), goals=1, transporters=len(twins), **PLAIN | env_kwargs)
    values = {
        "board": np.vectorize(LETTERS.get)(letters),
        "start": np.argwhere(letters == "S")[0],
        "transporters": twins,
        "actions": np.arange(4),
        "tiles": np.arange(6),
    }
    family.set_tasks([Task(0, values)])
    family.reset(seed=0)
    return family


PLAIN: dict[str, Any] = {"death": 0, "ice": 0, "energy_cells": 0, "goal_distance": 0}


def walk(family: KrazyWorld, *actions: int) -> list[tuple[tuple[int, int], float, bool]]:
    """Where each action leads a single lane, what it gives, and whether the episode ends."""
    seen = []
    for action in actions:
        observations, rewards, terminated, truncated, _ = family.step(np.array([action]))
        assert not truncated.any()
        seen.append((place(observations[0], family.size), float(rewards[0]), bool(terminated[0])))
    return seen


def place(observation: np.ndarray, size: int) -> tuple[int, int]:
    x, y = observation[:size], observation[size : 2 * size]
    assert x.sum() == y.sum() == 1
    return int(x.argmax()), int(y.argmax())


def test_moves_and_the_border() -> None:
    family = world("...", ".S.", "...")
    assert [where for where, *_ in walk(family, RIGHT, RIGHT, UP, UP, LEFT, LEFT, LEFT, DOWN, DOWN, DOWN)] == [
        *((2, 1), (2, 1), (2, 2), (2, 2)),
        *((1, 2), (0, 2), (0, 2), (0, 1), (0, 0), (0, 0)),
    ]


def test_a_goal_gives_1_once_and_all_of_them_are_success() -> None:
    family = world("...", "SGG", "...")
    assert walk(family, RIGHT) == [((1, 1), 1.0, False)]
    assert walk(family, LEFT, RIGHT) == [((0, 1), 0.0, False), ((1, 1), 0.0, False)]
    _, rewards, _, _, infos = family.step(np.array([RIGHT]))
    assert rewards[0] == 1 and infos["success"][0]
    assert family.step(np.array([LEFT]))[4]["success"][0]
    family.reset()
    _, rewards, _, _, infos = family.step(np.array([RIGHT]))
    assert rewards[0] == 1 and not infos["success"][0]  # the board is as it was
    family.reset()
    _, rewards, _, _, infos = family.step(np.array([RIGHT]))
    assert rewards[0] == 1 and not infos["success"][0]  # goals of an episode that was not finished do not count


def test_death_ends_the_episode() -> None:
    assert walk(world("...", "SX.", "..."), UP, RIGHT, DOWN) == [
        ((0, 2), 0.0, False),
        ((1, 2), 0.0, False),
        ((1, 1), 0.0, True),
    ]


def test_ice_leads_on_in_the_same_direction() -> None:
    assert walk(world("....", "SIIG", "....", "...."), RIGHT) == [((3, 2), 1.0, False)]
    assert walk(world("....", "SII.", "....", "...."), RIGHT, LEFT) == [((3, 2), 0.0, False), ((0, 2), 0.0, False)]
    assert walk(world("....", "SIIX", "....", "...."), RIGHT) == [((3, 2), 0.0, True)]
    at_the_border = world("....", "SIII", "....", "....")
    assert walk(at_the_border, RIGHT, RIGHT, UP) == [((3, 2), 0.0, False), ((3, 2), 0.0, False), ((3, 3), 0.0, False)]


def test_a_transporter_leads_to_its_other_end() -> None:
    family = world("...T", "....", "ST..", "....")
    assert walk(family, RIGHT) == [((3, 3), 0.0, False)]
    assert walk(family, UP) == [((1, 1), 0.0, False)]  # the border stops it on the transporter, which acts again
    assert walk(family, RIGHT, LEFT) == [((2, 1), 0.0, False), ((3, 3), 0.0, False)]
    assert walk(world("...T", "....", "SIT.", "...."), RIGHT) == [((3, 3), 0.0, False)]


def test_energy_is_used_up_and_found() -> None:
    ends = [end for *_, end in walk(world("...", "S..", "...", energy=3), *[RIGHT] * 3)]
    assert ends == [False, False, True]
    found = world("...", "S.E", "...", energy=2, energy_gain=2)
    assert [end for *_, end in walk(found, RIGHT, RIGHT, LEFT, RIGHT)] == [False, False, False, True]
    on_ice = world("....", "SII.", "....", "....", energy=2)
    assert [end for *_, end in walk(on_ice, RIGHT, LEFT)] == [False, True]  # sliding is for nothing
    endless = world("...", "S..", "...", energy=None)
    assert not any(end for *_, end in walk(endless, *[LEFT] * 200))


def test_the_local_view_is_the_eight_cells_around() -> None:
    family = world("GX.", "ISE", "T.T")
    seen = family._observe()[0, 6:].reshape(8, 6)
    tiles = [int(cell.argmax()) for cell in seen]  # by x, then by y, without the agent's own
    assert (seen.sum(1) == 1).all() and tiles == [TRANSPORTER, ICE, GOAL, NORMAL, DEATH, TRANSPORTER, ENERGY, NORMAL]
    observations = family.step(np.array([LEFT]))[0]  # on ice, at the border
    seen = observations[0, 6:].reshape(8, 6)
    assert place(observations[0], 3) == (0, 1) and (seen[:3] == 0).all() and (seen[3:].sum(1) == 1).all()


def test_the_global_view_is_the_board_without_what_was_taken() -> None:
    family = world("...", "SGE", "...", view="global")
    assert family._observe()[0, 6:].reshape(3, 3, 6).argmax(2).tolist() == [[0, 0, 0], [0, GOAL, 0], [0, ENERGY, 0]]
    family.step(np.array([RIGHT]))
    observations = family.step(np.array([RIGHT]))[0]
    assert not observations[0, 6:].reshape(3, 3, 6).argmax(2).any()


def test_lanes_take_from_boards_of_their_own() -> None:
    family = world("...", "SG.", "...", lanes=2)
    assert family.step(np.array([RIGHT, UP]))[1].tolist() == [1, 0]
    family.step(np.array([LEFT, DOWN]))
    assert family.step(np.array([RIGHT, RIGHT]))[1].tolist() == [0, 1]


def test_boards_have_the_tiles_they_should_at_any_place() -> None:
    tasks = KrazyWorld().sample_tasks(1500, np.random.default_rng(0))
    boards = np.array([task.values["board"] for task in tasks])
    for tile, expected in ((GOAL, 3), (TRANSPORTER, 2), (DEATH, 8), (ICE, 5), (ENERGY, 5)):
        assert ((boards == tile).sum((1, 2)) == expected).all()
        if tile != GOAL:
            assert_counts((boards == tile).sum(0).ravel(), np.full(100, 0.01))
    for task in tasks:
        board, start, ends = (task.values[name] for name in ("board", "start", "transporters"))
        assert (
            board[tuple(start)] == NORMAL and sorted(ends.reshape(-1, 2).tolist()) == np.argwhere(board == 2).tolist()
        )
        assert np.abs(np.argwhere(board == GOAL) - start).sum(1).min() > 2
        assert task.values["actions"].tolist() == [0, 1, 2, 3] and task.values["tiles"].tolist() == [0, 1, 2, 3, 4, 5]
    starts = np.array([task.values["start"] for task in tasks])
    assert_counts(np.bincount(starts @ [10, 1], minlength=100), np.full(100, 0.01))


def test_actions_and_tiles_are_shuffled_where_that_is_asked_for() -> None:
    family = KrazyWorld(1, 1, shuffle_actions=True, shuffle_tiles=True)
    plain = KrazyWorld(1, 1)
    tasks = family.sample_tasks(2000, np.random.default_rng(0))
    orders = np.array([task.values["actions"] for task in tasks])
    assert_counts(np.unique(orders, axis=0, return_counts=True)[1], np.full(24, 1 / 24))
    for task in tasks[:50]:
        family.set_tasks([task])
        straight = {**task.values, "actions": np.arange(4), "tiles": np.arange(6)}
        plain.set_tasks([Task(0, straight)])
        ours, theirs = family.reset(seed=0)[0][0], plain.reset(seed=0)[0][0]
        for action in (0, 3, 1, 2):
            np.testing.assert_array_equal(ours[:20], theirs[:20])
            shown = ours[20:].reshape(8, 6)[:, task.values["tiles"]]
            np.testing.assert_array_equal(shown, theirs[20:].reshape(8, 6))
            ours = family.step(np.array([action]))[0][0]
            theirs = plain.step(np.array([task.values["actions"][action]]))[0][0]


class Lane:
    """One lane with Python's lists, by the rules of the module's docstring."""

    def __init__(self, values: Any, energy: int, gain: int) -> None:
        self.board, self.at = values["board"].tolist(), tuple(values["start"])
        self.pairs, self.energy, self.gain = values["transporters"].tolist(), energy, gain

    def step(self, action: int) -> tuple[tuple[int, int], int, bool]:
        self.energy -= 1
        reward, dead, slides = 0, False, True
        while slides:
            aimed = tuple(np.add(self.at, STEPS[action]).tolist())
            inside = min(aimed) >= 0 and max(aimed) < len(self.board)
            self.at = aimed if inside else self.at
            x, y = self.at
            tile = self.board[x][y]
            slides = tile == ICE and inside
            if tile == GOAL:
                reward += 1
            if tile == ENERGY:
                self.energy += self.gain
            if tile in (GOAL, ENERGY):
                self.board[x][y] = NORMAL
            dead = dead or tile == DEATH
            if tile == TRANSPORTER:
                one, other = next(pair for pair in self.pairs if list(self.at) in pair)
                self.at = tuple(other if list(self.at) == one else one)
        return self.at, reward, dead or self.energy < 1


def test_lanes_are_those_by_hand() -> None:
    kwargs = {
        "size": 7,
        "ice": 0.2,
        "transporters": 2,
        "energy": 12,
        "energy_gain": 3,
        "energy_cells": 0.1,
        "goal_distance": 1,
    }
    family = KrazyWorld(6, 5, **kwargs)
    family.set_tasks(family.sample_tasks(6, np.random.default_rng(3)))
    family.reset(seed=0)
    lanes = [Lane(family.tasks[i // 5].values, 12, 3) for i in range(30)]
    rng, total, ended = np.random.default_rng(4), 0.0, 0
    for _ in range(60):
        actions = rng.integers(4, size=30)
        observations, rewards, terminated, _, _ = family.step(actions)
        for i, lane in enumerate(lanes):
            assert (place(observations[i], 7), rewards[i], terminated[i]) == lane.step(actions[i])
            if terminated[i]:
                lanes[i] = Lane(family.tasks[i // 5].values, 12, 3)
        total, ended = total + rewards.sum(), ended + terminated.sum()
        family.reset(options={"reset_mask": terminated})
    assert total > 20 and ended > 50


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"size": 4}, r"size: expected at least \d+ cells for the start, .*, got 4 · 4"),
        ({"goals": 0}, "goals: expected a whole number of at least 1"),
        ({"transporters": -1}, "transporters: expected a whole number"),
        ({"transporters": False}, "transporters: expected a whole number"),
        ({"death": 1.5}, "death: expected a share of the cells, from 0 to 1, got 1.5"),
        ({"ice": -0.1}, "ice: expected a number of at least 0"),
        ({"energy": 0}, "energy: expected a whole number"),
        ({"view": "nearby"}, "view: expected one of"),
        ({"shuffle_tiles": 1}, "shuffle_tiles: expected true or false"),
    ],
)
def test_wrong_arguments_are_refused(env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KrazyWorld(**env_kwargs)
