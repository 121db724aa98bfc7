"""From rewards to advantages: returns, baselines, GAE, normalisation; per task, in float64.

float64 because observations such as cos, sin or quaternions are collinear with the constant feature, and
the fit then loses half its residual in float32. Flags mark where episodes begin and end (`mmaml.sampling.rollouts`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmaml.sampling.baseline_features import BASELINES, Features
from mmaml.sampling.rollouts import Rollouts

RIDGE, RIDGE_GROWTH, RIDGE_ATTEMPTS = 1e-5, 10.0, 6
MIN_STD = 1e-8  # added to a standard deviation that is divided by
JUST_POSITIVE = 1e-8


def fit_ridge(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Coefficients w that minimise ‖X w - y‖² + λ‖w‖². X: [n, F], y: [n].

    w = (XᵀX + λI)⁻¹ Xᵀy, or with fewer steps than features the same from a smaller system, Xᵀ(XXᵀ + λI)⁻¹ y (Saunders,
    Gammerman, Vovk 1998). λ starts at 1e-5 and grows tenfold, up to five times, while the solution is not finite; then
    w = 0.
    """
    steps, size = features.shape
    if steps < size:
        gram, right = features @ features.T, targets
    else:
        gram, right = features.T @ features, features.T @ targets
    ridge = RIDGE
    for _ in range(RIDGE_ATTEMPTS):
        regularised = gram.copy()
        np.einsum("ii->i", regularised)[:] += ridge
        try:
            solution = np.linalg.solve(regularised, right)
        except np.linalg.LinAlgError:
            solution = np.full(len(gram), np.nan)
        if steps < size:
            solution = features.T @ solution
        if np.isfinite(solution).all():
            return solution
        ridge *= RIDGE_GROWTH
    return np.zeros(size)


def backward_sums(values: np.ndarray, discount: float, done: np.ndarray) -> np.ndarray:
    """y_t = x_t + discount · y_{t+1}, the sum starting anew after every step that is `done`. [..., T]."""
    sums = np.empty_like(values)
    running = np.zeros(values.shape[:-1])
    decay = np.where(done, 0.0, discount)
    for t in range(values.shape[-1] - 1, -1, -1):
        running = values[..., t] + decay[..., t] * running
        sums[..., t] = running
    return sums


def in_whole_episode(done: np.ndarray) -> np.ndarray:
    """Steps of episodes that ran to their end, as opposed to being cut by the end of their lane: [..., T]."""
    return np.maximum.accumulate(done[..., ::-1], axis=-1)[..., ::-1]


class _Episodes(NamedTuple):
    """What values are estimated from, [M, N, T] each, or [N, T] of one task.

    done: where sums end; cut: those of them where the task would have gone on. times: the features of time. rewards: 0
    on padding. used: steps to fit.
    """

    done: np.ndarray
    cut: np.ndarray
    times: np.ndarray
    rewards: np.ndarray
    used: np.ndarray


