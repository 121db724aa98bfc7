"""Where a limit cuts an episode, the task would have gone on, and so does its value; where it ends, there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmaml.algorithms.networks import ValueFunction
from mmaml.algorithms.rllib_maml import RLlibMAML
from mmaml.config.keys import Config
from mmaml.envs.registry import make_family
from mmaml.policies.distributions import Categorical, Distribution
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.advantages import advantages, after_truncations
from mmaml.sampling.collector import Lanes, rollout
from mmaml.sampling.episodes import Episode, rollouts_of
from mmaml.sampling.rollouts import Rollouts
from mmaml.seeding import generator
from mmaml.worker import Worker
from tests.helpers.probes import Endless
from tests.helpers.recurrent_bandit import MODULE, RecurrentBandit
from tests.helpers.support import small_config
from tests.helpers.synthetic import ragged_rollouts

GAMMA = 0.9
ENDLESS = 1 / (1 - GAMMA)
TASKS, LANES = 2, 3
FITTED = ("LinearFeatureBaseline", "LinearTimeBaseline")


def acting_at_random(step: Step, carried: Any) -> tuple[Distribution, Any]:
    return Categorical(torch.zeros(*step.observation.shape[:2], 2)), None


def sampled(
    layout: Lanes, lanes: int = LANES, actor: Actor = acting_at_random, family: type[Endless] = Endless, **kwargs: Any
) -> Rollouts:
    env = family(TASKS, lanes, **kwargs)
    env.set_tasks(env.sample_tasks(TASKS, np.random.default_rng(0)))
    noise = torch.rand(TASKS, layout.length, lanes, 2, generator=torch.Generator().manual_seed(0))
    return rollout(env, actor, layout, noise, [1, 2], None)


def estimated(data: Rollouts, baseline: str, gae_lambda: float = 1.0, **how: Any) -> tuple[Tensor, Tensor]:
    return advantages(data, baseline, GAMMA, gae_lambda, **how)


def left_of_episodes(data: Rollouts) -> Tensor:
    """How many rewards of its episode each real step has ahead of it, its own included; [M, N, T]."""
    left = torch.zeros(data.mask.shape)
    ahead = torch.zeros(data.mask.shape[:2])
    for t in range(data.mask.shape[-1] - 1, -1, -1):
        ahead = torch.where(data.episode_end[..., t], 1.0, ahead + 1)
        left[..., t] = ahead * data.mask[..., t]
    return left


LIMITS = [
    (Lanes(8), {}),  # max_path_length
    (Lanes(8), {"limit": 3}),  # the environment's own limit, within a lane
    (Lanes(8), {"limit": 1}),
    (Lanes(8), {"limit": 8}),
    (Lanes(8, padded=True), {"limit": 3}),  # followed by padding
    (Lanes(4, episodes=3), {}),
    (Lanes(4, episodes=3, padded=True), {"limit": 3}),
]


@pytest.mark.parametrize("baseline", FITTED)
@pytest.mark.parametrize("layout, limits", LIMITS)
def test_a_reward_of_1_without_an_end_is_worth_1_over_1_minus_gamma(
    layout: Lanes, limits: dict[str, int], baseline: str
) -> None:
    data = sampled(layout, **limits)
    assert data.truncated.any() and not data.terminated.any()
    for over_trial in (False, True):
        for gae_lambda in (1.0, 0.5):
            found, targets = estimated(data, baseline, gae_lambda, over_trial=over_trial)
            real = data.mask > 0
            np.testing.assert_allclose(targets[real], ENDLESS, rtol=1e-4)
            np.testing.assert_allclose(found[real], 0.0, atol=1e-3)
            assert not found[~real].any() and not targets[~real].any()


@pytest.mark.parametrize("baseline", [*FITTED, "ZeroBaseline"])
@pytest.mark.parametrize(
    "kwargs", [{"end": 3}, {"end": 3, "limit": 3}, {"end": 8}, {"finite": True}, {"finite": True, "limit": 3}]
)
def test_nothing_follows_an_end_nor_a_finite_horizon(kwargs: dict[str, Any], baseline: str) -> None:
    """An end that comes with a truncation is one."""
    data = sampled(Lanes(8), **kwargs)
    whole = data.terminated | data.truncated
    counted = whole.flip(-1).cummax(-1).values.flip(-1)  # not those that the end of the lane cuts
    left = left_of_episodes(data)
    _, targets = estimated(data, baseline)
    np.testing.assert_allclose(targets[counted], (1 - GAMMA ** left[counted]) / (1 - GAMMA), rtol=1e-4)


def test_without_a_baseline_there_is_no_value_either() -> None:
    data = sampled(Lanes(8))
    _, targets = estimated(data, "ZeroBaseline")
    np.testing.assert_allclose(targets, (1 - GAMMA ** left_of_episodes(data)) / (1 - GAMMA), rtol=1e-5)


@pytest.mark.parametrize("baseline", FITTED)
def test_sums_that_are_not_discounted_have_no_limit_and_end_where_they_are_cut(baseline: str) -> None:
    data = sampled(Lanes(8))
    _, targets = advantages(data, baseline, 1.0, 1.0)
    np.testing.assert_allclose(targets, left_of_episodes(data), rtol=1e-4)


def test_a_task_that_may_end_at_any_step_is_worth_less() -> None:
    """With a chance of p that it ends at a step, 1 / (1 - γ (1 - p)): ends and cuts are weighed against each other."""
    data = sampled(Lanes(200), lanes=200, stops=0.1, limit=5)
    _, targets = estimated(data, "LinearTimeBaseline", gae_lambda=1.0)
    at_cuts = targets[data.truncated & ~data.terminated]
    assert len(at_cuts) > 1000
    np.testing.assert_allclose(at_cuts, 1 + GAMMA / (1 - GAMMA * 0.9), rtol=0.03)


def test_the_value_is_that_of_the_observation_that_followed() -> None:
    """And not that of the next episode's first: they are kept in the order of the flags, in a block as alone."""
    limit = 3
    data = sampled(Lanes(8), limit=limit)
    assert data.followed is not None and data.followed.shape == (int(data.truncated.sum()), 2)
    np.testing.assert_allclose(data.followed[..., 1], limit / 10)
    ends = data.truncated[..., -1]
    assert not ends.any()  # 8 = 3 + 3 + 2
    data = sampled(Lanes(9), limit=limit)
    assert data.followed is not None
    rows = data.followed[data.last_of_lane()[data.truncated]]
    assert torch.equal(rows, data.final_observations.flatten(0, 1))
    assert sampled(Lanes(8), limit=limit, finite=True).followed is None


