"""Point-mass families against a scalar reimplementation, and what every block of lanes has to keep."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from mmaml.envs.base import Task, TaskVectorEnv
from mmaml.envs.registry import FAMILIES, make_family

NAMES = [name for name, family in FAMILIES.items() if family.place.startswith("mmaml.envs.point_mass:")]
MOMENTUM = tuple(name for name in NAMES if "Momentum" in name)
REWARD_TYPES = ("dense", "dense_squared", "sparse")
CORNERS = [(-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0)]


def block(name: str, num_tasks: int = 3, rollouts: int = 4, seed: int = 0, **env_kwargs: Any) -> TaskVectorEnv:
    """A family with tasks, not yet reset."""
    family = make_family(name, num_tasks, rollouts, **env_kwargs)
    family.set_tasks(family.sample_tasks(num_tasks, np.random.default_rng(seed)))
    return family


def random_actions(family: TaskVectorEnv, steps: int, seed: int = 1, spread: float = 0.12) -> np.ndarray:
    """[T, M·N, 2]: a push of each lane's own plus jitter, so that lanes get far; some beyond the bounds."""
    rng = np.random.default_rng(seed)
    push = rng.uniform(-0.1, 0.1, (family.num_envs, 2))
    return (push + rng.uniform(-spread, spread, (steps, family.num_envs, 2))).astype(np.float32)


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
def test_a_tasks_lanes_have_the_same_bits_in_every_block(name: str) -> None:
    tasks = make_family(name).sample_tasks(6, np.random.default_rng(4))
    actions = random_actions(make_family(name, 6, 5), 40)
    seeds = [2**63 - 1 - 7 * task for task in range(6)]
    together = _played(name, tasks, seeds, actions)
    for size in (1, 3):
        for first in range(0, 6, size):
            tasks_here, lanes = slice(first, first + size), slice(first * 5, (first + size) * 5)
            part = _played(name, tasks[tasks_here], seeds[tasks_here], actions[:, lanes])
            for ours, all_of_them in zip(part, together, strict=True):
                np.testing.assert_array_equal(ours, all_of_them[:, lanes])


