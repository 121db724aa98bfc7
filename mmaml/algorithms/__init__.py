"""The algorithms by name: one line each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmaml.algorithms.base import Algorithm
    from mmaml.config.keys import Config
    from mmaml.policies.distributions import Distribution

from mmaml.config.algorithms import ALGORITHMS


def algorithm_class(name: str) -> type[Algorithm]:
    """The class that a configuration's `algorithm` names."""
    module, _, cls = ALGORITHMS.get(name, name).partition(":")
    return getattr(importlib.import_module(module), cls)


def make_algorithm(config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> Algorithm:
    """The algorithm that `config.algorithm` names. actions: what distributes them."""
    return algorithm_class(config.algorithm)(config, observation_size, action_size, actions)  # type: ignore[call-arg]