def test_observations_that_followed_are_seen_as_the_policy_sees_others() -> None:
    from mmaml.sampling.normalisation import Scaling

    env = Endless(1, 2, limit=2)
    env.set_tasks(env.sample_tasks(1, np.random.default_rng(0)))
    scaling = Scaling(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]), 1.0)
    data = rollout(env, acting_at_random, Lanes(4), torch.rand(1, 4, 2, 2), [1], None, scaling=scaling)
    assert data.followed is not None
    np.testing.assert_allclose(data.followed[..., 1], (0.2 - 1) / 0.5, rtol=1e-6)


class InDouble(Endless):
    """As environments of Gymnasium often observe."""

    def _observe(self) -> np.ndarray:
        return super()._observe().astype(np.float64)


def test_observations_in_double_precision_are_taken_as_those_in_single() -> None:
    single, double = sampled(Lanes(8), limit=3), sampled(Lanes(8), limit=3, family=InDouble)
    pairs = [(single, double), (single.going_on(single.last_of_lane()), double.going_on(double.last_of_lane()))]
    assert single.followed is not None and double.followed is not None
    torch.testing.assert_close(double.followed, single.followed, rtol=0, atol=0)  # of one dtype
    for ours, theirs in pairs:
        torch.testing.assert_close(theirs.fields(), ours.fields(), rtol=0, atol=0, equal_nan=True)


def test_a_task_is_valued_alone_as_in_a_block() -> None:
    env = Endless(1, LANES, limit=3)
    together = estimated(sampled(Lanes(8), limit=3), "LinearFeatureBaseline")
    noise = torch.rand(TASKS, 8, LANES, 2, generator=torch.Generator().manual_seed(0))
    for task, seed in enumerate((1, 2)):
        env.set_tasks(env.sample_tasks(1, np.random.default_rng(0)))
        alone = estimated(
            rollout(env, acting_at_random, Lanes(8), noise[task : task + 1], [seed], None), "LinearFeatureBaseline"
        )
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours[0], theirs[task])


