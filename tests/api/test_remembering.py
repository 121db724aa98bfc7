"""Trained policies that remember over the episodes of a trial, and such as normalise what they observe."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmaml
from mmaml.config.loading import build_config
from mmaml.envs.registry import make_family
from mmaml.sampling.normalisation import MAX_NORMALISED, MIN_VARIANCE
from mmaml.seeding import integer
from mmaml.storage import checkpoint
from mmaml.storage.packing import unpacked
from mmaml.worker import Worker
from tests.helpers.policies import (
    WorkersNumbers,
    run_lanes,
    trained,
)

BANDIT = "tests.helpers.recurrent_bandit:"
TRIALS = {"env": BANDIT + "WaitingBandit", "episodes_per_trial": 4, "max_path_length": 2, "normalization_scale": None}


# Algorithms, and by how much their policies are made to prefer one action.
REMEMBER = pytest.mark.parametrize(
    ("algorithm", "sure"),
    [(BANDIT + "RecurrentBandit", 100), ("rl2", 300), ("snail", 300), ("epn", 300), ("varibad", 100)],
)


def bandit(folder: Path, algorithm: str, sure: float) -> Path:
    """A recurrent policy that has learned nothing, but acts by what it remembers more than by chance."""
    state = checkpoint.load(trained(folder, algorithm, **TRIALS))
    for name, value in state["parameters"].items():
        if name.startswith(("network.policy", "policy.")):
            value *= sure
    return checkpoint.write(folder / "sure", 0, state)


class GumbelOf:
    """A generator of numbers that are known."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def gumbel(self, size: tuple[int, ...]) -> np.ndarray:
        return self.numbers.reshape(size)


REWARDS = np.random.default_rng(3).normal(size=(4, 40))


def live(policy: mmaml.TrainedPolicy, lanes: list[int], step: int) -> list[int]:
    """A step in some lanes, whose observations, rewards and chance are known; the actions."""
    noise: Any = GumbelOf(np.random.default_rng([step]).gumbel(size=(4, 2))[lanes])
    actions = policy.act(np.full((len(lanes), 1), step % 2), lanes=lanes, rng=noise)
    policy.record(REWARDS[lanes, step], terminated=np.full(len(lanes), step % 2 == 1))
    return actions.tolist()


@REMEMBER
def test_a_policy_that_remembers_acts_over_trials_as_in_the_worker(algorithm: str, sure: float, tmp_path: Path) -> None:
    path = bandit(tmp_path, algorithm, sure)
    policy = mmaml.load(path)
    config = policy.config
    worker = Worker(build_config(config.to_dict()))
    parameters = worker.algorithm.spec.flatten(checkpoint.load(path)["parameters"])
    tasks = worker.sample_tasks(config.meta_batch_size, 0, "test")
    worker.collect(parameters, None, list(enumerate(tasks)), 0, "test")
    assert worker.block is not None
    data = worker.block.rollouts[0].select(slice(1, 2))
    family = make_family(config.env, 1, config.rollouts_per_meta_task)
    family.set_tasks([tasks[1]])
    rng: Any = WorkersNumbers(config, 1, 0)
    observation, _ = family.reset(seed=[integer(config.seed, "environment", 0, 1, 0, purpose="test")])
    actions = []
    for _ in range(config.lane_length):
        actions.append(policy.act(observation, rng=rng))
        observation, reward, terminated, _, _ = family.step(actions[-1])
        over = policy.record(reward, terminated=terminated)
        if over.any():
            observation, _ = family.reset(options={"reset_mask": over})
    assert (np.stack(actions, 1) == data.actions[0].argmax(-1).numpy()).all()
    assert policy.adapt_steps == 0 and policy.episodes_per_trial == 4
    with pytest.raises(mmaml.UsageError, match=r"adapt: .* by remembering"):
        policy.adapt()


@REMEMBER
def test_lanes_remember_apart(algorithm: str, sure: float, tmp_path: Path) -> None:
    """One that begins later than others is as if the others were not, and as it would be by itself."""
    policy, alone = (mmaml.load(bandit(tmp_path, algorithm, sure)) for _ in range(2))
    together: dict[int, list[int]] = {lane: [] for lane in range(4)}
    for step in range(40):
        lanes = [lane for lane in range(4) if step >= 2 * lane]
        for lane, action in zip(lanes, live(policy, lanes, step), strict=True):
            together[lane].append(action)
    for lane in range(4):
        assert [live(alone, [lane], step)[0] for step in range(2 * lane, 40)] == together[lane]
    assert len({tuple(actions[-20:]) for actions in together.values()}) > 1  # rewards, remembered, made the difference


