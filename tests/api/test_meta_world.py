"""Meta-World's own evaluation of trained policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmaml.api.meta_world import LAST_REWARD, ByMemory, evaluate
from mmaml.config.loading import build_config
from mmaml.envs.metaworld import OBSERVATIONS
from mmaml.errors import UsageError
from tests.helpers.metaworld import needs_metaworld
from tests.helpers.support import SMALL, run

REACH: dict[str, Any] = {"env": "Meta-World/ML1-reach-v3", "max_path_length": 12, "n_itr": 1}


def trained(folder: Path, **changes: Any) -> Path:
    run(build_config(SMALL | {"algorithm": "promp", "dump_path": str(folder)} | changes))
    return folder


@needs_metaworld
def test_meta_world_evaluates_a_run_on_its_test_tasks(tmp_path: Path) -> None:
    sizes = {"meta_batch_size": 2, "num_evals": 1, "evaluation_episodes": 2, "max_episode_steps": 12}
    folder = trained(tmp_path / "run", **REACH)
    score = evaluate(folder, **sizes)
    assert score == evaluate(folder, **sizes)
    assert 0 <= score.success_rate <= 1 and score.success_rates == {"reach-v3": score.success_rate}
    assert 0 < score.mean_return < 12 * 10


@needs_metaworld
def test_other_sizes_are_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", **REACH)
    with pytest.raises(UsageError, match=r"meta_batch_size: expected one of 1, 2, 4, 5, 8, 10, 20, 40, so .* got 3"):
        evaluate(folder, meta_batch_size=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("meta_batch_size", 0), ("evaluation_episodes", 0), ("num_evals", 0.5), ("seed", -1), ("max_episode_steps", 0)],
)
def test_numbers_are_checked_before_anything_is_loaded(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"{name}: expected a whole number .*, got {value}"):
        evaluate("nowhere", **{name: value})


@needs_metaworld
def test_a_policy_that_observes_its_environment_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", **REACH, env_kwargs={"one_hot": True})
    with pytest.raises(UsageError, match="run: it observes which environment it is in"):
        evaluate(folder, meta_batch_size=1)


def test_a_run_on_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^run: expected a checkpoint, .* which does not exist"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="run: expected one on an ML benchmark of Meta-World, got one on 'Meta"):
        evaluate(trained(tmp_path / "run", n_itr=1), meta_batch_size=1)


@needs_metaworld
def test_meta_world_evaluates_a_policy_that_adapts_by_remembering(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", **REACH, algorithm="rl2", episodes_per_trial=3)
    sizes = {"meta_batch_size": 2, "num_evals": 1, "evaluation_episodes": 2, "max_episode_steps": 12}
    score = evaluate(folder, **sizes)
    assert score != evaluate(folder, **sizes, seed=1)
    assert 0 < score.mean_return < 12 * 10


class Recorder:
    """A policy with two lanes: its memory is all that was recorded, and its actions are how much that is."""

    def __init__(self) -> None:
        self.lanes: list[list[float]] = [[], []]

    def act(self, observations: np.ndarray, deterministic: bool = False) -> np.ndarray:
        assert observations.shape == (2, OBSERVATIONS)
        return np.array([[sum(lane)] for lane in self.lanes])

    def record(self, rewards: np.ndarray, **_: Any) -> None:
        for lane, reward in zip(self.lanes, rewards, strict=True):
            lane.append(float(reward))

    def memory(self) -> list[list[float]]:
        return [[*lane] for lane in self.lanes]

    def recall(self, memory: list[list[float]], lanes: list[int]) -> None:
        for lane in lanes:
            self.lanes[lane] = [*memory[lane]]


def seen(rewards: list[float]) -> np.ndarray:
    """Observations of two environments, with the last rewards."""
    observations = np.zeros((2, LAST_REWARD + 2))
    observations[:, LAST_REWARD] = rewards
    return observations


def test_rewards_of_an_evaluation_are_remembered_until_the_episode_ends() -> None:
    """Each episode goes on from what the adaptation left, whatever happened in the one before."""
    policy: Any = Recorder()
    agent = ByMemory(policy)
    policy.reset_task = lambda: None
    agent.init()
    policy.record(np.array([1, 2]))
    agent.adapt()
    agent.reset(np.array([True, True]))
    assert agent.eval_action(seen([0, 0]))[:, 0].tolist() == [1, 2]
    assert agent.eval_action(seen([10, 20]))[:, 0].tolist() == [11, 22]
    agent.reset(np.array([False, True]))
    assert agent.eval_action(seen([100, 0]))[:, 0].tolist() == [111, 2]
    assert agent.eval_action(seen([1000, 200]))[:, 0].tolist() == [1111, 202]


@needs_metaworld
def test_a_policy_that_does_not_adapt_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", **REACH, algorithm="mgrl")
    with pytest.raises(UsageError, match="run: mgrl does not adapt to a task; `mmaml evaluate` measures it"):
        evaluate(folder, meta_batch_size=1)
