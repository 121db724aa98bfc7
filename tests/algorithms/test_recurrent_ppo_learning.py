"""PPO over whole trials learns what needs a memory, and controls that lack one part of it do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.worker import Worker
from tests.helpers.memory_probes import BANDIT, MODULE
from tests.helpers.support import held_out_returns, run, small_config

LEARNING: dict[str, Any] = {
    "meta_batch_size": 32,
    "rollouts_per_meta_task": 8,
    "max_path_length": 1,
    "num_minibatches": 4,
    "num_promp_steps": 8,
    "learning_rate": 3e-3,
    "clip_eps": 0.2,
    "gae_lambda": 0.95,
    "entropy_coeff": 0.01,
    "max_grad_norm": 0.5,
    "cell_size": 32,
}
SURE = {"env": f"{MODULE}:Sure", "episodes_per_trial": 5, "n_itr": 15}
LOOK = {"env": f"{MODULE}:PayToLook", "episodes_per_trial": 2, "n_itr": 22}
PULLS = BANDIT | {"episodes_per_trial": 10, "n_itr": 60, "gae_lambda": 0.3}
MANY_TASKS = {"meta_batch_size": 128, "rollouts_per_meta_task": 2}
RECALL = {"env": f"{MODULE}:Recall", "max_path_length": 30, "n_itr": 28}
LONG_RECALL = RECALL | {"env_kwargs": {"length": 64}, "max_path_length": 64, "n_itr": 40}
SNAIL = {"n_itr": 25, "learning_rate": 1e-3}
SMALL_SNAIL = {"n_itr": 25, "filters": 16, "attention_size": 16}
SHORT_RECALL = RECALL | {"env_kwargs": {"length": 5}, "max_path_length": 5, "n_itr": 12, "num_promp_steps": 6}
SMALL_EPN: dict[str, Any] = {"memory_embedding_size": 8, "planning_iterations": 1}
SMALL_EPN |= {"learning_rate": 2e-3, "learning_rate_anneal": 0.9}
FORGETFUL_PLANNER = "tests.helpers.forgetful_planner:ForgetfulPlanner"


@pytest.mark.long
@pytest.mark.learn
@pytest.mark.parametrize(
    "algorithm, probe, low, high",
    [
        ("rl2", SURE, 4.4, 4.5),
        (f"{MODULE}:WithoutFeedback", SURE, 2.3, 2.7),
        (f"{MODULE}:WithoutEarlierEpisodes", SURE, 2.3, 2.7),
        ("rl2", LOOK, 0.85, 0.9),
        (f"{MODULE}:CreditCutAtEpisodes", LOOK, -0.2, 0.2),
        ("rl2", RECALL, 0.9, 1.0),
        pytest.param("snail", SURE | SNAIL, 4.4, 4.5, marks=pytest.mark.slow),
        ("snail", LOOK | {"n_itr": 16}, 0.85, 0.9),
        pytest.param("rl2", LONG_RECALL, 0.9, 1.0, marks=pytest.mark.slow),
        pytest.param("snail", RECALL | SMALL_SNAIL, 0.9, 1.0, marks=pytest.mark.slow),
        pytest.param("snail", LONG_RECALL | SMALL_SNAIL, 0.9, 1.0, marks=pytest.mark.slow),
        (f"{MODULE}:Forgetful", SHORT_RECALL, 0.15, 0.35),
        (f"{MODULE}:AnewInEachEpisode", SHORT_RECALL, 0.9, 1.0),
        ("epn", SHORT_RECALL | SMALL_EPN, 0.9, 1.0),
        (FORGETFUL_PLANNER, SHORT_RECALL | SMALL_EPN | {"n_itr": 6}, 0.15, 0.35),
        pytest.param("epn", LOOK | SMALL_EPN | {"n_itr": 20}, 0.85, 0.9, marks=pytest.mark.slow),
    ],
)
def test_it_learns_what_needs_a_memory_and_controls_do_not(
    algorithm: str, probe: dict[str, Any], low: float, high: float, tmp_path: Path
) -> None:
    config = small_config(algorithm, **LEARNING | probe, dump_path=str(tmp_path / "run"))
    found = held_out_returns(config, run(config), 400).mean(0).sum()
    assert low <= found <= high + 0.04  # by which a sample of so many trials may exceed what is expected


@pytest.mark.learn
@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm, keys, low, high",
    [
        ("rl2", MANY_TASKS, 5.9, 6.06),
        (f"{MODULE}:AnewInEachEpisode", {}, 4.9, 5.82),
        (f"{MODULE}:WithoutEarlierEpisodes", {}, 4.5, 5.5),
        ("snail", {"learning_rate": 1e-3}, 5.9, 6.05),
    ],
)
def test_it_explores_a_bandit_better_than_the_last_pull_alone_allows(
    algorithm: str, keys: dict[str, Any], low: float, high: float, tmp_path: Path
) -> None:
    """The optimum is 6.022, win-stay-lose-shift has 5.796; of pulls' probabilities, which vary less than rewards."""
    config = small_config(algorithm, **LEARNING | PULLS | keys, dump_path=str(tmp_path / "run"))
    worker = Worker(config)
    parameters = worker.algorithm.spec.flatten(run(config)["parameters"])
    tasks = worker.sample_tasks(400, 0, "test")
    worker.collect(parameters, None, list(enumerate(tasks)), 0, "test")
    assert worker.block is not None
    probabilities = torch.tensor(np.stack([task.values["means"] for task in tasks]))
    pulled = (worker.block.rollouts[0].actions * probabilities[:, None, None]).sum(-1)
    regret = (probabilities.amax(-1)[:, None] - pulled.mean(1)).sum(-1).mean()
    assert low <= 10 * 2 / 3 - float(regret) <= high