@REMEMBER
def test_what_is_remembered_is_saved_and_forgotten_with_the_task(algorithm: str, sure: float, tmp_path: Path) -> None:
    policy, path = mmaml.load(bandit(tmp_path, algorithm, sure)), tmp_path / "remembering.pt"
    before = [live(policy, [0, 2], step) for step in range(20)]
    policy.save(path)
    again, unpickled = mmaml.load(path), pickle.loads(pickle.dumps(policy))
    expected = [live(policy, [0, 2], step) for step in range(20, 40)]
    for other in (again, unpickled):
        assert [live(other, [0, 2], step) for step in range(20, 40)] == expected
    policy.reset_task()
    assert [live(policy, [0, 2], step) for step in range(20)] == before
    policy.act(np.ones((1, 1)))
    with pytest.raises(mmaml.UsageError, match=r"act: expected record.*remembers"):
        policy.act(np.ones((1, 1)))
    with pytest.raises(mmaml.UsageError, match=r"export: .* memory"):
        policy.module()


@REMEMBER
def test_several_episodes_go_on_from_one_memory(algorithm: str, sure: float, tmp_path: Path) -> None:
    """What happens in one of them is not in it; in lanes that recall nothing, the task goes on."""
    policy, other = (mmaml.load(bandit(tmp_path, algorithm, sure)) for _ in range(2))
    for step in range(20):
        live(policy, [0, 2], step)
        live(other, [0, 2], step)
    memory = policy.memory()
    first = [live(policy, [0, 2], step) for step in range(20, 30)]
    assert [live(other, [0, 2], step) for step in range(20, 30)] == first
    policy.act(np.ones((2, 1)), lanes=[0, 2])
    policy.recall(memory)
    assert [live(policy, [0, 2], step) for step in range(20, 30)] == first
    policy.recall(memory, [2])
    assert [live(policy, [2], step)[0] for step in range(20, 30)] == [actions[1] for actions in first]
    assert [live(policy, [0], step)[0] for step in range(30, 36)] == [
        live(other, [0], step)[0] for step in range(30, 36)
    ]


def test_the_last_reward_of_an_episode_is_read_in_the_next(tmp_path: Path) -> None:
    path, states = bandit(tmp_path, "rl2", 300), []
    for last in (0.0, 1.0):
        policy = mmaml.load(path)
        for reward, ends in ((0.0, False), (last, True), (0.0, False)):
            policy.act(np.zeros(1), deterministic=True)
            policy.record(reward, terminated=ends)
        (lane,) = policy.memory()
        states.append(unpacked(lane["memory"])[0])
    assert (states[0] != states[1]).any()


def normalised(folder: Path) -> Path:
    """A policy of normalised observations and rewards."""
    keys = {"normalize_observations": True, "normalize_rewards": True, "normalize_adv": False}
    state = checkpoint.load(trained(folder, "maml", **keys))
    size = len(state["environment"]["low"]) and state["environment"]["observation_size"]
    moments = {"count": 10.0, "mean": torch.linspace(-1, 1, size).double(), "squares": torch.ones(size).double() * 40}
    rewards = {"count": 10.0, "mean": torch.zeros(1).double(), "squares": torch.ones(1).double() * 90}
    return checkpoint.write(
        folder / "normalised", 0, state | {"statistics": {"observations": moments, "returns": rewards}}
    )


