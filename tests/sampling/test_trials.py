"""Lanes that hold several episodes of one task, of any lengths: where they end, what is seen, credit, statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmaml.policies.distributions import Distribution, Gaussian
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.advantages import advantages
from mmaml.sampling.collector import Lanes, rollout
from mmaml.sampling.rollouts import Rollouts
from mmaml.sampling.statistics import episode_statistics, stage_statistics, stages_of
from tests.helpers.probes import RandomLengths

TASKS, LANES, HORIZON, EPISODES = 3, 4, 5, 3


def recording(seen: list[Step]) -> Actor:
    """Acts by chance, and carries on how often it has acted in the lane."""

    def act(step: Step, carried: Tensor | None) -> tuple[Distribution, Tensor]:
        assert (carried is None) == (not seen)
        acted = torch.zeros(TASKS, LANES) if carried is None else carried
        assert (acted == len(seen)).all()
        seen.append(step)
        return Gaussian(torch.zeros(TASKS, LANES, 2), torch.zeros(TASKS, 1, 2)), acted + 1

    return act


def sampled(
    padded: bool, longest: int = 7, episodes: int = EPISODES, finite: bool = True
) -> tuple[Rollouts, list[Step]]:
    """Episodes of 1 to `longest` steps, cut at the horizon."""
    env = RandomLengths(TASKS, LANES, longest=longest)
    env.finite_horizon = finite
    env.set_tasks(env.sample_tasks(TASKS, np.random.default_rng(0)))
    layout, seen = Lanes(HORIZON, episodes, padded), []
    noise = torch.randn(TASKS, layout.length, LANES, 2, generator=torch.Generator().manual_seed(0))
    return rollout(env, recording(seen), layout, noise, [1, 2, 3], None), seen


def lanes_of(data: Rollouts) -> list[tuple[Any, ...]]:
    flags = (data.mask > 0, data.episode_start, data.terminated, data.truncated, data.episode_end, data.rewards)
    return list(zip(*(value.flatten(0, 1).tolist() for value in flags), data.observations.flatten(0, 1), strict=True))


@pytest.mark.parametrize("padded", [True, False])
def test_an_episode_ends_by_itself_or_at_the_horizon_and_a_padded_lane_with_its_last(padded: bool) -> None:
    data, _ = sampled(padded)
    kinds = set()
    for mask, start, terminated, truncated, end, _, observations in lanes_of(data):
        numbers = np.cumsum(start)
        assert mask == [bool(not padded or (number <= EPISODES and mask[t])) for t, number in enumerate(numbers)]
        assert start[0] and max(numbers) >= EPISODES and (not padded or max(numbers) == EPISODES)
        age = 0
        for t, real in enumerate(mask):
            if not real:
                assert not (start[t] or terminated[t] or truncated[t] or end[t])
                continue
            age = 1 if start[t] else age + 1
            left = float(observations[t][0])
            assert terminated[t] == (left == 1)
            assert truncated[t] == (age == HORIZON and left > 1)
            assert observations[t][1] == age - 1
            last = t == len(mask) - 1
            assert end[t] == (terminated[t] or truncated[t] or last)
            if not last and mask[t + 1]:
                assert start[t + 1] == (terminated[t] or truncated[t])
            kinds.add((terminated[t], truncated[t], last))
    assert {(True, False, False), (False, True, False)} <= kinds


@pytest.mark.parametrize("padded", [True, False])
def test_the_rollouts_hold_what_the_actor_saw(padded: bool) -> None:
    data, seen = sampled(padded)
    steps = data.steps()
    assert len(seen) == HORIZON * EPISODES
    for t, step in enumerate(seen):
        real = data.mask[:, :, t] > 0
        for ours, theirs in zip(steps, step, strict=True):
            assert torch.equal(ours[:, :, t][real], theirs[real])
    assert not steps.previous_action[:, :, 0].any() and steps.previous_action[:, :, 1].any()


def test_one_episode_a_lane_is_what_it_was_without_trials() -> None:
    """Truncated at the end of a lane that it fills alone; one that starts late is cut without a flag."""
    data, _ = sampled(padded=False, episodes=1)
    for _, start, terminated, truncated, *_ in lanes_of(data):
        assert truncated[:-1] == [False] * (HORIZON - 1)
        assert truncated[-1] == (not any(start[1:]) and not terminated[-1])


@pytest.mark.parametrize("padded", [True, False])
def test_an_episode_of_every_lane_is_cut_out(padded: bool) -> None:
    data, _ = sampled(padded)
    for number in range(EPISODES + 2):
        cut = data.episode(number, HORIZON)
        assert cut.rewards.shape == (TASKS, LANES, HORIZON)
        for task, lane in np.ndindex(TASKS, LANES):
            inside = (data.episode_numbers()[task, lane] == number) & (data.mask[task, lane] > 0)
            length = int(inside.sum())
            assert cut.mask[task, lane].tolist() == [1.0] * length + [0.0] * (HORIZON - length)
            for name, value in cut.fields().items():
                if value.shape[:3] == cut.rewards.shape and name not in ("mask", "weights"):
                    whole = data.fields()[name][task, lane]
                    torch.testing.assert_close(value[task, lane, :length], whole[inside], equal_nan=True)
                    assert value.dtype != torch.bool or not value[task, lane, length:].any()
        assert torch.allclose(cut.weights.sum((1, 2)), (cut.mask.sum((1, 2)) > 0).float())


@pytest.mark.parametrize("padded", [True, False])
def test_the_stages_of_trials_are_the_numbers_of_their_episodes(padded: bool) -> None:
    """A reward of 1 a step: the return of an episode is its length."""
    data, _ = sampled(padded)
    stages = stages_of([data], True, EPISODES, HORIZON)
    env = RandomLengths(TASKS, LANES)
    found = stage_statistics([data], stages, env.sample_tasks(TASKS, np.random.default_rng(0)), np.zeros(3))
    assert found["return"].shape == (TASKS, EPISODES)
    assert (found["episodes"] == LANES).all()  # the first E of each lane are whole
    numbers = data.episode_numbers()
    for task, number in np.ndindex(TASKS, EPISODES):
        lengths = ((numbers[task] == number) & (data.mask[task] > 0)).sum(-1).double().numpy()
        assert found["return"][task, number] == pytest.approx(lengths.mean())
        assert found["return_max"][task, number] == lengths.max()
    assert found["env_steps"].tolist() == data.mask.sum((1, 2)).int().tolist()
    assert stages_of([data, data], False, 7, HORIZON) == [data, data]
    np.testing.assert_array_equal(episode_statistics(stages[0])["mean"], found["return"][:, 0])


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("discount, gae_lambda, finite", [(0.9, 0.7, True), (0.9, 0.7, False), (1.0, 1.0, True)])
def test_credit_over_the_trial_goes_over_the_ends_of_episodes(
    padded: bool, discount: float, gae_lambda: float, finite: bool
) -> None:
    """δ_t = r_t + γ V_{t+1} - V_t and Â_t = Σ (γλ)^k δ_{t+k} up to the last real step.

    V after it is 0 with a finite horizon and after a termination, else that of what follows.
    """
    data, _ = sampled(padded, finite=finite)
    g = torch.Generator().manual_seed(4)
    values = torch.randn(TASKS, LANES, HORIZON * EPISODES + 1, generator=g, dtype=torch.float64).numpy()
    rewards = torch.randn(data.rewards.shape, generator=g).numpy()
    given: dict[str, Any] = {"values": values, "rewards": rewards, "over_trial": True}
    found, targets = (value.numpy() for value in advantages(data, "ZeroBaseline", discount, gae_lambda, **given))
    for task, lane in np.ndindex(TASKS, LANES):
        steps = int(data.mask[task, lane].sum())
        ends = finite or bool(data.terminated[task, lane, steps - 1])
        v = np.append(values[task, lane, :steps], 0.0 if ends else values[task, lane, steps])
        deltas = rewards[task, lane, :steps] + discount * v[1:] - v[:-1]
        powers = (discount * gae_lambda) ** np.arange(steps)
        expected = np.array([(powers[: steps - t] * deltas[t:]).sum() for t in range(steps)])
        np.testing.assert_allclose(found[task, lane, :steps], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(targets[task, lane, :steps], expected + v[:-1], rtol=1e-4, atol=1e-5)
        assert not found[task, lane, steps:].any() and not targets[task, lane, steps:].any()


def test_a_baseline_of_trials_sees_the_time_in_the_trial() -> None:
    """What is left of it is known from the time alone, so that a baseline of it leaves next to nothing."""
    data, _ = sampled(padded=False)
    found, _ = advantages(data, "LinearTimeBaseline", 1.0, 1.0, over_trial=True)
    assert found.abs().max() < 1e-2  # what the ridge leaves
    by_episode, _ = advantages(data, "LinearTimeBaseline", 1.0, 1.0)
    assert by_episode.abs().max() > 0.5


def test_rollouts_in_files_of_version_0_1_are_read() -> None:
    data, _ = sampled(padded=True)
    old = {"position" if name == "task_index" else name: value for name, value in data.fields().items()}
    assert Rollouts.from_fields(old).task_index.tolist() == [0, 1, 2]
