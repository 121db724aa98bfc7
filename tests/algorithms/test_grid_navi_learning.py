"""What RL² and VariBAD learn in GridNavi, in a part of the published runs' time; and what VariBAD then believes.

Returns of episodes 1 … 4: the best policy has 4.0, 11.07, 11.07, 11.07. Without a memory every episode is a new search,
which has 4.0 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms.varibad import VariBAD
from mmaml.config.keys import Config
from mmaml.config.loading import load_config
from mmaml.config.shipped import shipped_configs
from mmaml.envs.grid_navi import GridNavi
from mmaml.worker import Worker
from tests.helpers.support import held_out_returns, run

pytestmark = [pytest.mark.learn, pytest.mark.slow]


def trained(name: str, folder: Path, **overrides: Any) -> tuple[Config, dict[str, Any]]:
    """The configuration and the last checkpoint of a run of a configuration that comes with the package."""
    config = load_config(shipped_configs()[name], overrides | {"parallel": False, "dump_path": str(folder / name)})
    return config, run(config)


@pytest.fixture(scope="module")
def varibad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any]]:
    return trained("grid_navi_varibad", tmp_path_factory.mktemp("run"), n_itr=450)


def assert_learned(found: tuple[Config, dict[str, Any]], least: Sequence[float]) -> None:
    """least: only a part of the best returns, but after the first episode more than is possible without a memory."""
    assert (held_out_returns(*found, tasks=400).mean(0) >= least).all()


def test_rl2_learns_to_search_and_to_return(tmp_path: Path) -> None:
    assert_learned(trained("rl2_ppo", tmp_path, n_itr=160, learning_rate_anneal=0.988), [1.0, 5.0, 7.5, 7.5])


def test_varibad_learns_to_search_and_to_return(varibad: tuple[Config, dict[str, Any]]) -> None:
    assert_learned(varibad, [2.0, 7.0, 9.0, 9.0])


def test_varibad_expects_the_goal_where_it_has_not_been(varibad: tuple[Config, dict[str, Any]]) -> None:
    """After an episode in which it found none; once it has found one, there."""
    config, state = varibad
    worker = Worker(config)
    algorithm = worker.algorithm
    assert isinstance(algorithm, VariBAD)
    goals = torch.from_numpy(GridNavi().goals().astype(np.float32))
    tasks = worker.sample_tasks(100, 0, "test")
    visited, unvisited, found = [], [], []
    for parameters in (algorithm.init(np.random.default_rng(0)), state["parameters"]):
        flat = algorithm.spec.flatten(parameters)
        worker.collect(flat, None, list(enumerate(tasks)), 0, "test")
        assert worker.block is not None
        (data,) = worker.block.rollouts
        steps = torch.full((*data.rewards.shape[:2], 1), 15)
        expected = algorithm.expected_rewards(flat, data, steps, goals)
        assert expected is not None
        expected = expected[:, :, 0]  # in each cell after the first episode, [M, N, 21]
        seen = (data.observations[:, :, :15, None] == goals).all(-1).any(2)
        rewarded = (data.rewards[:, :, :14] > 0).any(2)  # where the last step led is not seen
        nothing = (data.rewards[:, :, :15] < 0).all(2)[..., None]
        goal = torch.tensor(np.stack([task.values["goal"] for task in tasks]), dtype=torch.float32)
        at_goal = (goals == goal[:, None, None]).all(-1) & rewarded[..., None]
        visited.append(float(expected[seen & nothing].mean()))
        unvisited.append(float(expected[~seen & nothing].mean()))
        found.append(float(expected[at_goal].mean()))
    assert visited[0] > 0.8 * unvisited[0]  # before training
    assert visited[1] < 0.5 * unvisited[1] and found[1] > 0.8