def test_observations_and_rewards_are_normalised_as_by_the_worker(tmp_path: Path) -> None:
    path = normalised(tmp_path)
    policy = mmaml.load(path)
    config = policy.config
    worker = Worker(build_config(config.to_dict()))
    state = checkpoint.load(path)
    parameters = worker.algorithm.spec.flatten(state["parameters"])
    tasks = worker.sample_tasks(config.meta_batch_size, 0, "test")
    worker.collect(parameters, worker.statistics(state).vector(), list(enumerate(tasks)), 0, "test")
    assert worker.block is not None
    family = make_family(config.env, 1, config.rollouts_per_meta_task)
    family.set_tasks([tasks[1]])
    run_lanes(policy, family, config, 1, 0)
    policy.adapt()
    saved = tmp_path / "adapted.pt"
    policy.save(saved)
    found, wanted = checkpoint.load(saved)["adapted"]["collections"][0], worker.block.rollouts[0].select(slice(1, 2))
    for name in ("observations", "actions", "advantages", "final_observations"):
        assert torch.equal(found[name], wanted.fields()[name]), name
    observations = np.random.default_rng(0).normal(size=(10, policy.spaces.observation_size)).astype(np.float32)
    exact = policy.act(observations, deterministic=True)
    np.testing.assert_allclose(mmaml.load(saved).act(observations, deterministic=True), exact)
    with torch.no_grad():
        exported = policy.module()(torch.from_numpy(observations))
    np.testing.assert_allclose(exported.numpy(), exact, rtol=1e-4, atol=1e-5)


def test_a_clock_is_normalised_before_it_becomes_float32_in_a_loop_and_once_exported(tmp_path: Path) -> None:
    """And what lies far out is clipped, to 10 standard deviations."""
    state = checkpoint.load(normalised(tmp_path))
    state["statistics"]["observations"]["mean"][0] = 1.7e9
    policy = mmaml.load(checkpoint.write(tmp_path / "clock", 0, state))
    observations = np.random.default_rng(0).normal(size=(10, policy.spaces.observation_size))
    moved = observations.copy()
    moved[:, 0] += 1.7e9
    moved[:2, 1] = 1e4, 1e5
    std = np.sqrt(40 / 10 + MIN_VARIANCE)
    seen = policy._seen(torch.from_numpy(moved))
    np.testing.assert_allclose(seen[:, 0], observations[:, 0] / std, rtol=1e-5, atol=1e-6)
    assert seen[:2, 1].tolist() == [MAX_NORMALISED] * 2
    acted = policy.act(moved, deterministic=True)
    with torch.no_grad():
        np.testing.assert_allclose(policy.module()(torch.from_numpy(moved)), acted, rtol=1e-5, atol=1e-6)
    path = tmp_path / "policy.pt"
    policy.export_torchscript(path)
    np.testing.assert_allclose(torch.jit.load(path)(torch.from_numpy(moved)).detach(), acted, rtol=1e-5, atol=1e-6)
    assert len(np.unique(acted[:, 0])) == 10


def test_the_previous_observation_is_remembered_and_saved(tmp_path: Path) -> None:
    policy = mmaml.load(trained(tmp_path, "rl2", previous_observation=True, **TRIALS), seed=0)
    observation = np.ones(policy.spaces.observation_size)
    policy.act(observation)
    policy.record(1.0)
    policy.save(tmp_path / "saved.pt")
    state, previous = mmaml.load(tmp_path / "saved.pt").memory()[0]["memory"]["tuple"]
    assert state.any() and (previous.flatten().numpy() == observation).all()


def test_the_belief_of_a_trial_is_no_embedding_of_a_policy_that_acts(tmp_path: Path) -> None:
    """Which does not keep what it remembers of; the message says where there are embeddings."""
    policy = mmaml.load(trained(tmp_path, "varibad", **TRIALS))
    with pytest.raises(mmaml.UsageError, match=r"^embedding: varibad embeds a whole trial, .*te_save_path"):
        policy.embedding()
    with pytest.raises(mmaml.UsageError, match="rl2 has no task embeddings"):
        mmaml.load(trained(tmp_path, "rl2", **TRIALS)).embedding()


@pytest.mark.parametrize("algorithm", ["snail", "epn"])
def test_rewards_too_large_to_be_remembered_are_reported(algorithm: str, tmp_path: Path) -> None:
    policy = mmaml.load(trained(tmp_path, algorithm, **TRIALS))
    policy.act(np.zeros(1))
    with pytest.raises(mmaml.UsageError, match=r"reward: expected finite numbers, as float32, got 1e\+39"):
        policy.record(1e39)
    policy.record(3e38)
    with pytest.raises(mmaml.UsageError, match=r"act: distribution.* is -?(nan|inf).*; give .* rewards of the size"):
        for _ in range(3):
            policy.act(np.zeros(1))
            policy.record(-3e38)
