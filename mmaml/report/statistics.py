"""Intervals by a stratified bootstrap over seeds and tasks, and the probability of improvement.

What is drawn again, with replacement: first the seeds of an experiment, then, for each drawn seed, its tasks, as many
of each mode as it had (the modes are the strata). A seed's tasks share one trained policy, so they are drawn within
their seed: drawing seeds anew for every task, as though each task had been trained by itself, would give intervals
that are too narrow wherever seeds differ. Davison and Hinkley (1997), Bootstrap Methods, §3.8; Agarwal et al. (2021),
Deep RL at the Edge of the Statistical Precipice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmaml.report.gather import Seed

DRAWS = 5000


def all_modes(seeds: Sequence[Seed]) -> list[int]:
    """The modes of the tasks, in order."""
    return sorted({int(mode) for seed in seeds for mode in seed.modes})


def measured(seeds: Sequence[Seed]) -> np.ndarray:
    """Mean returns [S, G, C] of S seeds, by G - 1 modes and, last, over all tasks; NaN where none was measured."""
    return np.stack([_groups(seed, all_modes(seeds), None, None)[0] for seed in seeds])


def resampled(seeds: Sequence[Seed], key: int = 0, draws: int = DRAWS) -> np.ndarray:
    """What `measured` gives for `draws` bootstrap samples: [B, S, G, C].

    key: samples with other keys are independent. The same runs give the same samples, and so the same report.
    """
    generator = np.random.default_rng(key)
    modes, number = all_modes(seeds), len(seeds)
    drawn = generator.integers(number, size=(draws, number))
    result = np.empty((draws, number, len(modes) + 1, seeds[0].returns.shape[1]))
    for index, seed in enumerate(seeds):
        chosen = drawn == index
        result[chosen] = _groups(seed, modes, generator, int(chosen.sum()))
    return result


def _groups(seed: Seed, modes: Sequence[int], generator: np.random.Generator | None, draws: int | None) -> np.ndarray:
    """Means [B, G, C] of one seed, with its tasks drawn again `draws` times, or once as they are."""
    sums, counts = [], []
    for mode in modes:
        values = seed.returns[seed.modes == mode]
        tasks = len(values)
        if generator is None or tasks == 0:
            weights = np.ones((draws or 1, tasks))
        else:
            weights = generator.multinomial(tasks, np.full(tasks, 1 / tasks), size=draws).astype(float)
        known = ~np.isnan(values)
        sums.append(weights @ np.where(known, values, 0.0))
        counts.append(weights @ known)
    total, count = (np.stack([*parts, np.sum(parts, axis=0)], axis=1) for parts in (sums, counts))
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def mean_over_seeds(values: np.ndarray) -> np.ndarray:
    """[…, S, G, C] -> […, G, C], over the seeds that were measured; NaN where none was."""
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0).sum(-3), known.sum(-3)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def interval95(draws: np.ndarray) -> np.ndarray:
    """The 2.5% and 97.5% percentiles of bootstrap samples: [B, …] -> [2, …]; NaN where a sample has no value."""
    return np.percentile(draws, (2.5, 97.5), axis=0)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """How often one seed of ours has a higher return than one of theirs: […, S, G] and […, R, G] -> […].

    Over all S · R pairs, equal returns counted half, and averaged over G modes: Agarwal et al. (2021), §4.3. Pairs with
    a return that is not known (NaN) do not count; NaN where a mode has no others.
    """
    first, second = ours[..., :, None, :], theirs[..., None, :, :]
    won = (first > second) + 0.5 * (first == second)
    known = (~np.isnan(first + second)).sum((-3, -2))
    share = np.divide(won.sum((-3, -2)), known, out=np.full(known.shape, np.nan), where=known > 0)
    return share.mean(-1)
