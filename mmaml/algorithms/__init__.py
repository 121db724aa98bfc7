"""The algorithms by name: one line each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmaml.algorithms.base import Algorithm
    from mmaml.config import Config
    from mmaml.policies.distributions import Distribution

ALGORITHMS = {
    "mmaml": "mmaml.algorithms.mmaml:MMAML",
    "promp": "mmaml.algorithms.promp:ProMP",
}


def make_algorithm(config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> Algorithm:
    """The algorithm that `config.algorithm` names. actions: what distributes them."""
    module, name = ALGORITHMS[config.algorithm].split(":")
    return getattr(importlib.import_module(module), name)(config, observation_size, action_size, actions)
