"""CAVIA: a context, and it alone, is adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.policies.distributions import Gaussian
from mmaml.policies.policy import CONTEXT_WEIGHT
from tests.helpers.support import held_out_returns, run, sampled, small_config

CARTPOLE = {"env": "CartPoleMassEnv", "max_path_length": 15}


def plain_policy(meta: dict[str, torch.Tensor], inputs: torch.Tensor) -> Gaussian:
    """An MLP of 2 hidden layers of tanh on [o, c], [M, n, O + C], by torch's own operations."""
    first = torch.cat([meta["policy.0.weight"], meta[CONTEXT_WEIGHT]], 1)
    y = torch.tanh(inputs @ first + meta["policy.0.bias"])
    y = torch.tanh(y @ meta["policy.1.weight"] + meta["policy.1.bias"])
    return Gaussian(y @ meta["policy.2.weight"] + meta["policy.2.bias"], meta["policy.log_std"])


def collected(algorithm: str, **overrides: Any) -> tuple[Any, dict[str, torch.Tensor], Any, torch.Tensor]:
    """The algorithm, meta-parameters of every task, the block with two collections, and the parameters."""
    worker, parameters, _ = sampled(small_config(algorithm, **overrides))
    assert worker.block is not None
    block = worker.block
    return worker.algorithm, worker.algorithm.spec.per_task(parameters, block.rollouts[0].tasks), block, parameters


def assert_a_task_alone_has_the_bits_of_one_in_a_block(algorithm: str, **overrides: Any) -> None:
    """Of the meta-gradient and the Fisher product, away from where the tasks were sampled."""
    algo, _, block, parameters = collected(algorithm, meta_batch_size=5, hidden_sizes=[13, 7], **overrides)
    g = torch.Generator().manual_seed(0)
    moved = parameters + 0.05 * torch.randn(parameters.shape, generator=g)
    vector = torch.randn(parameters.shape, generator=g)
    for function in ("meta_gradient", "fisher_product"):
        together = block.evaluate(function, moved, vector)
        for task in range(5):
            alone = block.evaluate(function, moved, vector, [task])
            assert all((alone[name][0] == value[task]).all() for name, value in together.items())
    assert algo.step_sizes or algorithm != "maesn"


@pytest.mark.parametrize("overrides", [{}, CARTPOLE])
def test_every_collection_is_sampled_by_the_policy_of_the_objective(overrides: dict[str, Any]) -> None:
    _, _, block, parameters = collected("cavia", num_inner_grad_steps=2, inner_lr=1.0, **overrides)
    parts = block.evaluate("meta_loss", parameters)
    assert all(abs(parts[name]).max() < 1e-5 for name in ("kl_0", "kl_1", "kl_outer"))
    moved = block.evaluate("meta_loss", parameters + 0.1)
    assert all(moved[name].min() > 1e-4 for name in ("kl_0", "kl_1", "kl_outer"))


def test_the_step_is_the_gradient_in_the_context_of_a_policy_that_reads_it() -> None:
    algo, meta, block, _ = collected("cavia", context_size=3, inner_lr=0.7)
    data = block.rollouts[0]
    state = algo.begin(meta, data.identity)
    assert list(state.params) == ["context"] and not state.params["context"].any()
    context = torch.zeros(data.tasks, 1, 3, requires_grad=True)
    observations = data.flat("observations")
    new = plain_policy(meta, torch.cat([observations, context.expand(-1, observations.shape[1], -1)], -1))
    gains = (new.log_prob(data.flat("actions")) * data.flat("advantages") * data.flat("weights")).sum()
    (gradient,) = torch.autograd.grad(gains, context)
    adapted = algo.adapt(meta, state, block.rollouts[:1])
    assert gradient.abs().max() > 0.01
    torch.testing.assert_close(adapted.params["context"], 0.7 * gradient, rtol=1e-4, atol=1e-6)
    assert list(adapted.shared) == list(algo.policy.shapes)
    assert all(torch.equal(value, meta[name]) for name, value in adapted.shared.items())
    inputs = torch.cat([observations, adapted.params["context"].expand(-1, observations.shape[1], -1)], -1)
    torch.testing.assert_close(algo.distribution(adapted, data).mean, plain_policy(meta, inputs).mean)


@pytest.mark.parametrize("learned", [False, True])
def test_a_task_alone_has_the_bits_of_one_in_a_block(learned: bool) -> None:
    assert_a_task_alone_has_the_bits_of_one_in_a_block(
        "cavia", context_size=50, num_inner_grad_steps=2, trainable_inner_step_size=learned
    )


TWO_MODES: dict[str, Any] = {
    "env": "tests.helpers.probes:TargetAction",
    "env_kwargs": {"modes": 2, "target": 1.0},
    "meta_batch_size": 10,
    "rollouts_per_meta_task": 10,
    "max_path_length": 4,
    "hidden_sizes": [8],
    "num_promp_steps": 5,
    "learn_std": False,
    "inner_lr": 1.0,
    "max_kl": 0.02,
    "save_steps": 1000,
}
# Returns of a policy with std 1: at most -8 if it does not know the mode, -4 if it does.
KNOWS_NOT, KNOWS = -8.0, -4.0


@pytest.mark.parametrize("meta_update, n_itr, learning_rate", [("ppo", 20, 1e-2), ("vpg", 40, 2e-2), ("trpo", 12, 1.0)])
def test_it_learns_to_adapt_to_either_mode(meta_update: str, n_itr: int, learning_rate: float, tmp_path: Path) -> None:
    settings = TWO_MODES | {"n_itr": n_itr, "meta_update": meta_update, "learning_rate": learning_rate}
    config = small_config("cavia", dump_path=str(tmp_path / "run"), **settings)
    before, after = held_out_returns(config, run(config)).mean(0)
    assert before < KNOWS_NOT + 0.3 and after > KNOWS - 1
