"""Pictures of what a policy does in bandits, grids, chains and MDPs: that they show what was done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from mmaml.config.keys import Config
from mmaml.envs.registry import FAMILIES, make_family
from mmaml.figures.bandit_pulls import BanditPulls, bandit_pulls
from mmaml.figures.chain_choices import chain_choices
from mmaml.figures.family_pictures import picture_of
from mmaml.figures.goals_collected import goals_collected
from mmaml.figures.grid_paths import GridPaths, grid_paths, plot_grid_paths
from mmaml.figures.mdp_actions import mdp_actions
from mmaml.figures.recording import SampledStages, sampled_stages
from mmaml.worker import Worker
from tests.helpers.recurrent_bandit import MODULE
from tests.helpers.support import small_config

RECURRENT = f"{MODULE}:RecurrentBandit"
DISCRETE = ["BernoulliBandit", "GaussianBandit", "GridNavi", "KrazyWorld", "DiscountingChain"]
DISCRETE += ["TabularMDP", "MemoryPlanningGame"]
DRAWN = [*DISCRETE, "SparsePointRobot"]


def config_of(env: str, episodes: int, **overrides: Any) -> Config:
    """Of an algorithm with trials of some episodes, or where that is 0, of one that adapts by gradients."""
    values: dict[str, Any] = {"env": env, "max_path_length": min(FAMILIES[env].horizon, 20)}
    if episodes:
        values |= {"episodes_per_trial": episodes, "init_inner_kl_penalty": 0.0}
    return small_config(RECURRENT if episodes else "promp", **values | overrides)


def sampled(env: str, episodes: int, rollouts: int = 3, **overrides: Any) -> SampledStages:
    config = config_of(env, episodes, **overrides)
    algorithm = Worker(config).algorithm
    return sampled_stages(config, {"parameters": algorithm.init(np.random.default_rng(0))}, rollouts)


@pytest.mark.parametrize("episodes", [0, 3])
def test_a_walk_is_that_of_the_first_rollout(episodes: int) -> None:
    shown = sampled("GridNavi", episodes)
    paths = grid_paths(shown)
    assert paths.by_episode == (episodes > 0) and paths.returns.shape == (4, episodes or 2)
    for (task, stage), returned in np.ndenumerate(paths.returns):
        cells, goal = paths.cells[task][stage], shown.tasks[task].values["goal"]
        assert cells.shape == (15, 2) and not cells[0].any()
        assert (np.abs(np.diff(cells, axis=0)).sum(1) <= 1).all()
        on_goal = (cells[1:] == goal).all(1).sum()  # where the last step led is not known
        assert returned == pytest.approx(1.1 * on_goal - 1.5, abs=1e-5) or returned == pytest.approx(
            1.1 * (on_goal + 1) - 1.5, abs=1e-5
        )
    assert (np.argwhere(paths.tiles == 1)[:, 1:] == [task.values["goal"] for task in shown.tasks]).all()


def test_a_walk_ends_with_its_episode() -> None:
    shown = sampled("KrazyWorld", 2, env_kwargs={"energy": 5, "energy_cells": 0})
    paths = grid_paths(shown)
    starts = [task.values["start"] for task in shown.tasks]
    for task in range(4):
        for stage in range(2):
            cells = paths.cells[task][stage]
            assert 1 <= len(cells) <= 5 and (cells[0] == starts[task]).all()
    assert (paths.tiles == [task.values["board"] for task in shown.tasks]).all()


def test_pulls_are_counted_by_arm_and_regret_is_what_is_lost_by_them() -> None:
    pulls = bandit_pulls(sampled("BernoulliBandit", 6, rollouts=50))
    assert pulls.shares.shape == (4, 6, 5) and pulls.by_episode
    np.testing.assert_allclose(pulls.shares.sum(2), 1, rtol=1e-6)
    np.testing.assert_allclose(pulls.shares * 50, (pulls.shares * 50).round(), atol=1e-5)
    adapted = bandit_pulls(sampled("BernoulliBandit", 0, rollouts=50))
    assert adapted.shares.shape == (4, 2, 5) and not adapted.by_episode
    means = np.array([[0.2, 0.5, 0.9]])
    shares = np.array([[[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]]])
    by_hand = BanditPulls(shares, means, ["task 0"], by_episode=True)
    np.testing.assert_allclose(by_hand.regret, [[0.7, 1.1, 1.3]])
    np.testing.assert_allclose(by_hand.random_regret, [[11 / 30, 22 / 30, 33 / 30]])
    np.testing.assert_allclose(BanditPulls(shares, means, ["task 0"], False).regret, [[0.7, 0.4, 0.2]])


def test_choices_are_the_first_actions_of_episodes() -> None:
    shown = sampled("DiscountingChain", 0, max_path_length=25, env_kwargs={"length": 10, "reward_steps": [1, 10]})
    choices = chain_choices(shown)
    assert choices.shares.shape == (2, 2, 2) and choices.bonus.tolist() == [0, 1] and choices.steps.tolist() == [1, 10]
    np.testing.assert_allclose(choices.shares.sum(2), 1, rtol=1e-6)
    for stage, observations in enumerate(shown.observations):
        chains = observations[..., 0][observations[..., 1] == np.float32(0.1)].reshape(2, -1)  # a step after each start
        np.testing.assert_allclose((chains == 1).mean(1), choices.shares[:, stage, 1], atol=1e-6)
        assert chains.shape == (2, 9)  # three rollouts of three episodes
        assert shown.rollouts[stage].episode_start.sum((1, 2)).tolist() == [9, 9]


@pytest.mark.parametrize("episodes", [0, 3])
def test_the_best_action_of_an_mdp_is_counted_where_and_when_it_is_taken(episodes: int) -> None:
    """With two steps left the best action has the best reward and next rewards, with one left the best reward."""
    shown = sampled("TabularMDP", episodes, max_path_length=2, env_kwargs={"states": 3, "actions": 2})
    actions = mdp_actions(shown)
    assert actions.shares.shape == (4, episodes or 2, 3) and actions.by_episode == (episodes > 0)
    np.testing.assert_array_equal(actions.returns, shown.returns)
    for task, values in enumerate(task.values for task in shown.tasks):
        rewards, transitions = values["rewards"], values["transitions"]
        first = rewards + transitions @ rewards.max(1)
        assert actions.best_returns[task] == pytest.approx(first[0].max())
        assert actions.random_returns[task] == pytest.approx((rewards + transitions @ rewards.mean(1))[0].mean())
        for stage, data in enumerate(shown.rollouts):
            taken = data.actions[task].numpy().argmax(-1)
            states = shown.observations[stage][task].argmax(-1)
            assert states.shape == (3, 2) and not states[:, 0].any()
            right = taken == np.stack([first.argmax(1)[states[:, 0]], rewards.argmax(1)[states[:, 1]]], axis=1)
            for state, share in enumerate(actions.shares[task, stage]):
                visits = right[states == state]
                assert share == visits.mean() if len(visits) else np.isnan(share)


@pytest.mark.parametrize("episodes", [0, 2])
def test_goals_are_summed_up_over_the_steps_of_an_episode(episodes: int) -> None:
    shown = sampled("MemoryPlanningGame", episodes, rollouts=50, env_kwargs={"size": 2})
    collected = goals_collected(shown)
    assert collected.goals.shape == (4, 2, 21) and collected.by_episode == (episodes > 0)
    assert not collected.goals[..., 0].any() and (np.diff(collected.goals) >= 0).all()
    np.testing.assert_allclose(collected.goals[..., -1], shown.returns, rtol=1e-5)
    assert (collected.goals[..., -1] > 0).all()
    # Of the three other cells, two are one move away and one is two; to collect is another step.
    assert collected.shortest[:4] == pytest.approx([0, 0, 2 / 3, 1])


def test_of_many_stages_the_first_and_the_last_are_named(tmp_path: Path) -> None:
    shown = sampled("MemoryPlanningGame", 12, rollouts=1, max_path_length=4)
    draw = picture_of(type(shown.family))
    assert draw is not None
    draw(shown, tmp_path / "picture.svg", "title")
    named = re.findall("<!-- episode (.*?) -->", (tmp_path / "picture.svg").read_text())
    assert 2 <= len(named) <= 5 and {"1", "12"} <= set(named)


@pytest.mark.parametrize(("env", "episodes"), [*((env, 0) for env in DRAWN), *((env, 2) for env in DISCRETE)])
def test_every_picture_is_drawn(env: str, episodes: int, tmp_path: Path) -> None:
    shown = sampled(env, episodes)
    draw = picture_of(type(shown.family))
    assert draw is not None
    draw(shown, tmp_path / "picture.png", "title")
    pixels = imread(tmp_path / "picture.png")
    assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.01


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("BernoulliBandit", ["the policy", "pulls at random"]),
        ("DiscountingChain", ["bonus"]),
        ("TabularMDP", ["the policy", "actions at random", "best, with the task known", "share of best actions"]),
        ("MemoryPlanningGame", ["before adaptation", "after 1 step", "shortest paths, with the board known"]),
        ("SparsePointRobot", ["goal", "goals of the other tasks"]),
    ],
)
def test_a_picture_says_what_its_lines_and_stars_mean(env: str, words: list[str], tmp_path: Path) -> None:
    shown = sampled(env, 0)
    draw = picture_of(type(shown.family))
    assert draw is not None
    draw(shown, tmp_path / "picture.svg", "title")
    written = (tmp_path / "picture.svg").read_text()
    assert all(written.count(f"<!-- {word} -->") == 1 for word in words)


@pytest.mark.parametrize(
    ("algorithm", "stages"),
    [
        ("promp", ["before adaptation", "after 1 step"]),
        ("mgrl", ["without adaptation"]),
        ("rl2", ["episode 1", "episode 2"]),
    ],
)
@pytest.mark.parametrize("env", ["GridNavi", "DiscountingChain", "PointRobot", "MemoryPlanningGame"])
def test_a_picture_says_at_which_stages_it_shows_the_policy(
    env: str, algorithm: str, stages: list[str], tmp_path: Path
) -> None:
    values = {"env": env, "max_path_length": 5, "episodes_per_trial": 2 if algorithm == "rl2" else 1}
    config = small_config(algorithm, **values)
    state = {"parameters": Worker(config).algorithm.init(np.random.default_rng(0))}
    shown = sampled_stages(config, state, 2)
    draw = picture_of(type(shown.family))
    assert draw is not None
    draw(shown, tmp_path / "picture.svg", "title")
    written = re.findall("<!-- (.*?) -->", (tmp_path / "picture.svg").read_text())
    words = ("adaptation", "step", "episode")
    assert [text for text in written if any(word in text for word in words) and text != "steps"] == stages


def with_beliefs(beliefs: np.ndarray, path: Path) -> np.ndarray:
    """The picture of a board in each of some episodes, with beliefs [1, K+1, 5, 5]: pixels."""
    stages = beliefs.shape[1]
    tiles, cells = np.zeros((1, 5, 5), int), [[np.array([[2, 0], [2, 0]])] * stages]
    plot_grid_paths(GridPaths(tiles, cells, np.zeros((1, stages)), ["task 0"]), path, beliefs=beliefs)
    return imread(path)[..., :3]


def test_beliefs_colour_the_cells(tmp_path: Path) -> None:
    beliefs = np.zeros((1, 1, 5, 5))
    beliefs[0, 0, 3:] = 0.1
    right, left = with_beliefs(beliefs, tmp_path / "a.png"), with_beliefs(beliefs[:, :, ::-1], tmp_path / "b.png")
    changed = np.flatnonzero((np.abs(right - left).max(-1) > 0.1).any(0))
    assert np.sum(np.diff(changed) > len(changed) / 8) == 1  # four of five columns, not that in the middle


def test_beliefs_are_coloured_by_one_scale(tmp_path: Path) -> None:
    """Boards can be compared: what is a tenth of another is paler, although it is the most on its own board."""
    beliefs = np.zeros((1, 2, 5, 5))
    beliefs[0, 0, 3:], beliefs[0, 1, 3:] = 0.1, 1.0
    pixels = with_beliefs(beliefs, tmp_path / "picture.png")
    first, second = np.array_split(pixels[:, : pixels.shape[1] * 3 // 4], 2)
    assert np.percentile(second[..., 0], 5) < np.percentile(first[..., 0], 5) - 0.1


def test_a_family_may_have_no_picture() -> None:
    assert picture_of(type(make_family("CartPoleMassEnv"))) is None
