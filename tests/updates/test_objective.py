"""J, its parts and its gradient against `tests.helpers.reference`, task by task, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms import make_algorithm
from mmaml.config.loading import load_config
from mmaml.policies.distributions import Gaussian
from mmaml.policies.policy import GaussianMLPPolicy
from tests.helpers import reference
from tests.helpers.synthetic import ragged_rollouts

CASES = [
    ("promp", 1, {}),
    ("promp", 2, {"hidden_nonlinearity": "relu"}),
    ("promp", 3, {"collect": "episodes", "hidden_sizes": [7]}),
    ("promp", 2, {"clip_outer": False}),
    ("promp", 1, {"learn_std": False}),
    ("mmaml", 1, {"use_betas": True}),
    ("mmaml", 2, {"mlp_after_gru": True, "mlp_after_pool": True, "use_betas": True}),
    ("mmaml", 2, {"mlp_after_gru": False, "mlp_after_pool": False, "shift_gammas": False}),
    ("mmaml", 3, {"use_betas": True, "collect": "episodes", "hidden_sizes": [4, 5, 3]}),
    ("mmaml", 1, {"mlp_after_gru": True, "mlp_after_pool": False, "hidden_nonlinearity": "relu"}),
    ("mmaml", 1, {"encoder_input": "published"}),
    ("mmaml", 2, {"encoder_input": "published", "clip_outer": False, "shift_gammas": False}),
]


@pytest.mark.parametrize("algorithm, inner_steps, overrides", CASES)
def test_objective_and_gradient_equal_the_reference(algorithm: str, inner_steps: int, overrides: dict) -> None:
    sizes: dict[str, Any] = {"hidden_sizes": [5, 4], "cell_size": 4, "inner_lr": 0.1}
    config = load_config(None, sizes | {"num_inner_grad_steps": inner_steps} | overrides, algorithm)
    algo: Any = make_algorithm(config, 3, 2, Gaussian)
    g = torch.Generator().manual_seed(1)
    params = {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=g, dtype=torch.float64)
        for name, value in algo.init(np.random.default_rng(0)).items()
    }
    params["policy.log_std"] = params["policy.log_std"] + 0.6
    rollouts = [ragged_rollouts(collect=config.collect, seed=k) for k in range(inner_steps + 1)]
    options: dict[str, Any] = {
        "clip_eps": 0.15,
        "kl_coefficients": [0.3, 0.7, 0.2][:inner_steps],
        "outer_kl_coefficient": 0.4,
    }
    ours = algo.meta_gradient(algo.spec.flatten(params), rollouts, None, clip=config.clip_outer, **options)
    assert 0.1 < ours["clip_fraction"].mean() < 0.9

    for task in range(rollouts[0].tasks):
        expected = reference.objective(params, rollouts, task, config, **options)
        numbers = {"loss": expected.loss, "outer_kl": expected.kl_outer, "clip_fraction": expected.clip_fraction}
        assert ours["inner_kl"][task].tolist() == pytest.approx(expected.kls, rel=1e-10, abs=1e-12)
        for name, value in numbers.items():
            assert float(ours[name][task]) == pytest.approx(value, rel=1e-10, abs=1e-12), name
        for name, gradient in algo.spec.unflatten(ours["gradient"][task]).items():
            torch.testing.assert_close(gradient, expected.gradient[name], rtol=1e-9, atol=1e-11)
        again = algo.meta_loss(algo.spec.flatten(params), rollouts, None, clip=config.clip_outer, **options)
        assert float(again["loss"][task]) == pytest.approx(expected.loss, rel=1e-10)


def test_standard_deviations_stop_at_a_millionth() -> None:
    policy = GaussianMLPPolicy(3, 2, [4])
    params = {name: value[None].double() for name, value in policy.init(np.random.default_rng(0)).items()}
    params["policy.log_std"] = torch.tensor([[[-20.0, -13.0]]], dtype=torch.float64)
    log_std = policy.distribution(params, torch.zeros(1, 1, 3, dtype=torch.float64)).log_std
    assert log_std.flatten().tolist() == pytest.approx([math.log(1e-6), -13.0], rel=1e-12)
