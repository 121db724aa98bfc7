"""`mmaml.load` of policies with a memory, and of those that see normalised observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmaml
from mmaml.config.loading import build_config
from mmaml.errors import UsageError
from mmaml.seeding import generator
from mmaml.storage import checkpoint
from mmaml.worker import Worker
from tests.helpers.recurrent_bandit import MODULE, WaitingBandit
from tests.helpers.support import run, small_config

LANES, EPISODES = 3, 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy remembers."""
    path = tmp_path_factory.mktemp("remembers") / "run"
    values = {"env": f"{MODULE}:WaitingBandit", "max_path_length": 2, "episodes_per_trial": EPISODES, "n_itr": 3}
    values |= {"rollouts_per_meta_task": LANES, "normalize_observations": True, "normalize_rewards": True}
    run(small_config(f"{MODULE}:RecurrentBandit", dump_path=str(path), learning_rate=0.05, **values))
    return path


def in_steps(policy: mmaml.TrainedPolicy, arm: int, rng: Any, steps: int) -> np.ndarray:
    """Actions [n, steps] of a user's loop in all lanes at once."""
    env = WaitingBandit(1, LANES)
    env.set_tasks(env.sample_tasks(2, np.random.default_rng(0))[:1])
    env._arm[:] = arm
    observation, _ = env.reset(seed=[0])
    actions = []
    for _ in range(steps):
        actions.append(policy.act(observation, rng=rng))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        over = policy.record(reward, terminated=terminated, truncated=truncated)
        if over.any():
            observation, _ = env.reset(options={"reset_mask": over})
    return np.stack(actions, 1)


def test_a_users_loop_remembers_as_the_worker_does(path: Path, tmp_path: Path) -> None:
    """Over the ends of episodes; as well when the policy is saved and loaded in between."""
    state = checkpoint.load(path)
    worker = Worker(build_config(state["config"]))
    tasks = worker.sample_tasks(2, 0, "test")
    scaling = worker.statistics(state).vector()
    worker.collect(worker.algorithm.spec.flatten(state["parameters"]), scaling, list(enumerate(tasks)), 0, "test")
    assert worker.block is not None
    for index, task in enumerate(tasks):
        rng = generator(worker.config.seed, "action", 0, index, 0, purpose="test")
        policy = mmaml.load(path)
        assert policy.has_memory and policy.adapt_steps == EPISODES - 1
        first = in_steps(policy, task.values["arm"], rng, 4)
        policy.adapt()  # which changes nothing
        policy.save(tmp_path / "policy.pt")
        again = mmaml.load(tmp_path / "policy.pt")
        second = in_steps(again, task.values["arm"], rng, 2 * EPISODES - 4)
        sampled = worker.block.rollouts[0].actions[index].argmax(-1).numpy()
        np.testing.assert_array_equal(np.concatenate([first, second], 1), sampled)


def test_a_lane_alone_remembers_what_it_does_among_others(path: Path) -> None:
    together, alone = mmaml.load(path), mmaml.load(path)
    numbers = np.random.default_rng(0)
    for step in range(6):
        observations = np.full((3, 1), float(step % 2 == 0), np.float32)
        rewards = numbers.random(3)
        actions = together.act(observations, deterministic=True, lanes=[0, 1, 2] if step % 2 else [2, 0, 1])
        own = alone.act(observations[:1, 0], deterministic=True)
        mine = 0 if step % 2 else 1
        assert own == actions[mine]
        together.record(rewards)
        alone.record(rewards[mine])
    together.reset_task()
    assert together.recorded_steps == 0 and not together._lanes


def test_steps_of_a_policy_that_remembers_have_to_be_recorded(path: Path) -> None:
    policy = mmaml.load(path)
    policy.act([1.0])
    with pytest.raises(UsageError, match="expected record\\(reward\\) first, since the policy remembers every step"):
        policy.act([1.0])
    with pytest.raises(UsageError, match="has a memory, which cannot be exported"):
        mmaml.load(path).module()


def test_a_policy_that_is_exported_sees_what_it_saw_in_training(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(small_config("promp", env="CartPoleMassEnv", normalize_observations=True, dump_path=str(path)))
    policy = mmaml.load(path)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    seen, _ = policy._checked_observations(observations)
    assert (seen - torch.from_numpy(observations)).abs().max() > 0.1
    expected = policy.act(observations, deterministic=True)
    logits = policy.module().network(torch.from_numpy(observations))  # type: ignore[operator]
    params = policy._algorithm.policy_params(policy._state)
    torch.testing.assert_close(logits, policy._algorithm.policy.distribution(params, seen[None]).logits[0])
    np.testing.assert_array_equal(logits.argmax(-1).numpy(), expected)


def test_statistics_that_do_not_fit_are_refused(path: Path, tmp_path: Path) -> None:
    state = checkpoint.load(path)
    for wrong in ({}, {"observations": {}, "returns": {}}):
        file = checkpoint.write(tmp_path, 3, state | {"statistics": wrong})
        with pytest.raises(UsageError, match="restore_path: the running statistics in"):
            mmaml.load(file)
