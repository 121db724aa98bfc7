"""Drawing modes and goals, shared by several families."""

from __future__ import annotations

import numpy as np

DEALS = ("draw", "round_robin")


def draw_modes(n: int, rng: np.random.Generator, num_modes: int, deal: str) -> np.ndarray:
    """Modes of n tasks, [n].

    deal: "draw" (each uniformly at random) or "round_robin" (in turn, over the tasks of a meta-batch).
    """
    return rng.integers(num_modes, size=n) if deal == "draw" else np.arange(n) % num_modes


def draw_goals(
    n: int, rng: np.random.Generator, centers: np.ndarray, noise: float, deal: str
) -> tuple[np.ndarray, np.ndarray]:
    """Modes [n] and goals [n, 2]: the mode's centre + N(0, noise²) in x and in y.

    centers [modes, 2]. deal: see `draw_modes`.
    """
    modes = draw_modes(n, rng, len(centers), deal)
    return modes, centers[modes] + noise * rng.standard_normal((n, 2))


def draw_directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors in the plane [n, 2], uniform over the circle."""
    angles = rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def draw_in_ring(n: int, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Points in the plane [n, 2], uniform between the distances low and high from the origin."""
    return np.sqrt(rng.uniform(low**2, high**2, (n, 1))) * draw_directions(n, rng)
