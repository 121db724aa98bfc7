"""Point-mass families: the distribution of their tasks, and their arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmaml.envs.registry import make_family
from tests.helpers.blocks import block
from tests.helpers.samples import assert_distributed, uniform

CORNERS = [(-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0)]


@pytest.mark.parametrize(
    ("name", "centers", "noise"),
    [
        ("MetaPointEnvMomentum", CORNERS, 0.0),
        ("MetaPointEnvMomentumSingleMode", [(5, 5)], 1.0),
        ("MetaPointEnvMomentum2Modes", [(-5, -5), (5, 5)], 1.0),
        ("MetaPointEnvMomentumModes", [(-5, -5), (5, -5), (-5, 5), (5, 5)], 1.0),
        (
            "MetaPointEnvMomentum6Modes",
            [(5 * math.cos(math.radians(60 * k)), 5 * math.sin(math.radians(60 * k))) for k in range(6)],
            1.0,
        ),
        ("MetaPointEnvCorner", CORNERS, 0.0),
        ("MetaPointEnvWalls", CORNERS, 0.0),
    ],
)
def test_goals_lie_about_their_modes_centre(name: str, centers: list[tuple[float, float]], noise: float) -> None:
    family = make_family(name)
    tasks = family.sample_tasks(1000 * len(centers), np.random.default_rng(2))
    assert family.num_modes == len(centers)
    for mode, centre in enumerate(centers):
        goals = np.array([task.values["goal"] for task in tasks if task.mode == mode])
        assert 850 < len(goals) < 1150  # about five standard deviations
        np.testing.assert_allclose(goals.mean(0), centre, atol=0.2 * noise + 1e-12)
        np.testing.assert_allclose(goals.std(0), noise, atol=0.15 * noise + 1e-12)


def test_noise_is_the_spread_of_goals() -> None:
    tasks = make_family("MetaPointEnvMomentumSingleMode", noise=2).sample_tasks(4000, np.random.default_rng(0))
    goals = np.array([task.values["goal"] for task in tasks])
    np.testing.assert_allclose(goals.std(0), 2, rtol=0.06)


def test_six_modes_are_dealt_in_turn_in_every_split() -> None:
    family = make_family("MetaPointEnvMomentum6Modes")
    for split, seed in (("train", 0), ("train", 1), ("test", 0)):
        tasks = family.sample_tasks(40, np.random.default_rng(seed), split)
        assert [task.mode for task in tasks] == [k % 6 for k in range(40)]


def test_gaps_lie_on_their_walls_in_every_direction() -> None:
    tasks = make_family("MetaPointEnvWalls").sample_tasks(2000, np.random.default_rng(0))
    gaps = np.array([task.values["gaps"] for task in tasks])
    np.testing.assert_allclose(np.linalg.norm(gaps, axis=2), [[1, 2]] * 2000)
    angles = np.arctan2(gaps[..., 1], gaps[..., 0])
    for column in angles.T:
        np.testing.assert_allclose(np.sort(column), np.linspace(-np.pi, np.pi, 2000), atol=0.3)
    assert abs(np.corrcoef(np.cos(angles.T))[0, 1]) < 0.1


def test_navigation_goals_fill_their_square() -> None:
    tasks = make_family("2DNavigation-v0").sample_tasks(2000, np.random.default_rng(0))
    goals = np.array([task.values["goal"] for task in tasks])
    for column in goals.T:
        np.testing.assert_allclose(np.sort(column), np.linspace(-0.5, 0.5, 2000), atol=0.05)


@pytest.mark.parametrize("name", ["PointRobot", "SparsePointRobot"])
def test_the_point_robots_goals_fill_the_upper_half_of_a_circle(name: str) -> None:
    for radius in (1.0, 0.5):
        tasks = make_family(name, goal_radius=radius).sample_tasks(2000, np.random.default_rng(0))
        goals = np.array([task.values["goal"] for task in tasks])
        np.testing.assert_allclose(np.hypot(*goals.T), radius)
        assert_distributed(np.arctan2(goals[:, 1], goals[:, 0]) / np.pi, uniform)


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"noise": -1}, "noise: expected a number of at least 0, got -1"),
        ({"noise": True}, "noise: expected a number of at least 0, got True"),
        ({"noise": math.nan}, "noise: expected a number"),
        ({"action_limit": 0}, "action_limit: expected a number above 0, got 0"),
        ({"reward_type": "denser"}, "reward_type: expected one of .* got 'denser'"),
        ({"deal": ["draw"]}, "deal: expected one of"),
        ({"centers": []}, r"centers: expected a list of \[x, y\], one per mode, got \[\]"),
        ({"centers": [1, 2]}, "centers: expected"),
        ({"centers": [[1, "a"]]}, "centers: expected"),
        ({"centers": [[1, 2], [3]]}, "centers: expected"),
    ],
)
def test_wrong_arguments_are_refused(env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_family("MetaPointEnvMomentumModes", **env_kwargs)


def test_arguments_change_the_family() -> None:
    family = make_family(
        "MetaPointEnvMomentumModes", 3, 2, centers=[[1, 0], [0, 1], [3, 3]], noise=0, deal="round_robin"
    )
    tasks = family.sample_tasks(3, np.random.default_rng(0))
    assert [task.values["goal"].tolist() for task in tasks] == [[1, 0], [0, 1], [3, 3]]
    still = block("MetaPointEnvWalls", start=0, action_limit=0.05)
    observations, _ = still.reset(seed=0)
    np.testing.assert_array_equal(observations, 0)
    assert still.step(np.ones((12, 2), np.float32))[0].max() == np.float32(0.05)
    wide = block("MetaPointEnvMomentum", radius=100)
    wide.reset(seed=0)
    assert (wide.step(np.zeros((12, 2), np.float32))[1] > 90).all()
    near = block("2DNavigation-v0", 50, goal_limit=0.001)
    assert max(abs(task.values["goal"]).max() for task in near.tasks) <= 0.001
