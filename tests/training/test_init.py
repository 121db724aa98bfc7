"""The distribution of the meta-parameters at the start of training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmaml.algorithms import make_algorithm
from mmaml.config.loading import load_config
from mmaml.policies.distributions import Gaussian
from mmaml.policies.params import Params


@pytest.fixture(scope="module")
def params() -> Params:
    sizes = {"hidden_sizes": [120, 100], "cell_size": 60, "use_betas": True}
    config = load_config(None, sizes | {"mlp_after_gru": True, "mlp_after_pool": True}, "mmaml")
    return make_algorithm(config, 10, 8, Gaussian).init(np.random.default_rng(0))


def test_weights_are_uniform_up_to_the_glorot_bound(params: Params) -> None:
    weights = {name: value for name, value in params.items() if name.endswith((".weight", ".input"))}
    assert len(weights) == 3 + 2 + 4 + 1  # policy, GRU, the two MLPs, modulation
    for name, weight in weights.items():
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.98 * bound < weight.abs().max() <= bound * (1 + 1e-6), name
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1), name
        assert abs(float(weight.mean())) < 0.1 * bound, name


def test_the_recurrent_kernel_has_orthonormal_rows(params: Params) -> None:
    kernel = torch.cat([params["encoder.gru.gates.recurrent"], params["encoder.gru.candidate.recurrent"]], dim=1)
    assert kernel.shape == (60, 180)
    torch.testing.assert_close(kernel @ kernel.T, torch.eye(60), rtol=0, atol=1e-5)


def test_biases_and_log_std_are_zero(params: Params) -> None:
    zeros = [name for name in params if name.endswith((".bias", "log_std"))]
    assert len(zeros) == 3 + 2 + 4 + 1 + 1
    assert not any(params[name].any() for name in zeros)
