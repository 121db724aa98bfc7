"""Trials as they were published: so many episodes of so many steps of one task in a lane, of every family with some."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from mmaml.envs.registry import make_family
from mmaml.policies.distributions import Categorical, Distribution, Gaussian
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.collector import Lanes, rollout
from mmaml.sampling.rollouts import Rollouts

TASKS, LANES = 2, 3
# Episodes a trial, and steps an episode.
TRIALS = {
    "BernoulliBandit": (10, 1),
    "GaussianBandit": (10, 1),
    "TabularMDP": (10, 10),
    "GridNavi": (4, 15),
    "MemoryPlanningGame": (1, 100),
    "PointRobot": (3, 100),
    "SparsePointRobot": (3, 100),
    "HalfCheetahRandDirecEnv": (2, 200),
    "HalfCheetahRandVelEnv": (2, 200),
    "AntRandGoalEnv": (2, 200),
}


def counting(env: Any) -> Actor:
    """Acts by chance, and carries on how many steps it has acted in the lane."""
    space = env.single_action_space
    discrete = isinstance(space, gym.spaces.Discrete)
    size = int(space.n) if discrete else space.shape[0]

    def act(step: Step, carried: Tensor | None) -> tuple[Distribution, Tensor]:
        acted = torch.zeros(TASKS, LANES) if carried is None else carried
        zeros = torch.zeros(TASKS, LANES, size)
        return Categorical(zeros) if discrete else Gaussian(zeros, torch.zeros(TASKS, 1, size)), acted + 1

    return act


def trial(name: str) -> tuple[Any, Rollouts]:
    episodes, horizon = TRIALS[name]
    env = make_family(name, TASKS, LANES)
    env.set_tasks(env.sample_tasks(TASKS, np.random.default_rng(0)))
    layout, discrete = Lanes(horizon, episodes), isinstance(env.single_action_space, gym.spaces.Discrete)
    kind, size = (Categorical, 1) if discrete else (Gaussian, env.single_action_space.shape[0])  # type: ignore[index]
    if discrete:
        size = int(env.single_action_space.n)  # type: ignore[attr-defined]
    noise = torch.from_numpy(kind.draw_noise(np.random.default_rng(1), (TASKS, layout.length, LANES, size)))
    scale = env.normalization_scale
    return env, rollout(env, counting(env), layout, noise, [1, 2], scale)


@pytest.mark.parametrize("name", TRIALS)
def test_a_lane_holds_the_episodes_of_one_task_one_after_another(name: str) -> None:
    episodes, horizon = TRIALS[name]
    _, data = trial(name)
    assert data.rewards.shape == (TASKS, LANES, episodes * horizon) and (data.mask == 1).all()
    starts = torch.arange(episodes * horizon) % horizon == 0
    assert (data.episode_start == starts).all() and (data.episode_numbers().amax(-1) == episodes - 1).all()
    ends = torch.arange(episodes * horizon) % horizon == horizon - 1
    assert ((data.terminated | data.truncated) == ends).all()
    first = data.observations[:, :, starts]
    if name.startswith(("HalfCheetah", "Ant")):  # which start about the same position
        assert (first[..., :5] - first[..., :1, :5]).abs().max() <= 0.2 + 1e-6
        moved = (data.observations[:, :, ends] - first).abs().amax(-1)
        assert (moved > 0.2).all()
    else:
        assert (first == first[:, :, :1]).all()
    assert np.isfinite(data.rewards.numpy()).all() and data.rewards.std() > 0


def test_the_task_stays_the_same_over_the_trial() -> None:
    """Half-cheetahs are rewarded in both episodes for their speed, which is seen, in the task's direction."""
    env, data = trial("HalfCheetahRandDirecEnv")
    for task, drawn in enumerate(env.tasks):
        effort = 0.05 * (data.actions[task] / 10).clamp(-1, 1).square().sum(-1)
        rewarded = (data.rewards[task] + effort).numpy()
        speed = data.observations[task, ..., 8].numpy()
        for episode in (slice(0, 199), slice(200, 399)):
            after = slice(episode.start + 1, episode.stop + 1)
            for lane in range(LANES):
                found = np.corrcoef(rewarded[lane, episode], speed[lane, after])[0, 1]
                assert found * float(drawn.values["goal"]) > 0.6
