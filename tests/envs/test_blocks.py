"""What every block of lanes has to keep: bits, seeds, resets, fresh arrays, refusals; of families without physics."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from mmaml.envs.base import Task
from mmaml.envs.registry import make_family
from tests.helpers.blocks import POINT_MASS, WITHOUT_PHYSICS, block, random_actions

BOXES = [name for name in WITHOUT_PHYSICS if isinstance(make_family(name).single_action_space, gym.spaces.Box)]
DISCRETE = [name for name in WITHOUT_PHYSICS if name not in BOXES]


@pytest.mark.parametrize("name", WITHOUT_PHYSICS)
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


@pytest.mark.parametrize("name", WITHOUT_PHYSICS)
def test_partial_resets_touch_the_masked_lanes_alone(name: str) -> None:
    family, other = block(name), block(name)
    start, _ = family.reset(seed=0)
    other.reset(seed=0)
    actions = random_actions(family, 8)
    for action in actions[:-1]:
        before = family.step(action)[0]
        other.step(action)
    mask = np.array([False, True, False, True] + [False] * 4 + [True] * 4)
    after, _ = family.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    if name in POINT_MASS:
        assert (np.abs(after[mask, :2]) <= 0.2).all() and (after[mask] != before[mask]).any(1).all()
    elif name not in ("CartPoleMassEnv", "MemoryPlanningGame"):  # whose start is drawn
        np.testing.assert_array_equal(after[mask], start[mask])
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


@pytest.mark.parametrize("name", [name for name in POINT_MASS if "Navigation" not in name and "Robot" not in name])
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


@pytest.mark.parametrize("name", ["BernoulliBandit", "GaussianBandit", "TabularMDP"])
def test_seeds_repeat_what_steps_draw(name: str) -> None:
    family, task = make_family(name, 3, 4), make_family(name).sample_tasks(1, np.random.default_rng(0))[0]
    family.set_tasks([task] * 3)
    actions = np.zeros((30, 12), int)

    def rewards(seed: Any) -> np.ndarray:
        family.reset(seed=seed)
        return np.stack([family.step(action)[1] for action in actions]).reshape(30, 3, 4)

    one = rewards([1, 2, 1])
    np.testing.assert_array_equal(one[:, 0], one[:, 2])
    assert len(np.unique(one[:, :2].reshape(30, 8), axis=1).T) == 8
    np.testing.assert_array_equal(rewards([1, 2, 1]), one)
    assert (rewards(None) != one).any((0, 2)).all()


@pytest.mark.parametrize("name", WITHOUT_PHYSICS)
def test_equal_generators_give_equal_tasks_and_splits_others(name: str) -> None:
    drawn = {}
    for split in ("train", "test"):
        drawn[split], again = (
            make_family(name, **_noise(name)).sample_tasks(50, np.random.default_rng(9), split) for _ in range(2)
        )
        for ours, theirs in zip(drawn[split], again, strict=True):
            assert ours.mode == theirs.mode
            assert pickle.dumps(ours) == pickle.dumps(theirs)
    train, test = ([pickle.dumps(dict(task.values)) for task in tasks] for tasks in drawn.values())
    assert train != test
    if name not in ("GridNavi", "DiscountingChain"):  # which have few tasks
        assert len({*train, *test}) == 100
    with pytest.raises(ValueError, match=r"split: expected one of \('train', 'test'\) .* got 'ood'"):
        make_family(name).sample_tasks(1, np.random.default_rng(0), "ood")


def _noise(name: str) -> dict[str, float]:
    """So that no two goals of a family are the same."""
    return {"noise": 0.5} if name.startswith("MetaPoint") else {}


def test_splits_do_not_share_draws_along_a_stream_either() -> None:
    family, train, test = make_family("2DNavigation-v0"), np.random.default_rng(0), np.random.default_rng(0)
    sets = [
        {tuple(task.values["goal"]) for _ in range(20) for task in family.sample_tasks(20, rng, split)}
        for rng, split in ((train, "train"), (test, "test"))
    ]
    assert [len(goals) for goals in sets] == [400, 400]
    assert not sets[0] & sets[1]


@pytest.mark.parametrize("name", WITHOUT_PHYSICS)
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
    observations, rewards, terminated, truncated, infos = family.step(action)
    assert observations.dtype == rewards.dtype == np.float32
    assert terminated.dtype == truncated.dtype == bool
    assert observations.flags.c_contiguous and observations.shape == family.observation_space.shape
    assert not truncated.any()
    terms = [term for key, term in infos.items() if key.startswith("reward_")]
    assert all(term.dtype == np.float32 for term in terms)
    np.testing.assert_allclose(sum(terms), rewards, rtol=1e-6)


@pytest.mark.parametrize("name", BOXES)
def test_actions_are_clipped_to_the_bounds(name: str) -> None:
    family, control = block(name), block(name)
    for one in (family, control):
        one.reset(seed=0)
    actions = random_actions(family, 1, spread=3)[0]
    bounds = family.single_action_space
    clipped = np.clip(actions, bounds.low, bounds.high)  # type: ignore[attr-defined]
    assert (clipped != actions).any()
    np.testing.assert_array_equal(family.step(actions)[0], control.step(clipped)[0])


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_actions_that_there_are_not_are_refused(name: str) -> None:
    family = block(name)
    family.reset(seed=0)
    for wrong in (-1, family.single_action_space.n):  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="actions: expected"):
            family.step(np.array([0] * 11 + [wrong]))


@pytest.mark.parametrize("name", WITHOUT_PHYSICS)
def test_a_block_says_when_it_needs_a_reset(name: str) -> None:
    family = make_family(name, 2, 1)
    actions = random_actions(family, 1)[0]
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


@pytest.mark.parametrize("name", WITHOUT_PHYSICS)
def test_tasks_of_another_family_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"tasks: expected '.*' of shape .* in each task's values"):
        make_family(name).set_tasks([Task(0, {"height": 1.0})])


@pytest.mark.parametrize(
    ("counts", "message"), [((0, 1), "num_tasks: .* 1, got 0"), ((1, -2), "rollouts_per_task: .* -2")]
)
def test_a_block_has_lanes(counts: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_family("MetaPointEnvMomentumModes", *counts)
