"""The Memory & Planning game: its distribution of tasks, moves, goals, and the returns of known policies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmaml.envs import memory_planning
from mmaml.envs.base import Task
from mmaml.envs.memory_planning import MOVES, MemoryPlanningGame, shortest_path_goals
from tests.helpers.samples import assert_counts

UP, DOWN, LEFT, RIGHT, COLLECT = range(5)
BY = {UP: (0, 1), DOWN: (0, -1), LEFT: (-1, 0), RIGHT: (1, 0), COLLECT: (0, 0)}


def a_block(tasks: int, lanes: int, **env_kwargs: Any) -> MemoryPlanningGame:
    family = MemoryPlanningGame(tasks, lanes, **env_kwargs)
    family.set_tasks(family.sample_tasks(tasks, np.random.default_rng(0)))
    return family


def seen(family: MemoryPlanningGame, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of agents and goals, [M·N, 2] each, as who knows the labels reads them from observations."""
    agent, goal = observations.reshape(family.num_envs, 2, -1).transpose(1, 0, 2)
    assert (agent.sum(1) == 1).all() and (goal.sum(1) == 1).all()
    cell_of_label = np.repeat([np.argsort(task.values["labels"]) for task in family.tasks], family.rollouts_per_task, 0)
    lanes = np.arange(family.num_envs)
    cells = [cell_of_label[lanes, shown.argmax(1)] for shown in (agent, goal)]
    return tuple(np.stack(np.divmod(index, family.size), 1) for index in cells)  # type: ignore[return-value]


def actions_for(family: MemoryPlanningGame, meanings: np.ndarray) -> np.ndarray:
    """The action of each lane that has a meaning in its task."""
    orders = [np.argsort(task.values["actions"]) for task in family.tasks]
    return np.repeat(orders, family.rollouts_per_task, 0)[np.arange(family.num_envs), meanings]


def test_labels_and_actions_are_permutations_that_are_equally_likely() -> None:
    tasks = MemoryPlanningGame().sample_tasks(3000, np.random.default_rng(0))
    for name, size in (("labels", 16), ("actions", 5)):
        values = np.array([task.values[name] for task in tasks])
        assert (np.sort(values, 1) == np.arange(size)).all()
        for index in range(size):
            assert_counts(np.bincount(values[:, index], minlength=size), np.full(size, 1 / size))
    fixed = MemoryPlanningGame(shuffle_actions=False).sample_tasks(5, np.random.default_rng(0))
    assert all((task.values["actions"] == np.arange(5)).all() for task in fixed)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_moves_lead_where_the_task_says_and_to_collect_on_the_goal_gives_1_and_a_new_goal(size: int) -> None:
    family, rng = a_block(4, 200, size=size), np.random.default_rng(1)
    agent, goal = seen(family, family.reset(seed=0)[0])
    assert (agent != goal).any(1).all()
    for _ in range(60):
        meanings = rng.integers(5, size=family.num_envs)
        observations, rewards, terminated, truncated, infos = family.step(actions_for(family, meanings))
        moved = (agent + np.array([BY[meaning] for meaning in meanings])) % size
        collected = (meanings == COLLECT) & (agent == goal).all(1)
        np.testing.assert_array_equal(rewards, collected)
        np.testing.assert_array_equal(infos["reward_goal"], rewards)
        agent, new_goal = seen(family, observations)
        np.testing.assert_array_equal(agent, moved)
        assert (new_goal[~collected] == goal[~collected]).all() and (new_goal != agent)[collected].any(1).all()
        assert not terminated.any() and not truncated.any()
        goal = new_goal


def test_starts_and_new_goals_are_uniform() -> None:
    family, lanes = a_block(1, 8000, size=3), np.arange(8000)
    agent, goal = seen(family, family.reset(seed=0)[0])
    assert_counts(np.bincount(agent @ [3, 1], minlength=9), np.full(9, 1 / 9))
    for _ in range(2):
        apart = ((goal - agent) % 3) @ [3, 1]
        assert_counts(np.bincount(apart, minlength=9)[1:], np.full(8, 1 / 8))
        family._cell[lanes] = goal  # there at once
        agent, goal = seen(family, family.step(actions_for(family, np.full(8000, COLLECT)))[0])


