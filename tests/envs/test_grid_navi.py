"""GridNavi: goals, moves, rewards, and what is known of the best policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.grid_navi import GridNavi

STAY, UP, RIGHT, DOWN, LEFT = range(5)
# The cells that the best policy looks into, one a step: in the first episode, and in the second if it has to.
FIRST = "10 20 21 31 30 40 41 42 32 22 12 13 23 33 43"
SECOND = "01 02 03 04 14 24 34 44"


def cells(text: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in text.split()]


def towards(here: tuple[int, int], there: tuple[int, int]) -> int:
    """The action that goes from a cell closer to another."""
    if here == there:
        return STAY
    if here[0] != there[0]:
        return RIGHT if there[0] > here[0] else LEFT
    return UP if there[1] > here[1] else DOWN


def episode(family: GridNavi, path: list[tuple[int, int]], steps: int = 15) -> tuple[float, tuple[int, int] | None]:
    """The return of a walk along a path that stops where there is a reward, and where that was."""
    observation, _ = family.reset()
    total, found, ahead = 0.0, None, list(path)
    for _ in range(steps):
        here = tuple(map(int, observation[0]))
        if ahead and here == ahead[0]:
            ahead.pop(0)
        observation, reward, terminated, truncated, infos = family.step(
            np.array([towards(here, ahead[0]) if ahead and found is None else STAY])
        )
        assert not terminated[0] and not truncated[0] and infos["success"][0] == (reward[0] > 0)
        assert reward[0] == np.float32(1 if infos["success"][0] else -0.1)
        total += float(reward[0])
        if infos["success"][0]:
            found = tuple(map(int, observation[0]))
    return total, found


def test_goals_are_uniform_over_the_cells_that_are_not_near_the_start() -> None:
    family = GridNavi()
    goals = Counter(tuple(task.values["goal"]) for task in family.sample_tasks(21_000, np.random.default_rng(0)))
    assert set(goals) == {(x, y) for x in range(5) for y in range(5)} - {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(goals) == 21 and max(abs(count - 1000) for count in goals.values()) < 5 * 1000**0.5
    assert len(GridNavi(size=3).goals()) == 5


def test_moves_stop_at_the_walls() -> None:
    family = GridNavi(1, 1)
    family.set_tasks([Task(0, {"goal": [4, 4]})])
    observation, _ = family.reset(seed=0)
    assert observation.tolist() == [[0, 0]]
    for action, there in [(DOWN, (0, 0)), (LEFT, (0, 0)), (UP, (0, 1)), (STAY, (0, 1)), (RIGHT, (1, 1))]:
        observation = family.step(np.array([action]))[0]
        assert observation.tolist() == [list(there)]
    for action in [RIGHT] * 5 + [UP] * 5:
        observation, reward, _, _, infos = family.step(np.array([action]))
    assert observation.tolist() == [[4, 4]] and reward[0] == 1 and infos["success"][0]
    assert family.step(np.array([LEFT]))[1][0] == np.float32(-0.1)


def test_the_best_policy_gets_what_is_known_of_it() -> None:
    """It walks along FIRST; if the goal is not there, along SECOND in the next episode; then straight to the goal."""
    returns = []
    for goal in GridNavi().goals():
        family = GridNavi(1, 1)
        family.set_tasks([Task(0, {"goal": goal})])
        family.reset(seed=0)
        known, of_trial = None, []
        for path in (FIRST, SECOND, "", ""):
            total, found = episode(family, [known] if known is not None else cells(path))
            known = known or found
            of_trial.append(total)
        assert known == tuple(goal)
        returns.append(of_trial)
    by_episode = np.mean(returns, axis=0)
    np.testing.assert_allclose(by_episode, [4.0, 155 / 14, 155 / 14, 155 / 14], rtol=1e-6)
    assert by_episode.sum() == pytest.approx(521 / 14)


def test_standing_still_and_knowing_the_goal() -> None:
    returns = []
    for goal in GridNavi().goals():
        family = GridNavi(1, 1)
        family.set_tasks([Task(0, {"goal": goal})])
        family.reset(seed=0)
        assert episode(family, [])[0] == pytest.approx(-1.5)
        returns.append(episode(family, [tuple(goal)])[0])
    assert np.mean(returns) == pytest.approx(155 / 14)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (2, "size: expected at least 3, so that there are goals, got 2"),
        (0, "size: expected a whole number"),
        (5.0, "size"),
    ],
)
def test_wrong_sizes_are_refused(size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridNavi(size=size)
