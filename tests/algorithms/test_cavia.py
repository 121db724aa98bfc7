"""CAVIA: a context, and it alone, is adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.adapting import (
    CARTPOLE,
    KNOWS,
    KNOWS_NOT,
    TWO_MODES,
    assert_a_task_alone_has_the_bits_of_one_in_a_block,
    assert_the_policies_of_the_objective_sampled,
    collected,
    plain_policy,
)
from tests.helpers.support import held_out_returns, run, small_config


@pytest.mark.parametrize("overrides", [{}, CARTPOLE])
def test_every_collection_is_sampled_by_the_policy_of_the_objective(overrides: dict[str, Any]) -> None:
    _, _, block, parameters = collected("cavia", num_inner_grad_steps=2, inner_lr=1.0, **overrides)
    assert_the_policies_of_the_objective_sampled(block, parameters)


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


@pytest.mark.learn
@pytest.mark.parametrize("meta_update, n_itr, learning_rate", [("ppo", 20, 1e-2), ("vpg", 40, 2e-2), ("trpo", 12, 1.0)])
def test_it_learns_to_adapt_to_either_mode(meta_update: str, n_itr: int, learning_rate: float, tmp_path: Path) -> None:
    settings = TWO_MODES | {"n_itr": n_itr, "meta_update": meta_update, "learning_rate": learning_rate}
    config = small_config("cavia", dump_path=str(tmp_path / "run"), **settings)
    before, after = held_out_returns(config, run(config)).mean(0)
    assert before < KNOWS_NOT + 0.3 and after > KNOWS - 1
