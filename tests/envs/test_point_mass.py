"""Point-mass families against a scalar reimplementation: dynamics, rewards, terminations, starts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.registry import make_family
from tests.helpers.blocks import POINT_MASS as NAMES
from tests.helpers.blocks import block, random_actions

MOMENTUM = tuple(name for name in NAMES if "Momentum" in name)
REWARD_TYPES = ("dense", "dense_squared", "sparse")
CORNERS = [(-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0)]


class Scalar:
    """One lane, written with Python floats from the definition of the families."""

    def __init__(self, name: str, reward_type: str, task: Task, state: Sequence[float]) -> None:
        self.name, self.reward_type = name, reward_type
        self.goal = [float(value) for value in task.values["goal"]]
        self.gaps = task.values.get("gaps")
        self.x, self.v = list(map(float, state[:2])), list(map(float, state[2:]))

    def step(self, action: Sequence[float]) -> tuple[list[float], float, bool]:
        """The observation, the reward, and whether the episode ends."""
        bound = np.float32(0.2 if "Corner" in self.name or "Walls" in self.name else 0.1)
        action = [float(min(max(a, -bound), bound)) for a in np.asarray(action, np.float32)]
        before = list(self.x)
        if self.v:
            self.v = [v + a for v, a in zip(self.v, action, strict=True)]
            self.x = [x + v for x, v in zip(self.x, self.v, strict=True)]
        else:
            self.x = [x + a for x, a in zip(self.x, action, strict=True)]
        reward = self.reward(before)
        if "Walls" in self.name:
            self.stop_at_walls(before)
        ends = "Navigation" in self.name and all(abs(x - g) < 0.01 for x, g in zip(self.x, self.goal, strict=True))
        return self.x + self.v, reward, ends

    def reward(self, before: Sequence[float]) -> float:
        distance = math.dist(self.x, self.goal)
        if self.reward_type == "dense":
            return -distance
        if self.reward_type == "dense_squared":
            return -(distance**2)
        if "Corner" not in self.name and "Walls" not in self.name:
            return max(2.0 - distance, 0.0)
        nearest = min(CORNERS, key=lambda corner: math.dist(self.x, corner))
        if abs(self.x[0]) + abs(self.x[1]) < 0.5 or list(nearest) != self.goal:
            return 0.0
        return math.dist(before, self.goal) - distance

    def stop_at_walls(self, before: Sequence[float]) -> None:
        for wall, gap in ((1.0, self.gaps[0]), (2.0, self.gaps[1])):
            radius = math.hypot(*self.x)
            if math.hypot(*before) < wall <= radius and math.dist(self.x, gap) > 1:
                self.x = [x / radius * wall * 0.999999 for x in self.x]


@pytest.mark.parametrize("reward_type", REWARD_TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_dynamics_reward_and_termination_are_those_of_one_lane_by_hand(name: str, reward_type: str) -> None:
    family = block(name, reward_type=reward_type)
    observations, _ = family.reset(seed=5)
    lanes = [Scalar(name, reward_type, family.tasks[i // 4], observations[i]) for i in range(12)]
    paid = 0
    for actions in random_actions(family, 60):
        observations, rewards, terminated, truncated, infos = family.step(actions)
        for lane, scalar in enumerate(lanes):
            state, reward, ends = scalar.step(actions[lane])
            np.testing.assert_allclose(observations[lane], state, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(rewards[lane], reward, rtol=1e-5, atol=1e-5)
            assert terminated[lane] == ends
            paid += reward != 0
        assert not truncated.any()
        np.testing.assert_array_equal(sum(v for k, v in infos.items() if k.startswith("reward_")), rewards)
    far = name in MOMENTUM and name != "MetaPointEnvMomentum"
    assert paid or (far and reward_type == "sparse")


def test_momentum_by_hand() -> None:
    family = make_family("MetaPointEnvMomentum", reward_type="dense")
    family.set_tasks([Task(3, {"goal": [2, 2]})])
    start, _ = family.reset(seed=0)
    x, v = start[0, :2].astype(np.float64), start[0, 2:].astype(np.float64)
    observations, rewards, *_ = family.step(np.array([[0.05, -7.0]], np.float32))
    v = v + [0.05, -0.1]
    np.testing.assert_allclose(observations[0], [*(x + v), *v], atol=1e-6)
    np.testing.assert_allclose(rewards[0], -np.linalg.norm(x + v - 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("place", "action", "expected"),
    [
        ((1.0, 1.0), (0.1, 0.1), 0.1 * math.sqrt(2)),  # towards the goal
        ((1.0, 1.0), (-0.1, -0.1), -0.1 * math.sqrt(2)),  # away from it
        ((0.1, 0.1), (0.1, 0.1), 0.0),  # ends at |x|₁ = 0.4
        ((0.2, 0.2), (0.1, 0.1), 0.1 * math.sqrt(2)),  # ends at |x|₁ = 0.6
        ((-1.0, 1.0), (0.2, 0.0), 0.0),  # another corner is nearer
        ((-0.1, 1.0), (0.2, 0.0), math.dist((-0.1, 1), (2, 2)) - math.dist((0.1, 1), (2, 2))),  # no longer
    ],
)
def test_sparse_corner_reward_by_hand(place: Any, action: Any, expected: float) -> None:
    family = make_family("MetaPointEnvCorner", 2, 1)
    family.set_tasks([Task(3, {"goal": [2, 2]}), Task(0, {"goal": [-2, -2]})])
    family.reset(seed=0)
    family._position[:] = np.array([place, place]).T  # type: ignore[attr-defined]
    _, rewards, *_ = family.step(np.array([action, action], np.float32))
    np.testing.assert_allclose(rewards[0], expected, atol=1e-6)


def test_corner_with_noise_compares_with_the_corners_of_others() -> None:
    """A goal 0.4 past its corner: places between the two are paid, though the corner is the nearer."""
    family = make_family("MetaPointEnvCorner", noise=0.5)
    family.set_tasks([Task(3, {"goal": [2.4, 2.4]})])
    family.reset(seed=0)
    family._position[:] = 1.9  # type: ignore[attr-defined]
    _, rewards, *_ = family.step(np.full((1, 2), 0.1, np.float32))
    np.testing.assert_allclose(rewards, 0.1 * math.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize("action_limit", [0.2, 0.7, 2.5])
def test_walls_let_lanes_out_by_their_gaps_alone(action_limit: float) -> None:
    """Pushes that keep direction for a while and turn now and then, judged by what is observed; 2.5 crosses both."""
    family = block("MetaPointEnvWalls", 8, 10, action_limit=action_limit)
    gaps = np.repeat([task.values["gaps"] for task in family.tasks], 10, axis=0)
    before = family.reset(seed=2)[0].astype(np.float64)
    rng, outwards, stopped = np.random.default_rng(0), Counter[float](), Counter[float]()
    for t in range(400):
        if t % 20 == 0:
            push = rng.uniform(-0.1, 0.1, (80, 2))
        actions = np.float32(push + rng.uniform(-action_limit / 2, action_limit / 2, (80, 2)))
        after = family.step(actions)[0].astype(np.float64)
        aimed = before + np.clip(actions, -action_limit, action_limit)
        radius_before, radius_after = np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1)
        held_by_inner_wall = np.zeros(80, bool)
        for wall, radius in enumerate((1.0, 2.0)):
            crossed = (radius_before < radius) & (radius_after >= radius)
            assert (np.linalg.norm(after - gaps[:, wall], axis=1)[crossed] <= 1 + 1e-5).all()
            tried = (radius_before < radius) & (np.linalg.norm(aimed, axis=1) > radius + 1e-5)
            held = tried & ~crossed & ~held_by_inner_wall
            assert (np.linalg.norm(aimed - gaps[:, wall], axis=1)[held] > 1 - 1e-5).all()
            np.testing.assert_allclose(radius_after[held], radius * (1 - 1e-6), atol=3e-7)
            outwards[radius] += crossed.sum()
            stopped[radius] += held.sum()
            held_by_inner_wall |= held
        before = after
    assert min(outwards.values()) > 0 and min(stopped.values()) > 0


def test_a_blocked_step_pays_for_the_place_aimed_at() -> None:
    family = make_family("MetaPointEnvWalls")
    family.set_tasks([Task(3, {"goal": [2, 2], "gaps": [[-1, 0], [-2, 0]]})])
    family.reset(seed=0)
    family._position[:] = [[0.9], [0.0]]  # type: ignore[attr-defined]
    for _ in range(3):
        x = float(family._position[0, 0])  # type: ignore[attr-defined]
        observations, rewards, *_ = family.step(np.array([[0.2, 0.0]], np.float32))
        np.testing.assert_allclose(rewards[0], -math.dist((x + 0.2, 0), (2, 2)), rtol=1e-6)
        assert 0.99999 < observations[0, 0] < 1


def test_navigation_starts_at_the_origin_and_ends_at_its_goal() -> None:
    family = make_family("2DNavigation-v0", 2, 2)
    family.set_tasks([Task(0, {"goal": [0.25, -0.33]}), Task(0, {"goal": [-0.5, 0.5]})])
    observations, _ = family.reset(seed=0)
    np.testing.assert_array_equal(observations, 0)
    goals = np.repeat([[0.25, -0.33], [-0.5, 0.5]], 2, axis=0)
    lengths = np.zeros(4, int)
    for t in range(10):
        observations, rewards, terminated, truncated, infos = family.step((goals - observations).astype(np.float32))
        np.testing.assert_allclose(rewards, -np.linalg.norm(observations - goals, axis=1), atol=1e-6)
        np.testing.assert_array_equal(infos["success"], terminated)
        assert not truncated.any()
        lengths[terminated & (lengths == 0)] = t + 1
    assert lengths.tolist() == [4, 4, 5, 5]
    observations, _ = family.reset(options={"reset_mask": np.array([True, False, False, True])})
    np.testing.assert_array_equal(observations[[0, 3]], 0)
    np.testing.assert_allclose(observations[[1, 2]], goals[[1, 2]], atol=1e-6)


def test_arrival_takes_both_coordinates() -> None:
    family = make_family("2DNavigation-v0", 1, 4)
    family.set_tasks([Task(0, {"goal": [0.05, 0.05]})])
    family.reset(seed=0)
    ends = [[0.04003, 0.05997], [0.03997, 0.05], [0.05, 0.06003], [0.05, 0.05]]
    _, _, terminated, _, _ = family.step(np.array(ends, np.float32))
    assert terminated.tolist() == [True, False, False, True]


@pytest.mark.parametrize("name", NAMES)
def test_starts_fill_their_range(name: str) -> None:
    observations, _ = block(name, 10, 400).reset(seed=3)
    limits = [0.0, 0.0] if "Navigation" in name else [0.2, 0.2, 0.1, 0.1][: observations.shape[1]]
    for column, limit in zip(observations.T, limits, strict=True):
        assert np.abs(column).max() <= limit
        np.testing.assert_allclose(np.sort(column), np.linspace(-limit, limit, len(column)), atol=0.1 * limit)


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