def _values(
    rollouts: Rollouts, episodes: _Episodes, features: Features, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """Baseline fitted per task on the whole episodes: values of every step and of the end of the lane, [M, N, T+1].

    Also the values after steps that were cut, [M, N, T], 0 elsewhere.
    """
    times = np.concatenate([episodes.times, episodes.times[..., -1:] + 1], axis=-1)
    observations, final = rollouts.observations.numpy(), rollouts.final_observations.numpy()
    values, after = np.empty(times.shape), np.zeros(episodes.rewards.shape)
    for task in range(rollouts.tasks):
        own = _Episodes(*(value[task] for value in episodes))
        o = np.concatenate([observations[task], final[task][:, None]], axis=1).astype(np.float64)
        if own.cut.any():
            after[task][own.cut] = _values_beyond(
                o[:, :-1], _followed(rollouts, task, own.cut), own, features, discount
            )
        x = features(o, times[task])
        returns = backward_sums(own.rewards + discount * after[task], discount, own.done)
        coefficients = fit_ridge(x[:, :-1][own.used], returns[own.used])
        values[task] = x @ coefficients
    return values, after


def _followed(rollouts: Rollouts, task: int, cut: np.ndarray) -> np.ndarray:
    """The observations that followed a task's steps that were cut, by truncation or by the lane's end: [n, O]."""
    assert rollouts.followed is not None
    truncated = rollouts.truncated.numpy()
    before = int(truncated[:task].sum())
    own = rollouts.followed[before : before + int(truncated[task].sum())].numpy()
    followed = rollouts.final_observations[task].numpy()[cut.nonzero()[0]].astype(np.float64)
    followed[truncated[task][cut]] = own[cut[truncated[task]]]
    return followed


def _values_beyond(
    observations: np.ndarray, followed: np.ndarray, episodes: _Episodes, features: Features, discount: float
) -> np.ndarray:
    """Values of what followed n steps of a task that were cut, [n]. observations: [N, T, O]. followed: [n, O].

    The sum G of discounted rewards that was seen of an episode, k steps before its cut, is V(o) - γ^k V(o'), o' being
    what followed. Where a feature grows with time, a fit of both V is nearly singular. With V(o) in the
    place of V(o'), G is the share 1 - γ^k of V(o), or all of it before a termination: V is fitted to G / share with the
    weights `share`, which is exact in the mean where V is constant. Time is left out of the features, as 0, since V of
    an endless task does not depend on it. Values are kept within what rewards such as were seen may sum up to.
    """
    share = 1 - backward_sums(discount * episodes.cut, discount, episodes.done)
    sums = backward_sums(episodes.rewards, discount, episodes.done)
    root, no_time = np.sqrt(share[episodes.used]), np.zeros(len(followed))
    x = features(observations[episodes.used], np.zeros(len(root)))
    values = features(followed, no_time) @ fit_ridge(root[:, None] * x, sums[episodes.used] / root)
    lowest, highest = min(episodes.rewards.min(), 0.0), max(episodes.rewards.max(), 0.0)
    return np.clip(values, lowest / (1 - discount), highest / (1 - discount))


def after_truncations(rollouts: Rollouts, values: Callable[[Rollouts], Tensor | None]) -> Tensor:
    """V of what followed truncated steps, [M, N, T], 0 elsewhere, and where it counts for nothing.

    values: V of every step of rollouts, and of what follows each lane, [M, N, T+1]. It is asked of rollouts that go
    on: first after every second truncation, since what followed takes the place of the next episode's start, then after
    the others.
    """
    after, second = torch.zeros_like(rollouts.rewards), rollouts.truncated.cumsum(-1) % 2 == 0
    for some in (second, ~second) if rollouts.followed is not None else ():
        steps = rollouts.truncated & some
        if steps.any() and (found := values(rollouts.going_on(steps))) is not None:
            after = torch.where(steps, found[..., 1:-1], after)
    return after


def advantages(
    rollouts: Rollouts,
    baseline: str,
    discount: float,
    gae_lambda: float,
    *,
    normalize: bool = False,
    positive: bool = False,
    values: np.ndarray | None = None,
    rewards: np.ndarray | None = None,
    over_trial: bool = False,
    after: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16), and the targets of a value function, V + Â.

    Both [M, N, T], float32, 0 on padding. The targets, TD(λ) returns, are of Â before it is normalised.

    baseline: one of `BASELINES`, fitted to each task, unless values are given. normalize, positive: as `_normalised`.
    values [M, N, T+1]: V of every step and of what follows the last real step of each lane. rewards [M, N, T]: in place
    of those of the rollouts. over_trial: a lane's episodes are one task's trial, whose return is estimated: nothing
    ends but at the lane's last real step. after [M, N, T]: beside values, V of what followed truncated steps
    (`after_truncations`); by default V of the step after.

    The value after a termination is 0. After a truncation, and after a trial that ends in none, it is that of the
    observation which followed, but 0 where the horizon is finite (`Rollouts.followed`), and with a discount of 1, since
    sums without an end have no limit then. An episode that the end of its lane cut goes on with the value of what
    follows.
    """
    mask = rollouts.mask.numpy() > 0
    terminated, truncated = rollouts.terminated.numpy(), rollouts.truncated.numpy()
    if over_trial:
        done, times = rollouts.last_of_lane().numpy(), np.broadcast_to(np.arange(mask.shape[-1]), mask.shape)
    else:
        done, times = terminated | truncated, rollouts.times().numpy()
    cut = done & ~terminated & (rollouts.followed is not None and discount < 1)
    rewards = np.where(mask, rollouts.rewards.numpy() if rewards is None else rewards, 0.0).astype(np.float64)

    features = BASELINES[baseline]
    if values is not None:
        values = values.astype(np.float64)
        after = values[..., 1:] if after is None else after.astype(np.float64)
    elif features is None:
        values = np.zeros((*rewards.shape[:-1], rewards.shape[-1] + 1))
        after = np.zeros(rewards.shape)
    else:
        episodes = _Episodes(done, cut, times, rewards, in_whole_episode(done) & mask)
        values, after = _values(rollouts, episodes, features, discount)
    next_values = np.where(done, np.where(cut, after, 0.0), values[..., 1:])
    deltas = np.where(mask, rewards + discount * next_values - values[..., :-1], 0.0)
    result = backward_sums(deltas, discount * gae_lambda, done)
    targets = np.where(mask, result + values[..., :-1], 0.0)
    result = _normalised(result, mask, normalize, positive)
    return torch.from_numpy(result.astype(np.float32)), torch.from_numpy(targets.astype(np.float32))


def _normalised(advantages: np.ndarray, mask: np.ndarray, normalize: bool, positive: bool) -> np.ndarray:
    """Advantages [M, N, T], 0 where the mask, bool [M, N, T], is false.

    normalize: to mean 0 and population standard deviation 1 per task. positive: then shifted so that the smallest of a
    task is just above 0.
    """
    result = np.zeros_like(advantages)
    for task, real in enumerate(mask):
        values = advantages[task][real]
        if normalize:
            values = (values - values.mean()) / (values.std() + MIN_STD)
        if positive:
            values = values - values.min() + JUST_POSITIVE
        result[task][real] = values
    return result
