"""Whether drawn numbers have the distribution that they should have."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def uniform(values: np.ndarray) -> np.ndarray:
    """The share of U(0, 1) below each value."""
    return np.clip(values, 0, 1)


def normal(values: np.ndarray) -> np.ndarray:
    """The share of N(0, 1) below each value."""
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in values.ravel()])


def assert_distributed(values: np.ndarray, below: Callable[[np.ndarray], np.ndarray]) -> None:
    """The test of Kolmogorov and Smirnov: one sample in ten thousand of the right distribution fails it."""
    values = np.sort(values, axis=None)
    n = len(values)
    expected = below(values)
    distance = max(np.abs(expected - np.arange(n) / n).max(), np.abs(expected - np.arange(1, n + 1) / n).max())
    assert distance < 2.23 / math.sqrt(n), f"{distance} for {n} values"


def assert_counts(counts: np.ndarray, shares: np.ndarray) -> None:
    """Counts of a sample, each within 5 standard deviations of what the shares of a whole let expect."""
    n = counts.sum()
    assert (np.abs(counts - n * shares) <= 5 * np.sqrt(n * shares * (1 - shares)) + 1e-9).all(), (counts, n * shares)
