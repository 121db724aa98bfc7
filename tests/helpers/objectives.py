"""An algorithm, parameters and made-up rollouts, in float64, at which its objective is examined."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmaml.algorithms import make_algorithm
from mmaml.config.loading import load_config
from mmaml.policies.distributions import Distribution, Gaussian
from mmaml.sampling.rollouts import Rollouts
from tests.helpers.synthetic import ragged_rollouts

VECTOR = torch.tensor([1.3, -0.4, 0.7], dtype=torch.float64)  # of the three tasks, for an algorithm that uses it


def setting(
    algorithm: str, inner_steps: int, actions: type[Distribution] = Gaussian, **overrides: Any
) -> tuple[Any, torch.Tensor, list[Rollouts], dict]:
    sizes = {"hidden_sizes": [5, 4], "cell_size": 4, "inner_lr": 0.05, "num_inner_grad_steps": inner_steps}
    algo = make_algorithm(load_config(None, sizes | overrides, algorithm), 3, 3, actions)
    params = {name: value.double() for name, value in algo.init(np.random.default_rng(0)).items()}
    g = torch.Generator().manual_seed(1)
    params = {name: v + 0.05 * torch.randn(v.shape, generator=g, dtype=v.dtype) for name, v in params.items()}
    if actions is Gaussian:
        params["policy.log_std"] = params["policy.log_std"] + 0.6
    collect = overrides.get("collect", "lanes")
    rollouts = [
        ragged_rollouts(action_size=3, collect=collect, actions=actions, seed=k) for k in range(inner_steps + 1)
    ]
    options: dict[str, Any] = {
        "clip": algo.config.clip_outer,
        "outer_kl_coefficient": 0.4,
        "kl_coefficients": [0.3, 0.7, 0.2][:inner_steps],
    }
    flat = algo.spec.flatten(params)
    for options["clip_eps"] in (0.6, 0.35, 0.2, 0.1, 0.05):  # clip between a tenth and a half of the ratios
        if algo.meta_loss(flat, rollouts, VECTOR, **options)["clip_fraction"].mean() > 0.1:
            break
    return algo, flat, rollouts, options


def assert_padding_is_read_by_nothing(algorithm: str, inner_steps: int, **overrides: Any) -> None:
    """Whatever stands there, the meta-gradient is the same."""
    algo, flat, rollouts, options = setting(algorithm, inner_steps, collect="episodes", **overrides)
    before = algo.meta_gradient(flat, rollouts, VECTOR, **options)
    for collection in rollouts:
        padding = collection.mask == 0
        assert padding.any()
        collection.observations[padding] = -7e7
        collection.actions[padding] = collection.distribution[0][padding]
        collection.rewards[padding] = 5e7
    after = algo.meta_gradient(flat, rollouts, VECTOR, **options)
    torch.testing.assert_close(before["gradient"], after["gradient"], rtol=1e-12, atol=1e-12)


def as_if_sampled(algo: Any, flat: torch.Tensor, rollouts: list[Rollouts]) -> None:
    """Have the collections come from the policies that the parameters adapt to on them."""
    meta = algo.spec.per_task(flat, rollouts[0].tasks)
    state = algo.begin(meta, rollouts[0].identity)
    for k, data in enumerate(rollouts):
        new = algo.distribution(state, data)
        tasks, lanes, steps = data.rewards.shape
        dense = [value.detach().expand(tasks, lanes * steps, -1).unflatten(1, (lanes, steps)) for value in new]
        data.distribution = type(new)(*dense)
        data.log_probs = data.distribution.log_prob(data.actions)
        if k < len(rollouts) - 1:
            state = algo.adapt(meta, state, rollouts[: k + 1])
