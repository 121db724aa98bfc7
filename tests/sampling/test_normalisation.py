"""Running statistics: their mathematics, and what a run does with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.sampling.normalisation import MIN_VARIANCE, Moments, RunningStatistics, Scaling, moments_of_tasks
from mmaml.worker import Worker
from tests.helpers.support import assert_same_states, new_worker, run, small_config
from tests.helpers.synthetic import ragged_rollouts

PLAIN = Scaling(torch.zeros(3), torch.ones(3), 1.0)
BOTH = {"normalize_observations": True, "normalize_rewards": True}


@pytest.mark.parametrize("collect", ["lanes", "episodes"])
def test_merged_moments_are_those_of_all_real_steps(collect: str) -> None:
    """Junk on padding counts for nothing, nor does the order of batches but for rounding."""
    collections = [ragged_rollouts(collect=collect, seed=seed) for seed in range(2)]
    statistics = RunningStatistics(observations=True, rewards=False, observation_size=3)
    statistics.update(moments_of_tasks(collections, PLAIN, 0.9, over_trial=False))
    seen = torch.cat([data.observations[data.mask > 0] for data in collections]).numpy()
    vector = statistics.vector()
    assert vector is not None
    scaling = Scaling.from_vector(vector)
    assert scaling is not None and scaling.reward_scale == 1
    np.testing.assert_allclose(scaling.mean, seen.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scaling.std, np.sqrt(seen.var(0) + MIN_VARIANCE), rtol=1e-6)
    normalised = scaling.normalised(torch.from_numpy(seen).float())
    torch.testing.assert_close(normalised.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.std(0, correction=0), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(scaling.original(normalised).double(), torch.from_numpy(seen), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("over_trial", [False, True])
def test_returns_so_far_are_of_the_episode_or_of_the_lane(over_trial: bool) -> None:
    data = ragged_rollouts(tasks=2, collect="episodes", horizon=6)
    found = moments_of_tasks([data], PLAIN, 0.5, over_trial)
    for task in range(2):
        sums = []
        for lane in range(4):
            so_far = 0.0
            for t in range(6):
                if data.mask[task, lane, t]:
                    if data.episode_start[task, lane, t] and not over_trial:
                        so_far = 0.0
                    so_far = 0.5 * so_far + float(data.rewards[task, lane, t])
                    sums.append(so_far)
        assert found["returns_count"][task] == len(sums)
        np.testing.assert_allclose(found["returns_mean"][task], [np.mean(sums)])
        np.testing.assert_allclose(found["returns_squares"][task], [np.var(sums) * len(sums)])


def test_a_tasks_moments_do_not_depend_on_the_others() -> None:
    data = ragged_rollouts(tasks=3, dtype=torch.float32)
    together = moments_of_tasks([data], PLAIN, 0.9, False)
    for task in range(3):
        alone = moments_of_tasks([data.select(slice(task, task + 1))], PLAIN, 0.9, False)
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][task])


def test_nothing_is_scaled_before_anything_was_seen() -> None:
    vector = RunningStatistics(observations=True, rewards=True, observation_size=2).vector()
    assert vector is not None and vector.tolist() == [0, 0, 1, 1, 1]
    assert RunningStatistics(observations=False, rewards=False, observation_size=2).vector() is None
    moments = Moments(2)
    moments.add(0.0, np.full(2, np.nan), np.full(2, np.nan))
    assert moments.count == 0 and not moments.mean.any()


def test_the_policy_sees_scaled_observations_and_learns_from_scaled_rewards() -> None:
    """The environment is another one to the policy alone: with the scaling undone, the same is sampled."""
    worker, parameters, items = new_worker("rllib_maml")
    size = worker.spec.observation_size
    scaling = torch.cat([torch.zeros(size), torch.ones(size), torch.tensor([4.0])])
    worker.collect(parameters, None, items, 0, stages=1)
    assert worker.block is not None
    plain = worker.block.rollouts[0]
    found = worker.collect(parameters, scaling, items, 0, stages=1)
    scaled = worker.block.rollouts[0]
    assert torch.equal(scaled.rewards, plain.rewards) and torch.equal(scaled.observations, plain.observations)
    assert not torch.equal(scaled.value_targets, plain.value_targets)
    assert found["observations_count"].tolist() == [plain.mask[0].numel()] * len(items)
    scaling[:size], scaling[size : 2 * size] = 0.5, 2.0
    worker.collect(parameters, scaling, items, 0, stages=1)
    first = worker.block.rollouts[0].observations[:, :, 0]
    torch.testing.assert_close(first, (plain.observations[:, :, 0] - 0.5) / 2)
    assert torch.equal(worker.block.rollouts[0].steps().observation, worker.block.rollouts[0].observations)


@pytest.mark.parametrize("algorithm", ["promp", "mmaml", "rllib_maml"])
def test_a_run_goes_on_from_its_statistics(algorithm: str, tmp_path: Path) -> None:
    values: dict[str, Any] = BOTH | {"save_steps": 1, "eval_interval": 2, "eval_num_tasks": 2}
    whole = run(small_config(algorithm, n_itr=4, dump_path=str(tmp_path / "whole"), **values))
    path = str(tmp_path / "parts")
    run(small_config(algorithm, n_itr=2, dump_path=path, **values))
    assert_same_states(run(small_config(algorithm, n_itr=4, dump_path=path, restore_path=path, **values)), whole)
    # 4 iterations of 4 tasks, 3 rollouts and 7 steps, twice: held-out tasks are not among them.
    assert whole["statistics"]["observations"]["count"] == 4 * 4 * 3 * 7 * 2
    without = run(small_config(algorithm, n_itr=4, dump_path=str(tmp_path / "without")))
    assert "statistics" not in without


def test_an_update_that_is_skipped_leaves_the_statistics(tmp_path: Path) -> None:
    wrong = {"fault": "reward", "tasks": [0], "collection": 1}
    bad = {"env": "tests.helpers.probes:GoesWrong", "env_kwargs": wrong, "max_bad_updates": 9}
    state = run(small_config("promp", dump_path=str(tmp_path / "run"), **BOTH, **bad))
    assert state["counts"]["BadUpdates"] == 2 and state["statistics"]["observations"]["count"] == 0
    assert Worker(small_config("promp", **BOTH, **bad)).statistics(state).vector() is not None
