"""The features of the baselines and their fit, on numbers worked out by hand or by another method."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from mmaml.config.keys import BASELINES
from mmaml.sampling.advantages import advantages, fit_ridge
from mmaml.sampling.baseline_features import linear_features, time_features
from tests.helpers.synthetic import ragged_rollouts


def test_features_are_the_clipped_observation_its_square_and_powers_of_time() -> None:
    observations = np.array([[3.0, -0.5], [25.0, -12.0]])
    times = np.array([50, 200])
    expected = [
        [3.0, -0.5, 9.0, 0.25, 0.5, 0.25, 0.125, 1.0],
        [10.0, -10.0, 100.0, 100.0, 2.0, 4.0, 8.0, 1.0],
    ]
    np.testing.assert_allclose(linear_features(observations, times), expected, rtol=1e-14)
    np.testing.assert_allclose(time_features(observations, times), np.array(expected)[:, 4:], rtol=1e-14)


def test_features_are_counted_without_torch() -> None:
    """Of each baseline that a configuration may name."""
    program = f"""
import sys
from mmaml.sampling.baseline_features import feature_count
print(*(feature_count(baseline, 7) for baseline in {BASELINES}), "torch" in sys.modules)
"""
    counted = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert counted.stdout.split() == ["18", "4", "0", "False"]


def test_the_ridge_is_a_hundred_thousandth() -> None:
    features = np.diag([1.0, 1e-2, 1e-3])
    expected = [1 / (1 + 1e-5), 1e-2 / (1e-4 + 1e-5), 1e-3 / (1e-6 + 1e-5)]
    np.testing.assert_allclose(fit_ridge(features, np.ones(3)), expected, rtol=1e-12)


def test_the_baseline_is_fitted_in_float64() -> None:
    """Observations on a small circle far from 0: their squares, themselves and 1 are nearly collinear.

    Without discount an advantage is the residual of the reward, here found by an orthogonal factorisation
    of the features with the ridge's rows beneath.
    """
    rollouts = ragged_rollouts(tasks=1, lanes=10, horizon=40, observation_size=2, dtype=torch.float32)
    angle = torch.linspace(0, 300, 400, dtype=torch.float64).reshape(1, 10, 40)
    circle = torch.stack([angle.cos(), angle.sin()], dim=-1)
    rollouts.observations = (8 + 0.1 * circle).float()
    rollouts.rewards = (2 * angle).cos().float()
    rollouts.episode_start[:], rollouts.terminated[:], rollouts.truncated[:] = False, False, False
    rollouts.episode_start[..., 0] = True
    rollouts.truncated[..., -1] = True

    ours = advantages(rollouts, "LinearFeatureBaseline", 0.0, 1.0, normalize=False, positive=False)[0]
    o, t = rollouts.observations[0].double().numpy(), np.tile(np.arange(40), (10, 1))[..., None] / 100
    x = np.concatenate([o, o**2, t, t**2, t**3, np.ones_like(t)], axis=-1).reshape(400, 8)
    y = rollouts.rewards[0].double().numpy().reshape(400)
    below = np.sqrt(1e-5) * np.eye(8)
    w = np.linalg.lstsq(np.concatenate([x, below]), np.concatenate([y, np.zeros(8)]), rcond=None)[0]
    residual = y - x @ w
    assert residual.std() < 0.5 * y.std()
    assert ours[0].numpy().reshape(400) == pytest.approx(residual, abs=2e-5)
