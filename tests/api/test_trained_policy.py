"""`mmaml.load`: a policy in a loop of the user's own does what training's worker does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmaml
from mmaml.config.loading import build_config
from mmaml.envs.registry import make_family
from mmaml.seeding import integer
from mmaml.storage import checkpoint
from mmaml.storage.packing import packed
from mmaml.worker import Worker
from tests.helpers.policies import (
    STEPS,
    WorkersNumbers,
    by_worker,
    episode,
    leaves,
    of_task,
    run_lanes,
    saved_state,
    trained,
)
from tests.helpers.support import STEPPING

PROBES = "tests.helpers.probes:"


@pytest.mark.parametrize("env", ["MetaPointEnvMomentumModes", "CartPoleMassEnv"])
@pytest.mark.parametrize("algorithm", STEPPING)
def test_a_users_loop_adapts_as_the_worker_does(tmp_path: Path, algorithm: str, env: str) -> None:
    """The same rollouts, the same adapted parameters, to the bit, after every inner step, of each task."""
    path = trained(tmp_path, algorithm, env=env)
    config = mmaml.load(path).config
    worker = Worker(build_config(config.to_dict()))
    expected = by_worker(worker, path)
    tasks = worker.sample_tasks(config.meta_batch_size, 0, "test")
    for index in (0, 2):
        policy = mmaml.load(path)
        family = make_family(env, 1, config.rollouts_per_meta_task)
        family.set_tasks([tasks[index]])
        for step in range(STEPS):
            run_lanes(policy, family, config, index, step)
            policy.adapt()
            found = saved_state(policy, tmp_path / "adapted.pt")
            wanted = of_task(leaves(packed(expected[step + 1])), found, index)
            assert all(map(torch.equal, found, wanted)), (algorithm, step)
            assert worker.block is not None
        acted = [fields["actions"] for fields in checkpoint.load(tmp_path / "adapted.pt")["adapted"]["collections"]]
        sampled = [collection.actions[index : index + 1] for collection in worker.block.rollouts]
        assert all(map(torch.equal, acted, sampled[:STEPS]))


UNEVEN = {"env": PROBES + "RandomLengths", "max_path_length": 12, "collect": "episodes"}


@pytest.mark.parametrize("algorithm", STEPPING)
def test_episodes_of_uneven_length_one_after_the_other(tmp_path: Path, algorithm: str) -> None:
    """Each is a rollout of its own: what is learned of them is what the worker learns of such lanes."""
    path = trained(tmp_path, algorithm, **UNEVEN)
    policy = mmaml.load(path)
    worker = Worker(build_config(policy.config.to_dict()))
    expected = by_worker(worker, path)
    assert worker.block is not None
    for step in range(STEPS):
        data = worker.block.rollouts[step].select(slice(1, 2))
        for lane in range(policy.rollouts_per_adaptation):
            replay(policy, data, lane)
        policy.adapt()
        found = saved_state(policy, tmp_path / "adapted.pt")
        wanted = of_task(leaves(packed(expected[step + 1])), found, 1)
        if algorithm != "tesp":  # what its memory holds beyond an episode's end is anything
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class Recorded:
    """A generator whose numbers make the policy take the actions that were recorded, as near as rounding allows."""

    def __init__(self, policy: mmaml.TrainedPolicy, noise: np.ndarray, episode: np.ndarray) -> None:
        self.policy, self.noise, self.episode = policy, noise, episode

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        return self.episode.reshape(shape) if dtype is None else self.noise.reshape(shape)


def replay(policy: mmaml.TrainedPolicy, data: Any, lane: int) -> None:
    """Live one episode again, by itself."""
    steps = int(data.mask[0, lane].sum())
    assert bool(data.terminated[0, lane, steps - 1])
    std = data.distribution.log_std[0, 0, 0].exp()
    for t in range(steps):
        noise = (data.actions - data.distribution.mean)[0, lane, t] / std
        rng: Any = Recorded(policy, noise.numpy(), data.episode_noise[0, lane, t].double().numpy())
        action = policy.act(data.observations[0, lane, t].numpy(), rng=rng)
        np.testing.assert_allclose(action, np.clip(data.actions[0, lane, t].numpy(), -10, 10), rtol=1e-4, atol=1e-5)
        last = t == steps - 1
        assert policy.record(float(data.rewards[0, lane, t]), terminated=last) is last


def test_lanes_that_start_again_and_are_cut_are_those_of_the_worker(tmp_path: Path) -> None:
    """With "collect": "lanes" an episode that ends is followed by another, and the last one is cut."""
    path = trained(tmp_path, env=PROBES + "RandomLengths", max_path_length=12, gae_lambda=0.9)
    policy = mmaml.load(path)
    config, worker = policy.config, Worker(build_config(policy.config.to_dict()))
    expected = by_worker(worker, path)
    tasks = worker.sample_tasks(config.meta_batch_size, 0, "test")
    family = make_family(config.env, 1, config.rollouts_per_meta_task)
    family.set_tasks([tasks[1]])
    rng: Any = WorkersNumbers(config, 1, 0)
    observation, _ = family.reset(seed=[integer(config.seed, "environment", 0, 1, 0, purpose="test")])
    for step in range(config.max_path_length):
        observation, reward, terminated, _, _ = family.step(policy.act(observation, rng=rng))
        over = policy.record(reward, terminated=terminated, observation=observation)
        if over.any() and step < config.max_path_length - 1:
            observation, _ = family.reset(options={"reset_mask": over})
    policy.adapt()
    found = saved_state(policy, tmp_path / "adapted.pt")
    wanted = of_task(leaves(packed(expected[1])), found, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_lanes_may_act_in_any_order_and_number(tmp_path: Path) -> None:
    """Episodes of several lanes, fewer of which go on, are those of one lane after the other."""
    path = trained(tmp_path)
    together, apart = mmaml.load(path), mmaml.load(path)
    lengths = [5, 2, 7]
    rng = np.random.default_rng(0)
    size = together.spaces.observation_size
    data = [(rng.normal(size=(n, size)), rng.normal(size=n)) for n in lengths]
    for step in range(max(lengths)):
        lanes = [lane for lane, length in enumerate(lengths) if step < length]
        together.act([data[lane][0][step] for lane in lanes], lanes=lanes, deterministic=True)
        over = together.record(
            [data[lane][1][step] for lane in lanes], terminated=[step == lengths[x] - 1 for x in lanes]
        )
        assert over.tolist() == [step == lengths[lane] - 1 for lane in lanes]
    for observations, rewards in data:
        for step, reward in enumerate(rewards):
            apart.act(observations[step], deterministic=True)
            apart.record(reward, terminated=step == len(rewards) - 1)
    assert together.recorded_steps == apart.recorded_steps == sum(lengths)
    together.adapt()
    apart.adapt()
    one, two = (saved_state(policy, tmp_path / "adapted.pt") for policy in (together, apart))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_task_is_forgotten(tmp_path: Path) -> None:
    path = trained(tmp_path, "mmaml")
    policy = mmaml.load(path, seed=3)
    observation = np.ones(policy.spaces.observation_size)
    before = policy.act(observation, deterministic=True)
    policy.start_episode()
    episode(policy, 7)
    policy.adapt()
    assert policy.adaptations == 1 and (policy.act(observation, deterministic=True) != before).any()
    policy.reset_task()
    assert policy.adaptations == 0 and (policy.act(observation, deterministic=True) == before).all()


def test_what_the_seed_says_is_drawn(tmp_path: Path) -> None:
    path = trained(tmp_path)
    observation = np.zeros(mmaml.load(path).spaces.observation_size)
    one, two, three = (mmaml.load(path, seed=seed).act(observation) for seed in (1, 1, 2))
    assert (one == two).all() and (one != three).any()
    four = mmaml.load(path, seed=5).act(observation, rng=np.random.default_rng(1))
    assert (one == four).all()


def test_an_episode_is_over_at_the_horizon(tmp_path: Path) -> None:
    policy = mmaml.load(trained(tmp_path))
    observation = np.zeros(policy.spaces.observation_size)
    for steps in (policy.horizon, policy.horizon, 3):
        over = []
        for step in range(steps):
            policy.act(observation)
            over.append(policy.record(1.0, terminated=step == 2 and steps == 3))
        assert over == [False] * (steps - 1) + [True]
    longer = mmaml.load(trained(tmp_path), horizon=9)
    episode(longer, 9)
    longer.adapt()


def test_unrecorded_episodes_are_not_learned_from(tmp_path: Path) -> None:
    path = trained(tmp_path)
    policy, plain = mmaml.load(path, seed=0), mmaml.load(path, seed=0)
    for one in (policy, plain):
        if one is policy:
            for _ in range(4):
                one.act(np.ones(one.spaces.observation_size), rng=np.random.default_rng(7))
            one.start_episode()
        episode(one, 5)
        one.adapt()
    one_state, other = (saved_state(each, tmp_path / "adapted.pt") for each in (policy, plain))
    assert all(map(torch.equal, one_state, other))


def test_embeddings_are_those_of_the_worker(tmp_path: Path) -> None:
    path = trained(tmp_path, "mmaml")
    policy = mmaml.load(path)
    worker = Worker(build_config(policy.config.to_dict()))
    by_worker(worker, path)
    assert worker.block is not None
    tasks = worker.sample_tasks(policy.config.meta_batch_size, 0, "test")
    family = make_family(policy.config.env, 1, policy.config.rollouts_per_meta_task)
    family.set_tasks([tasks[1]])
    with pytest.raises(mmaml.UsageError, match="embedding: expected a recorded episode that is over, got 0 steps"):
        policy.embedding()
    run_lanes(policy, family, policy.config, 1, 0)
    parameters = worker.algorithm.spec.flatten(checkpoint.load(path)["parameters"])
    wanted = worker.algorithm.embed(parameters, worker.block.rollouts[:1])["embedding"][1]  # type: ignore[attr-defined]
    assert (policy.embedding() == wanted.numpy()).all()
    policy.adapt()
    assert (policy.embedding() == wanted.numpy()).all()
    with pytest.raises(mmaml.UsageError, match="embedding"):
        mmaml.load(trained(tmp_path, "maml")).embedding()


# Units.


@pytest.mark.parametrize("scale", [None, 2.0])
def test_actions_are_in_the_environments_units_and_bounds(tmp_path: Path, scale: float | None) -> None:
    env = "tests.helpers.user_environments:Walk"
    policy = mmaml.load(trained(tmp_path, env=env, normalization_scale=scale), seed=0)
    space = policy.action_space
    actions = np.array([policy.act(np.zeros((50, 2))) for _ in range(20)]).reshape(-1, 2)
    assert actions.dtype == space.dtype == np.float64
    assert (actions >= space.low).all() and (actions <= space.high).all()
    assert (actions == space.low).any() and (actions == space.high).any()
    middle = policy.act(np.zeros(2), deterministic=True)
    np.testing.assert_allclose(middle, [0.0, 0.0] if scale is None else [0.0, 1.5], atol=1e-6)


def test_discrete_actions_are_integers_of_the_space(tmp_path: Path) -> None:
    policy = mmaml.load(trained(tmp_path, env="CartPoleMassEnv"), seed=0)
    actions = policy.act(np.zeros((200, 4)))
    assert actions.shape == (200,) and {*actions.tolist()} == {0, 1}
    assert policy.action_space.contains(policy.act(np.zeros(4))[()])


# Errors.


def test_mistakes_of_the_loop_are_named(tmp_path: Path) -> None:
    policy = mmaml.load(trained(tmp_path))
    size = policy.spaces.observation_size
    for observation in (np.zeros(size + 1), np.zeros((2, 2, size)), np.full(size, np.nan), ["a"] * size, 3.0, []):
        with pytest.raises(mmaml.UsageError, match="observation: expected"):
            policy.act(observation)
    with pytest.raises(mmaml.UsageError, match="record: expected an act"):
        policy.record(1.0)
    with pytest.raises(mmaml.UsageError, match="adapt: expected a recorded episode"):
        policy.adapt()
    with pytest.raises(mmaml.UsageError, match="lanes"):
        policy.act(np.zeros((2, size)), lanes=[1, 1])
    policy.act(np.zeros((2, size)))
    for reward in (1.0, [1.0, np.inf], [[1.0, 1.0]], "much"):
        with pytest.raises(mmaml.UsageError, match="reward: expected"):
            policy.record(reward)
    policy.record([1.0, 1.0])
    with pytest.raises(mmaml.UsageError, match="adapt: expected a recorded episode that is over, got 2 steps"):
        policy.adapt()
    policy.act(np.zeros((2, size)))
    with pytest.raises(mmaml.UsageError, match="act: expected record"):
        policy.act(np.zeros((2, size)))
    policy.reset_task()
    policy.act(np.zeros(size))
    policy.act(np.zeros(size))
    with pytest.raises(mmaml.UsageError, match="record: steps before this one were not recorded"):
        policy.record(1.0)


def test_an_adaptation_that_goes_wrong_leaves_the_policy(tmp_path: Path) -> None:
    policy = mmaml.load(trained(tmp_path, normalize_adv=False), inner_lr=1e30)
    observation = np.ones(policy.spaces.observation_size)
    before = policy.act(observation, deterministic=True)
    policy.start_episode()
    for step in range(3):
        policy.act(observation)
        policy.record(1e20 * step, terminated=step == 2)
    with pytest.raises(mmaml.UsageError, match=r"adapt: .* lower inner_lr"):
        policy.adapt()
    policy.start_episode()
    assert (policy.act(observation, deterministic=True) == before).all() and policy.adaptations == 0


def test_no_action_is_given_that_is_not_finite(tmp_path: Path) -> None:
    policy = mmaml.load(trained(tmp_path, normalize_adv=False, hidden_nonlinearity="relu"), inner_lr=1e30)
    observation = np.ones(policy.spaces.observation_size)
    for step in range(3):
        policy.act(observation)
        policy.record(1e8 * step, terminated=step == 2)
    policy.adapt()
    with pytest.raises(mmaml.UsageError, match=r"act: .* lower inner_lr"):
        policy.act(observation)


def test_a_policy_values_what_followed_a_limit_as_its_family_does(tmp_path: Path) -> None:
    """A checkpoint from before families declared it has a finite horizon, as all did."""
    endless = trained(tmp_path / "endless", env="tests.helpers.probes:Endless", discount=0.9)
    finite = trained(tmp_path / "finite", discount=0.9)
    state = checkpoint.load(endless)
    del state["environment"]["finite_horizon"]
    older = checkpoint.write(tmp_path / "older", 0, state)
    for path, expected in ((endless, 10.0), (finite, 1.0), (older, 1.0)):
        policy = mmaml.load(path)
        size = policy.spaces.observation_size
        for _ in range(policy.horizon):
            policy.act(np.zeros(size))
            policy.record(1.0, observation=np.zeros(size))
        targets = policy._recorded("adapt").value_targets[0, 0]
        assert float(targets[-1]) == pytest.approx(expected, rel=1e-3), path
