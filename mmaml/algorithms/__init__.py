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
    "maml": "mmaml.algorithms.maml:MAML",
    "e_maml": "mmaml.algorithms.e_maml:EMAML",
    "dice": "mmaml.algorithms.dice:DiCE",
    "meta_sgd": "mmaml.algorithms.meta_sgd:MetaSGD",
    "tesp": "mmaml.algorithms.tesp:TESP",
    "rllib_maml": "mmaml.algorithms.rllib_maml:RLlibMAML",
    "cavia": "mmaml.algorithms.cavia:CAVIA",
    "maesn": "mmaml.algorithms.maesn:MAESN",
}


def algorithm_class(name: str) -> type[Algorithm]:
    """The class that a configuration's `algorithm` names."""
    module, _, cls = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def make_algorithm(config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> Algorithm:
    """The algorithm that `config.algorithm` names. actions: what distributes them."""
    return algorithm_class(config.algorithm)(config, observation_size, action_size, actions)  # type: ignore[call-arg]