def known_returns(size: int, steps: int) -> dict[str, float]:
    """Of policies that need no memory or know all, by dynamic programming over where the goal is from the agent.

    "random": any action. "wandering", "up or right": moves at random, or one of two, and collects on the goal.
    "informed": shortest paths.
    """
    cells = [(x, y) for x in range(size) for y in range(size)]
    after = [[((x - dx) % size) * size + (y - dy) % size for dx, dy in MOVES] for x, y in cells]
    chosen: dict[str, Any] = {
        "random": lambda of_actions: of_actions.mean(1),
        "wandering": lambda of_actions: on_the_goal_collects(of_actions, [UP, DOWN, LEFT, RIGHT]),
        "up or right": lambda of_actions: on_the_goal_collects(of_actions, [UP, RIGHT]),
        "informed": lambda of_actions: of_actions.max(1),
    }
    returns = {}
    for name, choose in chosen.items():
        values = np.zeros(size**2)
        for _ in range(steps):
            of_actions = values[np.array(after)]
            of_actions[0, COLLECT] = 1 + values[1:].mean()
            values = choose(of_actions)
        returns[name] = float(values[1:].mean())
    return returns


def on_the_goal_collects(of_actions: np.ndarray, moves: list[int]) -> np.ndarray:
    return np.concatenate([of_actions[:1, COLLECT], of_actions[1:, moves].mean(1)])


def test_the_returns_of_known_policies_are_those_that_are_stated() -> None:
    known = known_returns(4, 100)
    for name, value in known.items():
        assert f"{value:.4f}" in str(memory_planning.__doc__), name
    family, rng = a_block(20, 100), np.random.default_rng(2)
    for name, chooses in (("random", lambda *_: rng.integers(5, size=2000)), ("informed", towards)):
        agent, goal = seen(family, family.reset(seed=3)[0])
        total = np.zeros(2000)
        for _ in range(100):
            observations, rewards, *_ = family.step(actions_for(family, chooses(agent, goal, family.size)))
            (agent, goal), total = seen(family, observations), total + rewards
        assert abs(total.mean() - known[name]) < 5 * total.std() / math.sqrt(2000)
    small = known_returns(2, 20)
    assert [round(small[name], 2) for name in ("random", "wandering", "informed")] == [0.79, 4.45, 8.31]


def towards(agent: np.ndarray, goal: np.ndarray, size: int) -> np.ndarray:
    """A shortest path: first along x, then along y, then collect."""
    apart = (goal - agent) % size
    back = 2 * apart > size
    x, y = np.where(back[:, 0], LEFT, RIGHT), np.where(back[:, 1], DOWN, UP)
    return np.where(apart[:, 0] > 0, x, np.where(apart[:, 1] > 0, y, COLLECT))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_goals_of_shortest_paths_are_those_of_dynamic_programming(size: int) -> None:
    best = [known_returns(size, steps)["informed"] for steps in range(25)]
    np.testing.assert_allclose(shortest_path_goals(size, 24), best)


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"size": 1}, "size: expected at least 2, so that there are goals, got 1"),
        ({"size": 51}, "size: expected a whole number of at least 1 and at most 50, got 51"),
        ({"shuffle_actions": 1}, "shuffle_actions: expected true or false, got 1"),
    ],
)
def test_wrong_arguments_are_refused(env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryPlanningGame(**env_kwargs)


def test_tasks_of_another_size_are_refused() -> None:
    family = MemoryPlanningGame()
    with pytest.raises(ValueError, match="tasks: expected 'labels' of shape"):
        family.set_tasks([Task(0, {"labels": np.arange(9), "actions": np.arange(5)})])