def worker_of(algorithm: str, **overrides: Any) -> tuple[Worker, Tensor, list[Any]]:
    values = {
        "env": "tests.helpers.probes:Endless",
        "discount": GAMMA,
        "normalize_adv": False,
        "meta_batch_size": TASKS,
    }
    config = small_config(algorithm, **values | overrides)
    worker = Worker(config)
    parameters = worker.algorithm.spec.flatten(worker.algorithm.init(generator(1, "parameters")))
    return worker, parameters, list(enumerate(worker.sample_tasks(TASKS, 0)))


def with_constant_value(worker: Worker, parameters: Tensor, prefix: str, value: float) -> Tensor:
    """Parameters of which V is the same everywhere."""
    named = worker.algorithm.spec.unflatten(parameters.clone())
    network = [name for name in named if name.startswith(f"{prefix}.")]
    for name in network:
        named[name].zero_()
    named[network[-1]].fill_(value)
    return worker.algorithm.spec.flatten(named)


@pytest.mark.parametrize("collect", ["lanes", "episodes"])
@pytest.mark.parametrize("limit", [0, 1, 3, 7])
@pytest.mark.parametrize(
    "algorithm, prefix, values",
    [
        ("rllib_maml", "value", {}),
        ("rl2", "value", {}),
        ("rl2", "value", {"episodes_per_trial": 3}),
        ("snail", "value", {"episodes_per_trial": 3}),
        ("epn", "value", {"episodes_per_trial": 3}),
        ("varibad", "value", {"episodes_per_trial": 3}),
        (f"{MODULE}:RecurrentBandit", "network.value", {}),
        (f"{MODULE}:RecurrentBandit", "network.value", {"episodes_per_trial": 3}),
    ],
)
def test_the_right_value_function_leaves_no_advantage(
    algorithm: str, prefix: str, values: dict[str, Any], limit: int, collect: str
) -> None:
    kwargs = {"collect": collect, "gae_lambda": 0.9, **values}
    worker, parameters, items = worker_of(algorithm, env_kwargs={"limit": limit}, **kwargs)
    right = with_constant_value(worker, parameters, prefix, ENDLESS)
    worker.collect(right, None, items, 0, stages=None if values else 1)
    assert worker.block is not None
    data = worker.block.rollouts[0]
    np.testing.assert_allclose(data.advantages[data.mask > 0], 0.0, atol=1e-5)
    np.testing.assert_allclose(data.value_targets[data.mask > 0], ENDLESS, rtol=1e-6)
    finite, _, items = worker_of(algorithm, env_kwargs={"limit": limit, "finite": True}, **kwargs)
    finite.collect(right, None, items, 0, stages=None if values else 1)
    assert finite.block is not None
    lost = finite.block.rollouts[0]
    last = lost.last_of_lane() & lost.truncated
    assert last.any() or collect == "lanes"
    np.testing.assert_allclose(lost.advantages[last], -GAMMA * ENDLESS, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_value_function_is_asked_of_what_followed_each_cut(limit: int) -> None:
    """Of the observation and the time of the step after, however close the cuts lie together."""
    worker, parameters, _ = worker_of("rllib_maml")
    algorithm = worker.algorithm
    assert isinstance(algorithm, RLlibMAML)
    data = sampled(Lanes(7), limit=limit)
    state = algorithm.begin(algorithm.spec.per_task(parameters, TASKS), data.identity)
    after = after_truncations(data, lambda some: algorithm.values(state, some))
    assert data.followed is not None
    for row, (task, lane, t) in enumerate(data.truncated.nonzero().tolist()):
        params = {name: value[task : task + 1] for name, value in state.params.items()}
        expected = algorithm.value_function(params, data.followed[row].view(1, 1, -1), torch.full((1, 1), limit))
        torch.testing.assert_close(after[task, lane, t], expected[0, 0], rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("collect", ["lanes", "episodes"])
@pytest.mark.parametrize("algorithm", [f"{MODULE}:RecurrentBandit", "rl2", "varibad"])
def test_a_memory_goes_on_after_the_end_of_a_trial(algorithm: str, collect: str) -> None:
    """V of what follows is V of the next step of a trial that is longer, and otherwise the same."""
    short, parameters, items = worker_of(algorithm, max_path_length=4, collect=collect)
    longer, _, _ = worker_of(algorithm, max_path_length=6, collect=collect)
    moved = parameters + 0.3 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
    values = []
    for worker in (short, longer):
        worker.collect(moved, None, items, 0)
        assert worker.block is not None
        (data,) = worker.block.rollouts
        data.followed = data.final_observations.flatten(0, 1)  # lanes go on, as they do while sampling
        found = worker.algorithm.values(worker.algorithm.spec.per_task(moved, TASKS), data)
        assert found is not None
        values.append(found)
    torch.testing.assert_close(values[0], values[1][..., :5], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_memory_goes_on_after_a_trial_that_padding_follows() -> None:
    """The environment truncates after 3 steps of 5: what it returned then, and not what padding holds, is seen."""
    worker, parameters, _ = worker_of(f"{MODULE}:RecurrentBandit", max_path_length=5, collect="episodes")
    assert isinstance(worker.algorithm, RecurrentBandit)
    meta = worker.algorithm.spec.per_task(parameters, TASKS)
    cut, whole = (
        sampled(Lanes(5, padded=True), actor=worker.algorithm.actor(meta), **how) for how in ({"limit": 3}, {})
    )
    assert cut.mask.sum(-1).eq(3).all()
    ours, theirs = cut.going_on(cut.last_of_lane()).steps(), whole.steps()
    for name in ("observation", "previous_action", "previous_reward", "episode_start", "episode_noise"):
        assert torch.equal(getattr(ours, name)[:, :, :4], getattr(theirs, name)[:, :, :4]), name
    values = (worker.algorithm.values(meta, data)[..., :4] for data in (cut, whole))
    torch.testing.assert_close(*values)


def test_recorded_episodes_go_on_from_what_was_recorded_last() -> None:
    """An episode of 3 steps that was truncated, then one whose next observation nobody gave, then one that ended."""

    def episode(truncated: bool, final: float | None) -> Episode:
        seen = [torch.tensor([float(t)]) for t in range(3)]
        given = None if final is None else torch.tensor([final])
        made = Episode(torch.zeros(0), seen, [torch.zeros(2)] * 3, [Categorical(torch.zeros(1, 1, 2))] * 3, [1.0] * 3)
        made.final, made.truncated, made.terminated = given, truncated, not truncated
        return made

    episodes = [episode(True, 7.0), episode(True, None), episode(False, 9.0)]
    data = rollouts_of(episodes, 5)
    assert data.followed is not None and data.followed.tolist() == [[7.0], [2.0]]
    assert rollouts_of(episodes, 5, finite_horizon=True).followed is None
    data = rollouts_of([episode(True, 3.0)] * 2, 5)
    _, targets = estimated(data, "LinearTimeBaseline")
    np.testing.assert_allclose(targets[data.mask > 0], ENDLESS, rtol=1e-4)


def test_nan_that_followed_a_cut_is_found_and_named() -> None:
    from mmaml.sampling import finite

    data = sampled(Lanes(8), limit=3)
    assert data.followed is not None and finite.findings(data) == []
    data.followed[1, 1] = torch.nan
    task, lane, step = data.truncated.nonzero()[1].tolist()
    (found,) = finite.findings(data)
    assert (found.block_index, found.lane, found.step, found.entry) == (task, lane, step + 1, 1)
    assert str(found) == f"step {step + 1} of rollout {lane}: observation[1] is nan"


def test_every_family_of_the_toolkit_has_a_finite_horizon() -> None:
    from mmaml.envs.registry import FAMILIES

    for name in FAMILIES:
        assert make_family(name).finite_horizon is True, name


@pytest.mark.parametrize("size", [2, 8, 9])
def test_what_follows_lanes_is_no_sequence_of_steps_whatever_its_size(size: int) -> None:
    data = ragged_rollouts(horizon=8, observation_size=size)
    going_on, episode = data.going_on(data.last_of_lane()), data.episode(1, 8)
    for cut in (going_on, episode):
        assert torch.equal(cut.final_observations, data.final_observations)
        assert torch.equal(cut.task_index, data.task_index)
    assert going_on.rewards.shape == (3, 4, 9) and episode.rewards.shape == (3, 4, 8)


def test_a_value_function_reads_observations_of_as_many_entries_as_there_are_steps() -> None:
    data = sampled(Lanes(2), limit=2)
    assert data.observations.shape[2:] == (2, 2)
    config = Config(hidden_sizes=(4,), max_path_length=2)
    value = ValueFunction("value", config, 2)
    params = {name: torch.full((TASKS, *shape[-2:]), 0.1) for name, shape in value.shapes.items()}
    after = after_truncations(data, lambda cut: value.of_lanes(params, cut))
    assert torch.equal(after != 0, data.truncated)