def _played(name: str, tasks: list[Task], seeds: list[int], actions: np.ndarray) -> list[np.ndarray]:
    """Observations, rewards and ends over time, with resets of lanes that end and of some that do not."""
    family = make_family(name, len(tasks), 5)
    family.set_tasks(tasks)
    observations, _ = family.reset(seed=seeds)
    steps = [(observations, np.zeros(family.num_envs), np.zeros(family.num_envs, bool))]
    for t, action in enumerate(actions):
        observations, rewards, terminated, _, _ = family.step(action)
        steps.append((observations, rewards, terminated))
        lane = np.tile(np.arange(5), len(tasks))
        observations, _ = family.reset(options={"reset_mask": terminated | (lane == t % 9)})
        steps.append((observations, rewards, terminated))
    return [np.stack(column) for column in zip(*steps, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_partial_resets_touch_the_masked_lanes_alone(name: str) -> None:
    family = block(name)
    family.reset(seed=0)
    actions = random_actions(family, 8)
    for action in actions[:-1]:
        before = family.step(action)[0]
    mask = np.array([False, True, False, True] + [False] * 4 + [True] * 4)
    after, _ = family.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (np.abs(after[mask, :2]) <= 0.2).all() and (after[mask] != before[mask]).any(1).all()
    other = block(name)
    other.reset(seed=0)
    for action in actions[:-1]:
        other.step(action)
    np.testing.assert_array_equal(other.step(actions[-1])[0][~mask], family.step(actions[-1])[0][~mask])
    unchanged, _ = family.reset(options={"reset_mask": np.zeros(12, bool)})
    np.testing.assert_array_equal(unchanged, family._observe())


def test_a_partial_reset_draws_for_its_lanes_in_their_order() -> None:
    family, alone = block("MetaPointEnvCorner", 2, 4), np.random.default_rng(12)
    first, _ = family.reset(seed=[11, 12])
    np.testing.assert_array_equal(first[4:], alone.uniform(-0.2, 0.2, (4, 2)).astype(np.float32))
    again, _ = family.reset(options={"reset_mask": np.array([0, 1, 1, 0, 0, 1, 0, 1], bool)})
    np.testing.assert_array_equal(again[[5, 7]], alone.uniform(-0.2, 0.2, (2, 2)).astype(np.float32))
    np.testing.assert_array_equal(again[[0, 3, 4, 6]], first[[0, 3, 4, 6]])


@pytest.mark.parametrize("name", [name for name in NAMES if "Navigation" not in name])
def test_seeds_repeat_a_task_and_tell_tasks_apart(name: str) -> None:
    family = block(name)
    one, _ = family.reset(seed=[1, 2, 1])
    lanes = one.reshape(3, 4, -1)
    np.testing.assert_array_equal(lanes[0], lanes[2])
    assert len(np.unique(lanes[:2].reshape(8, -1), axis=0)) == 8
    on, _ = family.reset()
    assert not (on == one).any()
    np.testing.assert_array_equal(family.reset(seed=[1, 2, 1])[0], one)
    single, _ = family.reset(seed=1)
    assert len(np.unique(single, axis=0)) == 12
    np.testing.assert_array_equal(family.reset(seed=1)[0], single)


@pytest.mark.parametrize("name", NAMES)
def test_starts_fill_their_range(name: str) -> None:
    observations, _ = block(name, 10, 400).reset(seed=3)
    limits = [0.0, 0.0] if "Navigation" in name else [0.2, 0.2, 0.1, 0.1][: observations.shape[1]]
    for column, limit in zip(observations.T, limits, strict=True):
        assert np.abs(column).max() <= limit
        np.testing.assert_allclose(np.sort(column), np.linspace(-limit, limit, len(column)), atol=0.1 * limit)


@pytest.mark.parametrize("name", NAMES)
def test_equal_generators_give_equal_tasks_and_splits_share_none(name: str) -> None:
    drawn = {}
    for split in ("train", "test"):
        drawn[split], again = (
            make_family(name, **_noise(name)).sample_tasks(50, np.random.default_rng(9), split) for _ in range(2)
        )
        for ours, theirs in zip(drawn[split], again, strict=True):
            assert ours.mode == theirs.mode
            assert pickle.dumps(ours) == pickle.dumps(theirs)
    goals = np.array([task.values["goal"] for tasks in drawn.values() for task in tasks])
    assert len(np.unique(goals, axis=0)) == 100
    with pytest.raises(ValueError, match=r"split: expected one of \('train', 'test'\) .* got 'ood'"):
        make_family(name).sample_tasks(1, np.random.default_rng(0), "ood")


def _noise(name: str) -> dict[str, float]:
    """So that no two goals of a family are the same."""
    return {} if "Navigation" in name else {"noise": 0.5}


def test_splits_do_not_share_draws_along_a_stream_either() -> None:
    family, train, test = make_family("2DNavigation-v0"), np.random.default_rng(0), np.random.default_rng(0)
    sets = [
        {tuple(task.values["goal"]) for _ in range(20) for task in family.sample_tasks(20, rng, split)}
        for rng, split in ((train, "train"), (test, "test"))
    ]
    assert [len(goals) for goals in sets] == [400, 400]
    assert not sets[0] & sets[1]


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


@pytest.mark.parametrize("name", NAMES)
def test_what_is_returned_is_fresh(name: str) -> None:
    family, control = block(name), block(name)
    for one in (family, control):
        one.reset(seed=0)
    for action in random_actions(family, 5):
        results, kept = family.step(action), action.copy()
        expected = control.step(action)
        arrays = [*results[:4], *results[4].values()]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
        for ours, theirs in zip(arrays, [*expected[:4], *expected[4].values()], strict=True):
            np.testing.assert_array_equal(ours, theirs)
            ours[:] = 1  # must not reach the next step
        np.testing.assert_array_equal(action, kept)
    observations, rewards, terminated, truncated, _ = family.step(action)
    assert observations.dtype == rewards.dtype == np.float32
    assert terminated.dtype == truncated.dtype == bool
    assert observations.flags.c_contiguous and observations.shape == family.observation_space.shape


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_clipped_to_the_bounds(name: str) -> None:
    family, control = block(name), block(name)
    for one in (family, control):
        one.reset(seed=0)
    actions = random_actions(family, 1, spread=3)[0]
    bounds = family.single_action_space
    clipped = np.clip(actions, bounds.low, bounds.high)  # type: ignore[attr-defined]
    assert (clipped != actions).any()
    np.testing.assert_array_equal(family.step(actions)[0], control.step(clipped)[0])


def test_a_block_says_when_it_needs_a_reset() -> None:
    family = make_family("MetaPointEnvMomentumModes", 2, 1)
    actions = np.zeros((2, 2), np.float32)
    for _ in range(2):
        with pytest.raises(ResetNeeded, match="step"):
            family.step(actions)
        with pytest.raises(ResetNeeded, match="reset_mask"):
            family.reset(options={"reset_mask": np.array([True, False])})
        family.reset(seed=0)
        family.step(actions)
        family.set_tasks(family.sample_tasks(2, np.random.default_rng(0)))


def test_a_block_without_tasks_draws_its_own() -> None:
    family = make_family("MetaPointEnvMomentumModes", 3, 2)
    goals = []
    for seed in (1, 2, 1, None):
        family.reset(seed=seed)
        goals.append(np.array([task.values["goal"] for task in family.tasks]))
    np.testing.assert_array_equal(goals[0], goals[2])
    np.testing.assert_array_equal(goals[2], goals[3])
    assert not (goals[0] == goals[1]).any()
    given, (drawn, _) = family.sample_tasks(3, np.random.default_rng(0)), family.reset(seed=2)
    family.set_tasks(given)
    np.testing.assert_array_equal(family.reset(seed=2)[0], drawn)
    assert family.tasks == given


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda f: f.set_tasks(f.tasks[:1]), "tasks: expected 2, one for each task of the block, got 1"),
        (lambda f: f.set_tasks([Task(0, {"gaol": [1, 2]})] * 2), "tasks: expected 'goal' of shape"),
        (lambda f: f.set_tasks([Task(0, {"goal": [1, 2, 3]})] * 2), "tasks: expected 'goal' of shape"),
        (lambda f: f.reset(seed=[1, 2, 3]), "seed: expected one integer or 2, one per task, got 3"),
        (lambda f: f.reset(options={"reset_mask": [True]}), r"reset_mask: expected bool \[6\], got bool \[1\]"),
        (lambda f: f.reset(options={"reset_mask": np.ones(6)}), r"reset_mask: expected bool \[6\], got float64 \[6\]"),
    ],
)
def test_wrong_calls_are_refused_and_change_nothing(wrong: Any, message: str) -> None:
    family = block("MetaPointEnvMomentumModes", 2, 3)
    observations, _ = family.reset(seed=0)
    tasks = list(family.tasks)
    with pytest.raises(ValueError, match=message):
        wrong(family)
    assert family.tasks == tasks
    np.testing.assert_array_equal(family._observe(), observations)


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


@pytest.mark.parametrize(
    ("counts", "message"), [((0, 1), "num_tasks: .* 1, got 0"), ((1, -2), "rollouts_per_task: .* -2")]
)
def test_a_block_has_lanes(counts: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_family("MetaPointEnvMomentumModes", *counts)


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
