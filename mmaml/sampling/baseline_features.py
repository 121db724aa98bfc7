"""What the linear baselines are fitted to, and how many numbers that is; without torch, for the check of memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MAX_OBSERVATION = 10.0
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


def feature_count(baseline: str, observation_size: int) -> int:
    """How many features a step has; 0 where nothing is fitted."""
    features = BASELINES[baseline]
    return 0 if features is None else features(np.zeros(observation_size), np.zeros(())).size
