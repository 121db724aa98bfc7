"""`mmaml.load`: a policy in a loop of the user's own does what training's worker does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmaml
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.keys import Config
from mmaml.config.loading import build_config
from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.registry import make_family
from mmaml.seeding import generator, integer
from mmaml.storage import checkpoint
from mmaml.storage.packing import packed
from mmaml.worker import Worker
from tests.helpers.policies import episode, trained

ROOT = Path(__file__).parents[2]
OLD_RUNS = ROOT / "tests" / "data" / "runs_of_0.1.0"
PROBES = "tests.helpers.probes:"
STEPS = 3  # more than any algorithm needs to use all it remembers


class WorkersNumbers:
    """A generator that gives the numbers that the worker draws for a task in one collection."""

    def __init__(self, config: Config, task: int, collection: int) -> None:
        keys = (0, task, collection)
        self._actions = generator(config.seed, "action", *keys, purpose="test")
        self._episodes = generator(config.seed, "episode", *keys, purpose="test")

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        if dtype is None:
            return self._episodes.standard_normal(shape)
        return self._actions.standard_normal(shape, dtype=dtype)

    def gumbel(self, size: tuple[int, ...]) -> np.ndarray:
        return self._actions.gumbel(size=size)


def run_lanes(policy: mmaml.TrainedPolicy, env: TaskVectorEnv, config: Config, task: int, collection: int) -> None:
    """One collection of a task: all its lanes at once, as a user with a vector environment would have it."""
    rng: Any = WorkersNumbers(config, task, collection)
    seed = integer(config.seed, "environment", 0, task, collection, purpose="test")
    observation, _ = env.reset(seed=[seed])
    over = np.zeros(env.num_envs, bool)
    while not over.all():
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation, rng=rng))
        over = policy.record(reward, terminated=terminated, truncated=truncated, observation=observation)


def by_worker(worker: Worker, path: Path) -> list[Any]:
    """The states of the tasks of a meta-batch, on the worker's own rollouts, after each inner step."""
    algorithm, config = worker.algorithm, worker.config
    parameters = algorithm.spec.flatten(checkpoint.load(path)["parameters"])
    tasks = worker.sample_tasks(config.meta_batch_size, 0, "test")
    worker.collect(parameters, None, list(enumerate(tasks)), 0, "test", STEPS + 1)
    assert worker.block is not None
    meta = {k: v.expand(len(tasks), *v.shape) for k, v in algorithm.spec.unflatten(parameters).items()}
    states = [algorithm.begin(meta, worker.block.rollouts[0].identity)]
    for step in range(STEPS):
        states.append(algorithm.adapt(meta, states[-1], worker.block.rollouts[: step + 1]))
    return states


