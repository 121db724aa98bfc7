"""From rewards to advantages: returns, baselines, GAE, normalisation; per task, in float64.

float64 because observations such as cos, sin or quaternions are collinear with the constant feature, and
the fit then loses half its residual in float32. Flags mark where episodes begin and end (`mmaml.sampling.rollouts`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mmaml.sampling.rollouts import Rollouts

MAX_OBSERVATION = 10.0
RIDGE, RIDGE_GROWTH, RIDGE_ATTEMPTS = 1e-5, 10.0, 6
Features = Callable[[np.ndarray, np.ndarray], np.ndarray]


def time_features(observations: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[t/100, (t/100)², (t/100)³, 1]: observations [..., O], times [...] -> [..., 4]."""
    t = times[..., None] / 100.0
    return np.concatenate([t, t**2, t**3, np.ones_like(t)], axis=-1)


def linear_features(observations: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[o, o², t/100, (t/100)², (t/100)³, 1], o clipped to ±10 (Duan et al. 2016): [..., 2·O + 4]."""
    o = np.clip(observations, -MAX_OBSERVATION, MAX_OBSERVATION)
    return np.concatenate([o, o**2, time_features(observations, times)], axis=-1)


BASELINES: dict[str, Features | None] = {
    "LinearFeatureBaseline": linear_features,
    "LinearTimeBaseline": time_features,
    "ZeroBaseline": None,
}


def fit_ridge(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Coefficients w that minimise ‖X w - y‖² + λ‖w‖². X: [n, F], y: [n].

    λ starts at 1e-5 and grows tenfold, up to five times, while the solution is not finite; then w = 0.
    """
    gram, moments = features.T @ features, features.T @ targets
    ridge = RIDGE
    for _ in range(RIDGE_ATTEMPTS):
        try:
            solution = np.linalg.solve(gram + ridge * np.eye(len(gram)), moments)
        except np.linalg.LinAlgError:
            solution = np.full(len(gram), np.nan)
        if np.isfinite(solution).all():
            return solution
        ridge *= RIDGE_GROWTH
    return np.zeros(len(gram))


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


def _values(
    rollouts: Rollouts, features: Features, times: np.ndarray, returns: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """Baseline fitted per task on the whole episodes; values of every step and of the end of the lane, [M, N, T+1]."""
    times = np.concatenate([times, times[..., -1:] + 1], axis=-1)
    observations, final = rollouts.observations.numpy(), rollouts.final_observations.numpy()
    values = np.empty(times.shape)
    for task in range(rollouts.tasks):
        o = np.concatenate([observations[task], final[task][:, None]], axis=1).astype(np.float64)
        x = features(o, times[task])
        used = whole[task]
        coefficients = fit_ridge(x[:, :-1][used], returns[task][used])
        values[task] = x @ coefficients
    return values


def advantages(
    rollouts: Rollouts,
    baseline: str,
    discount: float,
    gae_lambda: float,
    normalize: bool,
    positive: bool,
    values: np.ndarray | None = None,
    rewards: np.ndarray | None = None,
    over_trial: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16): [M, N, T], float32, 0 on padding.

    Also the targets of a value function, V + Â before Â is normalised: TD(λ) returns. values [M, N, T+1]: V of every
    step and of the end of the lane, in place of the baseline's. rewards [M, N, T]: in place of those of the rollouts.
    over_trial: a lane's episodes are one task's trial, whose return is estimated: nothing ends but at the lane's last
    real step, with a value of 0 after it.

    Else value 0 after termination and after the horizon; an episode cut by the end of its lane bootstraps from
    the baseline. normalize: mean 0 and population standard deviation 1 per task. positive: then shifted so
    that the least is just above 0.
    """
    mask = rollouts.mask.numpy() > 0
    if over_trial:
        done, times = rollouts.last_of_lane().numpy(), np.broadcast_to(np.arange(mask.shape[-1]), mask.shape)
    else:
        done = (rollouts.terminated | rollouts.truncated).numpy()
        times = rollouts.times().numpy()
    rewards = np.where(mask, rollouts.rewards.numpy() if rewards is None else rewards, 0.0).astype(np.float64)

    features = BASELINES[baseline]
    if values is not None:
        values = values.astype(np.float64)
    elif features is None:
        values = np.zeros((*rewards.shape[:-1], rewards.shape[-1] + 1))
    else:
        returns = backward_sums(rewards, discount, done)
        values = _values(rollouts, features, times, returns, in_whole_episode(done) & mask)
    next_values = np.where(done, 0.0, values[..., 1:])
    deltas = np.where(mask, rewards + discount * next_values - values[..., :-1], 0.0)
    result = backward_sums(deltas, discount * gae_lambda, done)
    targets = np.where(mask, result + values[..., :-1], 0.0)

    for task in range(rollouts.tasks):
        real = result[task][mask[task]]
        if normalize:
            real = (real - real.mean()) / (real.std() + 1e-8)
        if positive:
            real = real - real.min() + 1e-8
        result[task][mask[task]] = real
    result = np.where(mask, result, 0.0)
    return torch.from_numpy(result.astype(np.float32)), torch.from_numpy(targets.astype(np.float32))
