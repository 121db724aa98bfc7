"""Algorithms that adapt a small part of the policy: blocks they collect, a plain policy, a task with two modes."""

from __future__ import annotations

from typing import Any

import torch

from mmaml.policies.distributions import Gaussian
from mmaml.task_block import TaskBlock
from mmaml.updates.evaluate import Question
from tests.helpers.support import sampled, small_config

CARTPOLE = {"env": "CartPoleMassEnv", "max_path_length": 15}

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


def plain_policy(meta: dict[str, torch.Tensor], inputs: torch.Tensor) -> Gaussian:
    """An MLP of 2 hidden layers of tanh on [o, c], [M, n, O + C], by torch's own operations."""
    first = torch.cat([meta["policy.0.weight"], meta["policy.context"]], 1)
    y = torch.tanh(inputs @ first + meta["policy.0.bias"])
    y = torch.tanh(y @ meta["policy.1.weight"] + meta["policy.1.bias"])
    return Gaussian(y @ meta["policy.2.weight"] + meta["policy.2.bias"], meta["policy.log_std"])


def collected(algorithm: str, **overrides: Any) -> tuple[Any, dict[str, torch.Tensor], Any, torch.Tensor]:
    """The algorithm, meta-parameters of every task, the block with two collections, and the parameters."""
    worker, parameters, _ = sampled(small_config(algorithm, **overrides))
    assert worker.block is not None
    block = worker.block
    return worker.algorithm, worker.algorithm.spec.per_task(parameters, block.rollouts[0].tasks), block, parameters


def assert_the_policies_of_the_objective_sampled(
    block: TaskBlock, parameters: torch.Tensor, shift: float = 0.1, least_kl: float = 1e-4
) -> None:
    """In every collection; with other parameters, whose entries are larger by `shift`, the objective sees others."""
    parts = block.answer(Question("meta_loss", parameters))
    moved = block.answer(Question("meta_loss", parameters + shift))
    for name in ("inner_kl", "outer_kl"):
        assert abs(parts[name]).max() < 1e-5 and moved[name].min() > least_kl


def assert_a_task_alone_has_the_bits_of_one_in_a_block(algorithm: str, **overrides: Any) -> None:
    """Of the meta-gradient and the Fisher product, away from where the tasks were sampled."""
    algo, _, block, parameters = collected(algorithm, meta_batch_size=5, hidden_sizes=[13, 7], **overrides)
    g = torch.Generator().manual_seed(0)
    moved = parameters + 0.05 * torch.randn(parameters.shape, generator=g)
    vector = torch.randn(parameters.shape, generator=g)
    for function in ("meta_gradient", "fisher_product"):
        together = block.answer(Question(function, moved, vector))
        for task in range(5):
            alone = block.answer(Question(function, moved, vector, [task]))
            assert all((alone[name][0] == value[task]).all() for name, value in together.items())
    assert algo.step_sizes or algorithm != "maesn"