def leaves(value: Any) -> list[torch.Tensor]:
    """All tensors of a packed state, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [leaf for item in items for leaf in leaves(item)]


def saved_state(policy: mmaml.TrainedPolicy, path: Path) -> list[torch.Tensor]:
    policy.save(path)
    return leaves(checkpoint.load(path)["adapted"]["state"])


def of_task(values: list[torch.Tensor], like: list[torch.Tensor], task: int) -> list[torch.Tensor]:
    """Of tensors of all tasks those of one. The dimension of the tasks is where a single task has 1."""
    found = []
    for value, single in zip(values, like, strict=True):
        where = next(i for i, (a, b) in enumerate(zip(value.shape, single.shape, strict=True)) if a != b and b == 1)
        found.append(value.narrow(where, task, 1))
    return found


@pytest.mark.parametrize("env", ["MetaPointEnvMomentumModes", "CartPoleMassEnv"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_adapted_policy_is_saved_and_goes_on(tmp_path: Path, algorithm: str) -> None:
    """What is loaded acts as what was saved, and adapts further as it."""
    policy = mmaml.load(trained(tmp_path, algorithm), seed=0)
    for step in range(2):
        episode(policy, 7, seed=step, lanes=3)
        policy.adapt()
    policy.save(tmp_path / "new" / "adapted.pt")
    again = mmaml.load(tmp_path / "new" / "adapted.pt", seed=0)
    assert again.adaptations == 2
    observations = np.random.default_rng(1).normal(size=(4, policy.spaces.observation_size))
    assert (policy.act(observations, deterministic=True) == again.act(observations, deterministic=True)).all()
    states = []
    for one in (policy, again):
        one.start_episode()
        one.rng = np.random.default_rng(5)
        episode(one, 7, seed=9, lanes=3)
        one.adapt()
        states.append(saved_state(one, tmp_path / "adapted.pt"))
    assert all(map(torch.equal, *states))


def test_embeddings_are_those_of_the_worker(tmp_path: Path) -> None:
    path = trained(tmp_path, "mmaml")
    policy = mmaml.load(path)
    worker = Worker(build_config(policy.config.to_dict()))
    by_worker(worker, path)
    assert worker.block is not None
    tasks = worker.sample_tasks(policy.config.meta_batch_size, 0, "test")
    family = make_family(policy.config.env, 1, policy.config.rollouts_per_meta_task)
    family.set_tasks([tasks[1]])
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


# What is needed, and what is not.

ALONE = """
import sys
sys.modules["mpi4py"] = None  # importing it fails
import numpy as np, mmaml
policy = mmaml.load(sys.argv[1], seed=0)
for _ in range(3):
    over = False
    while not over:
        policy.act(np.zeros(2))
        over = policy.record(1.0)
