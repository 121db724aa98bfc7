"""Every random number of a run comes from a generator named here, keyed by what it is for.

A key never holds a rank, a process or a count of earlier draws: the same config gives the same numbers
on any number of ranks, and a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import numpy as np

STREAMS = {
    "parameters": 0,
    "tasks": 1,
    "environment": 2,
    "action": 3,
    "minibatches": 4,
    "train tasks": 5,
    "episode": 6,
    "buffer": 7,
    "variational": 8,
}
PURPOSES = {"train": 0, "test": 1, "ood": 2}


def _sequence(seed: int, stream: str, purpose: str, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, STREAMS[stream], PURPOSES[purpose], *key])


def generator(seed: int, stream: str, *key: int, purpose: str = "train") -> np.random.Generator:
    """The generator of one stream, e.g. `generator(seed, "action", iteration, task, collection)`.

    `purpose` keeps training, evaluation on held-out tasks and out-of-distribution evaluation apart.
    """
    return np.random.default_rng(_sequence(seed, stream, purpose, key))


def integer(seed: int, stream: str, *key: int, purpose: str = "train") -> int:
    """A 63-bit seed for code that wants an integer, such as an environment's `reset`."""
    return int(_sequence(seed, stream, purpose, key).generate_state(1, np.uint64)[0] >> np.uint64(1))
