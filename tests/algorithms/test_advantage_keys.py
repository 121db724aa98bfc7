"""Keys of advantages: each has an effect under an algorithm, unless the algorithm declares that it has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.keys import COMMON_KEYS
from tests.helpers.recurrent_bandit import MODULE
from tests.helpers.support import sampled, small_config

RECURRENT = f"{MODULE}:RecurrentBandit"
SETTINGS: dict[str, dict[str, Any]] = {
    RECURRENT: {"env": f"{MODULE}:WaitingBandit", "episodes_per_trial": 3},
    "mgrl": {"discount_range": [0.1, 1.0]},
}
OTHER: dict[str, Any] = {
    "baseline": "ZeroBaseline",
    "discount": 0.5,
    "gae_lambda": 0.5,
    "normalize_adv": False,
    "positive_adv": True,
}


def learned(algorithm: str, **overrides: Any) -> torch.Tensor:
    """Advantages of the first collection, in which an algorithm acts the same whatever they are; and the update."""
    worker, parameters, _ = sampled(small_config(algorithm, **SETTINGS.get(algorithm, {}) | overrides))
    assert worker.block is not None
    advantages = worker.block.rollouts[0].advantages
    updated, _ = worker.algorithm.update(parameters, worker.block.evaluate(), 0)
    return torch.cat([advantages.flatten(), updated])


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, RECURRENT])
def test_a_key_of_advantages_has_no_effect_only_where_that_is_declared(algorithm: str) -> None:
    assert OTHER.keys() == {name for name, key in COMMON_KEYS.items() if key.group == "Advantages"}
    usual, declaration = learned(algorithm), small_config(algorithm, **SETTINGS.get(algorithm, {})).declaration
    without_effect = {name for name in OTHER if torch.equal(learned(algorithm, **{name: OTHER[name]}), usual)}
    assert without_effect == {name for name in OTHER if declaration.is_idle(name)}
