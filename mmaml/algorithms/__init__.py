"""The algorithms by name: one line each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmaml.algorithms.base import Algorithm
    from mmaml.config.keys import Config
    from mmaml.policies.distributions import Distribution

from mmaml.config.algorithms import ALGORITHMS
from mmaml.envs.process_state import code_settings
from mmaml.errors import ConfigError, described


def algorithm_class(name: str) -> type[Algorithm]:
    """The class that a configuration's `algorithm` names. Raises ConfigError if a user's cannot be used."""
    module, _, cls = ALGORITHMS.get(name, name).partition(":")
    try:
        with code_settings(module).running():
            found = getattr(importlib.import_module(module), cls)
    except Exception as error:  # a user's module may fail in any way
        raise ConfigError("algorithm", f"'{name}' cannot be loaded ({described(error)})", "fix its module") from error
    from mmaml.algorithms.base import Algorithm

    if not isinstance(found, type) or not issubclass(found, Algorithm):
        raise ConfigError(
            "algorithm", expected=f"at '{name}' a class derived from mmaml.algorithms.base.Algorithm", got=repr(found)
        )
    return found


def make_algorithm(config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> Algorithm:
    """The algorithm that `config.algorithm` names. actions: what distributes them."""
    return algorithm_class(config.algorithm)(config, observation_size, action_size, actions)  # type: ignore[call-arg]
