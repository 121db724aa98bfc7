"""Running statistics: their mathematics, and what a run does with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mmaml.config.algorithms import ALGORITHMS
from mmaml.sampling import normalisation
from mmaml.sampling.normalisation import (
    MAX_NORMALISED,
    MIN_VARIANCE,
    Moments,
    ObservedMoments,
    RunningStatistics,
    Scaling,
    moments_of_returns,
)
from mmaml.sampling.rollouts import Rollouts
from mmaml.worker import Worker
from tests.helpers.support import assert_same_states, new_worker, run, small_config
from tests.helpers.synthetic import ragged_rollouts

BOTH = {"normalize_observations": True, "normalize_rewards": True}


def observed(collections: list[Rollouts]) -> dict[str, np.ndarray]:
    """What is found of their observations, step by step."""
    tasks, lanes, length, size = collections[0].observations.shape
    moments = ObservedMoments(tasks, lanes, size)
    for data in collections:
        for t in range(length):
            moments.add(data.observations[:, :, t].numpy(), (data.mask > 0)[..., t].numpy())
    return moments.found()


@pytest.mark.parametrize("chunk", [1, 30, 10_000])
@pytest.mark.parametrize("collect", ["lanes", "episodes"])
def test_merged_moments_are_those_of_all_real_steps(collect: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Junk on padding counts for nothing, nor does the order of batches but for rounding."""
    monkeypatch.setattr(normalisation, "CHUNK", chunk)
    collections = [ragged_rollouts(collect=collect, seed=seed) for seed in range(2)]
    statistics = RunningStatistics(observations=True, rewards=False, observation_size=3)
    statistics.update(observed(collections))
    seen = torch.cat([data.observations[data.mask > 0] for data in collections]).numpy()
    scaling = Scaling.from_vector(statistics.vector())
    assert scaling is not None and scaling.reward_scale == 1
    np.testing.assert_allclose(scaling.mean, seen.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scaling.std, np.sqrt(seen.var(0) + MIN_VARIANCE), rtol=1e-6)
    normalised = scaling.normalised(torch.from_numpy(seen))
    torch.testing.assert_close(normalised.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.std(0, correction=0), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(scaling.original(normalised).double(), torch.from_numpy(seen), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("over_trial", [False, True])
@pytest.mark.parametrize("collect", ["lanes", "episodes"])
def test_returns_so_far_are_of_the_episode_or_of_the_lane(collect: str, over_trial: bool) -> None:
    data = ragged_rollouts(tasks=2, collect=collect, horizon=6)
    assert bool(data.episode_start[..., 1:].any()) == (collect == "lanes")
    found = moments_of_returns([data], 0.5, over_trial)
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


def test_a_tasks_moments_do_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does in how many steps they are taken together."""
    monkeypatch.setattr(normalisation, "CHUNK", 30)  # two steps of four lanes
    data = ragged_rollouts(tasks=3, dtype=torch.float32)
    together = observed([data]) | moments_of_returns([data], 0.9, False)
    for task in range(3):
        own = [data.select(slice(task, task + 1))]
        alone = observed(own) | moments_of_returns(own, 0.9, False)
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][task])


def test_nothing_is_scaled_before_anything_was_seen() -> None:
    vector = RunningStatistics(observations=True, rewards=True, observation_size=2).vector()
    assert vector is not None and vector.tolist() == [0, 0] * 3 + [1, 1, 1]
    assert RunningStatistics(observations=False, rewards=False, observation_size=2).vector() is None
    moments = Moments(2)
    moments.add(0.0, np.full(2, np.nan), np.full(2, np.nan))
    assert moments.count == 0 and not moments.mean.any()


def test_what_a_checkpoint_holds_of_moments_no_later_batch_changes() -> None:
    """A run that ends within an iteration leaves those of the one before."""
    moments = Moments(2)
    moments.add(3.0, np.array([1.0, 2.0]), np.array([4.0, 5.0]))
    held = moments.state_dict()
    moments.add(1.0, np.array([5.0, 6.0]), np.array([0.0, 7.0]))
    assert held["count"] == 3 and held["mean"].tolist() == [1, 2] and held["squares"].tolist() == [4, 5]
    assert moments.mean.tolist() == [2, 3] and moments.squares.tolist() == [16, 24]


def test_the_policy_sees_scaled_observations_and_learns_from_scaled_rewards() -> None:
    """The environment is another one to the policy alone: with the scaling undone, the same is sampled."""
    worker, parameters, items = new_worker("rllib_maml")
    size = worker.spec.observation_size
    scaling = Scaling(torch.zeros(size), torch.ones(size), 4.0).vector()
    worker.collect(parameters, None, items, 0, stages=1)
    assert worker.block is not None
    plain = worker.block.rollouts[0]
    found = worker.collect(parameters, scaling, items, 0, stages=1)
    scaled = worker.block.rollouts[0]
    assert torch.equal(scaled.rewards, plain.rewards) and torch.equal(scaled.observations, plain.observations)
    state = worker.algorithm.begin(worker.algorithm.spec.per_task(parameters, len(items)), plain.identity)
    with torch.no_grad():
        _, targets = worker.algorithm.advantages(state, plain, plain.rewards / 4)
    torch.testing.assert_close(scaled.value_targets, targets)
    assert not torch.equal(scaled.value_targets, plain.value_targets)
    assert found["observations_count"].tolist() == [plain.mask[0].numel()] * len(items)
    scaling = Scaling(torch.full((size,), 0.5), torch.full((size,), 2.0), 4.0).vector()
    worker.collect(parameters, scaling, items, 0, stages=1)
    first = worker.block.rollouts[0].observations[:, :, 0]
    torch.testing.assert_close(first, (plain.observations[:, :, 0] - 0.5) / 2)
    assert torch.equal(worker.block.rollouts[0].steps().observation, worker.block.rollouts[0].observations)


def test_of_trials_all_real_steps_are_observed_and_returns_go_over_the_ends_of_episodes() -> None:
    values: dict[str, Any] = {"env": "tests.helpers.probes:RandomLengths", "env_kwargs": {"longest": 9}, **BOTH}
    values |= {"episodes_per_trial": 3, "collect": "episodes", "discount": 0.8}
    worker, parameters, items = new_worker("rl2", **values)
    found = worker.collect(parameters, worker.statistics().vector(), items, 0)
    assert worker.block is not None
    (data,) = worker.block.rollouts
    real = data.mask > 0
    assert not real.all()
    assert found["observations_count"].tolist() == real.sum((1, 2)).tolist()
    for task, mean in enumerate(found["observations_mean"]):
        np.testing.assert_allclose(mean, data.observations[task][real[task]].double().mean(0), rtol=1e-6)
    for name, value in moments_of_returns([data], 0.8, True).items():
        np.testing.assert_array_equal(found[name], value)


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


# Observations of another scale.

CLOCK = 1.7e9


class OtherScales(gym.Env):
    """Observations: a clock, seconds since 1970; and of an image of 8 bits, a bright pixel and one that is black.

    The clock begins at the task's time and advances by 0.02 s a step; the bright pixel loses 1 a step, from 200 on.
    Reward: 1e6 times the action. wide: as numbers that hold the clock, else as float32 numbers do.
    """

    def __init__(self, wide: bool = True) -> None:
        dtype: Any = np.float64 if wide else np.float32
        self.observation_space = gym.spaces.Box(0, 1e10, (3,), dtype)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.dtype = dtype

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[int]:
        return list(range(n))

    def set_task(self, task: int) -> None:
        self.start = CLOCK + task

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.step_count = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.step_count += 1
        return self._observe(), 1e6 * float(action[0]), False, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.start + 0.02 * self.step_count, 200 - self.step_count, 0], self.dtype)


def seen_by(algorithm: str, **overrides: Any) -> tuple[Worker, RunningStatistics, list[Any]]:
    """A worker with the statistics of a first collection of 5 tasks, 3 lanes and 7 steps each."""
    env = {"env": f"{__name__}:OtherScales", **BOTH}
    worker, parameters, items = new_worker(algorithm, **env, **overrides)
    statistics = worker.statistics()
    statistics.update(worker.collect(parameters, statistics.vector(), items, 0))
    worker.collect(parameters, statistics.vector(), items, 1)
    return worker, statistics, items


@pytest.mark.parametrize("algorithm", ["promp", "rl2", "mgrl", "varibad", "snail", "epn"])
def test_a_clock_and_an_image_are_normalised_before_they_become_float32(algorithm: str) -> None:
    """Their exact mean and standard deviation over the tasks and steps of the first collection."""
    worker, statistics, items = seen_by(algorithm)
    assert worker.block is not None
    times = 0.02 * np.arange(7)
    clock = np.array([CLOCK + task.values["task"] + times for _, task in items])
    pixel = np.tile(200 - np.arange(7.0), (len(items), 1))
    moments = statistics.moments["observations"]
    np.testing.assert_allclose(moments.mean, [clock.mean(), pixel.mean(), 0], rtol=1e-14)
    np.testing.assert_allclose(moments.std, np.sqrt([clock.var() + 1e-6, pixel.var() + 1e-6, 1e-6]), rtol=1e-8)
    seen = worker.block.rollouts[0].observations.numpy()
    assert seen.dtype == np.float32 and (seen == seen[:, :1]).all()
    for index, exact in enumerate((clock, pixel)):
        expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-6)
        np.testing.assert_allclose(seen[:, 0, :, index], expected, rtol=1e-6, atol=1e-6)
    assert not seen[..., 2].any()
    assert len(np.unique(seen[0, 0, :, 0])) == 7


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_normalises_both(algorithm: str, tmp_path: Path) -> None:
    """An iteration without statistics and one with them: all that is learned stays finite and in its range."""
    env = {"env": f"{__name__}:OtherScales", **BOTH}
    state = run(small_config(algorithm, **env, n_itr=2, dump_path=str(tmp_path / "run")))
    assert state["counts"]["BadUpdates"] == 0
    assert max(float(value.abs().max()) for value in state["parameters"].values()) < 10
    returns = state["statistics"]["returns"]
    assert "normalize_rewards" in small_config(algorithm).declaration.without or returns["count"] > 0


def test_what_one_scaling_has_normalised_is_normalised_again_by_another() -> None:
    """As what was observed would be, of which float32 may not hold enough; to the bit where they are the same."""
    before, now = (
        Scaling(torch.tensor(mean).double(), torch.tensor(std).double(), 1.0)
        for mean, std in (([1e9, 1.0], [2.0, 3.0]), ([1e9 + 1.5, 0.0], [1.0, 4.0]))
    )
    drawn = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    observed = before.mean + before.std * drawn
    seen = before.normalised(observed)
    torch.testing.assert_close(now.renormalised(seen, before.vector()), now.normalised(observed), rtol=1e-5, atol=1e-5)
    assert torch.equal(before.renormalised(seen, before.vector()), seen)


def test_nothing_is_lost_of_a_mean_that_travels() -> None:
    for value in (CLOCK + 0.123456, -np.pi, 0.0, 1e-3, 123456789.123456):
        mean = torch.tensor([value, 1.0], dtype=torch.float64)
        vector = Scaling(mean, torch.ones(2), 2.0).vector()
        found = Scaling.from_vector(vector)
        assert vector.dtype == torch.float32 and found is not None and found.reward_scale == 2
        assert torch.equal(found.mean, mean)


def test_what_lies_far_out_is_clipped_and_what_is_not_finite_is_not_hidden() -> None:
    scaling = Scaling(torch.zeros(1), torch.ones(1), 1.0)
    found = scaling.normalised(torch.tensor([[1e9], [-50.0], [3.0], [torch.inf], [torch.nan]]))
    assert found[:4, 0].tolist() == [MAX_NORMALISED, -MAX_NORMALISED, 3.0, torch.inf] and found[4].isnan()
