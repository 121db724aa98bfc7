"""Goals about the centres of modes, as several families draw them."""

from __future__ import annotations

import numpy as np

DEALS = ("draw", "round_robin")


def draw_goals(
    n: int, rng: np.random.Generator, centers: np.ndarray, noise: float, deal: str
) -> tuple[np.ndarray, np.ndarray]:
    """Modes [n] and goals [n, 2]: a mode's centre + N(0, noise²) in x and y.

    centers [modes, 2]. deal: how tasks get their modes, "draw" (each uniformly) or "round_robin" (in turn,
    over the tasks of a meta-batch).
    """
    modes = np.arange(n) % len(centers)
    if deal == "draw":
        modes = rng.integers(len(centers), size=n)
    return modes, centers[modes] + noise * rng.standard_normal((n, 2))