policy.adapt()
action = policy.act(np.zeros(2), deterministic=True)
assert policy.action_space.contains(action), action
loaded = [name for name in sys.modules if name.startswith(("mmaml.parallel", "mmaml.cli", "users_family", "mujoco"))]
assert not loaded, loaded
"""


def test_neither_mpi_nor_the_family_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ROOT / "tests" / "helpers" / "user_environments.py"
    (tmp_path / "there").mkdir()
    shutil.copy(source, tmp_path / "there" / "users_family.py")
    monkeypatch.syspath_prepend(tmp_path / "there")
    path = trained(tmp_path, "mmaml", env="users_family:Walk")
    monkeypatch.delitem(sys.modules, "users_family")
    done = subprocess.run([sys.executable, "-c", ALONE, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def rewritten(path: Path, **changes: Any) -> Path:
    """A checkpoint as version 0.1 wrote it, without spaces, and with other keys of its configuration."""
    state = checkpoint.load(path)
    state.pop("environment", None)
    state["config"] |= changes
    return checkpoint.write(path.parent / "old", 0, state)


@pytest.mark.parametrize("algorithm", ["maml", "mmaml", "tesp"])
def test_runs_of_version_0_1_are_loaded(algorithm: str) -> None:
    policy = mmaml.load(OLD_RUNS / algorithm)
    episode(policy, policy.horizon, lanes=2)
    policy.adapt()
    assert policy.action_space.contains(policy.act(np.zeros(policy.spaces.observation_size)))


def test_what_an_old_checkpoint_lacks_is_asked_for(tmp_path: Path) -> None:
    known = mmaml.load(path := trained(tmp_path))
    observation = np.ones(known.spaces.observation_size)
    expected = known.act(observation, deterministic=True)
    gone = rewritten(path, env="gone:Family")
    with pytest.raises(mmaml.UsageError, match=r"action_space: .*gone:Family.* give action_space"):
        mmaml.load(gone)
    given = mmaml.load(gone, action_space=known.action_space, normalization_scale=known.spaces.scale)
    assert (given.act(observation, deterministic=True) == expected).all()
    plain = mmaml.load(rewritten(path, env="gone:Family", normalization_scale=None))
    assert not plain.action_space.is_bounded()


def test_an_old_checkpoint_of_discrete_actions_lacks_nothing(tmp_path: Path) -> None:
    path = trained(tmp_path, env="CartPoleMassEnv")
    policy = mmaml.load(rewritten(path, env="gone:Family"))
    assert policy.action_space == mmaml.load(path).action_space


def test_step_sizes_may_be_changed(tmp_path: Path) -> None:
    path = trained(tmp_path)
    states = []
    for rate in (0.1, [0.1, 0.3], 0.2):
        policy = mmaml.load(path, inner_lr=rate, seed=0)
        episode(policy, 5)
        policy.adapt()
        states.append(saved_state(policy, tmp_path / "adapted.pt"))
    assert all(map(torch.equal, states[0], states[1]))
    assert not all(map(torch.equal, states[0], states[2]))


# Errors.


def test_no_policy_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = trained(tmp_path)
    (tmp_path / "other.pt").write_bytes(b"nothing")
    state = checkpoint.load(path)
    del state["parameters"]["policy.0.bias"]
    lacking = checkpoint.write(tmp_path / "lacking", 0, state)
    state = checkpoint.load(path) | {"environment": {"actions": "box"}}
    spaceless = checkpoint.write(tmp_path / "spaceless", 0, state)
    state = checkpoint.load(path) | {"adapted": {"horizon": 7, "state": {"named": "os:system"}, "collections": []}}
    unsafe = checkpoint.write(tmp_path / "unsafe", 0, state)
    for bad in (tmp_path / "nowhere", tmp_path / "other.pt", lacking, spaceless, unsafe):
        with pytest.raises(mmaml.UsageError, match="restore_path") as raised:
            mmaml.load(bad)
        assert "\n" not in str(raised.value)
    for keys in ({"inner_lr": 0.0}, {"horizon": 0}, {"normalization_scale": -1.0}):
        with pytest.raises(mmaml.UsageError, match=next(iter(keys))):
            mmaml.load(path, **keys)  # type: ignore[arg-type]


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


# Policies that remember, and normalised observations.

BANDIT = "tests.helpers.recurrent_bandit:"
TRIALS = {"env": BANDIT + "WaitingBandit", "episodes_per_trial": 4, "max_path_length": 2, "normalization_scale": None}


def bandit(folder: Path, **keys: Any) -> Path:
    """A recurrent policy that has learned nothing, but acts by what it remembers more than by chance."""
    state = checkpoint.load(trained(folder, BANDIT + "RecurrentBandit", **TRIALS, **keys))
    for name, value in state["parameters"].items():
        if name.startswith("network.policy"):
            value *= 100
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


def test_a_policy_that_remembers_acts_over_trials_as_in_the_worker(tmp_path: Path) -> None:
    path = bandit(tmp_path)
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


def test_lanes_remember_apart(tmp_path: Path) -> None:
    """One that begins later than others is as if the others were not, and as it would be by itself."""
    policy, alone = (mmaml.load(bandit(tmp_path)) for _ in range(2))
    together: dict[int, list[int]] = {lane: [] for lane in range(4)}
    for step in range(40):
        lanes = [lane for lane in range(4) if step >= 2 * lane]
        for lane, action in zip(lanes, live(policy, lanes, step), strict=True):
            together[lane].append(action)
    for lane in range(4):
        assert [live(alone, [lane], step)[0] for step in range(2 * lane, 40)] == together[lane]
    assert len({tuple(actions[-20:]) for actions in together.values()}) > 1  # rewards, remembered, made the difference


def test_what_is_remembered_is_saved_and_forgotten_with_the_task(tmp_path: Path) -> None:
    policy, path = mmaml.load(bandit(tmp_path)), tmp_path / "remembering.pt"
    before = [live(policy, [0, 2], step) for step in range(20)]
    policy.save(path)
    again = mmaml.load(path)
    assert [live(again, [0, 2], step) for step in range(20, 40)] == [
        live(policy, [0, 2], step) for step in range(20, 40)
    ]
    policy.reset_task()
    assert [live(policy, [0, 2], step) for step in range(20)] == before
    policy.act(np.ones((1, 1)))
    with pytest.raises(mmaml.UsageError, match=r"act: expected record.*remembers"):
        policy.act(np.ones((1, 1)))
    with pytest.raises(mmaml.UsageError, match=r"export: .* memory"):
        policy.module()


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
