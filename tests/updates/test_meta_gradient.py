"""The whole meta-gradient of ProMP and MMAML against finite differences, in float64.

At parameters away from those that sampled: ratios are clipped, the KL is positive, episodes are ragged.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmaml.policies.distributions import Categorical
from mmaml.sampling.rollouts import Rollouts
from tests.helpers.objectives import VECTOR, assert_padding_is_read_by_nothing, setting

STEP = 1e-5


def _finite_differences(algo: Any, flat: torch.Tensor, rollouts: list[Rollouts], options: dict) -> torch.Tensor:
    """Central differences of every task's J in every parameter, each perturbation evaluated as a task: [M, P]."""
    shifts = STEP * torch.eye(len(flat), dtype=flat.dtype)
    perturbed = torch.cat([flat + shifts, flat - shifts])
    rows = []
    for task in range(rollouts[0].tasks):
        copies = [collection.select(torch.full((len(perturbed),), task)) for collection in rollouts]
        values = algo.objective(algo.spec.unflatten(perturbed), copies, VECTOR, create_graph=False, **options).loss
        plus, minus = values.detach().chunk(2)
        rows.append((plus - minus) / (2 * STEP))
    return torch.stack(rows)


MAESN = {"num_train_tasks": 3, "latent_kl_penalty": 0.6}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("promp", 1, {}),
    ("promp", 2, {}),
    ("promp", 3, {"collect": "episodes"}),
    ("promp", 1, {"clip_outer": False, "hidden_nonlinearity": "relu"}),
    ("promp", 1, {"learn_std": False}),
    ("mmaml", 1, {}),
    ("mmaml", 2, {}),
    ("mmaml", 2, {"use_betas": True, "shift_gammas": True, "collect": "episodes"}),
    ("mmaml", 1, {"use_betas": True, "mlp_after_gru": True, "mlp_after_pool": True}),
    ("mmaml", 1, {"encoder_input": "published"}),
    ("promp", 2, {"actions": Categorical}),
    ("mmaml", 2, {"actions": Categorical, "collect": "episodes"}),
    ("promp", 2, {"trainable_inner_step_size": True, "inner_lr": [0.05, 0.02]}),
    ("mmaml", 2, {"trainable_inner_step_size": True}),
    ("maml", 1, {}),
    ("maml", 2, {"collect": "episodes", "hidden_nonlinearity": "relu", "inner_lr": [0.05, 0.1, 0.2]}),
    ("maml", 2, {"actions": Categorical}),
    ("e_maml", 2, {}),
    ("dice", 1, {}),
    ("dice", 2, {"collect": "episodes"}),
    ("meta_sgd", 2, {"collect": "episodes"}),
    ("rllib_maml", 1, {"vf_loss_coeff": 0.2, "entropy_coeff": 0.1}),
    ("rllib_maml", 2, {"collect": "episodes", "entropy_coeff": 0.3, "hidden_nonlinearity": "relu"}),
    ("rllib_maml", 2, {"actions": Categorical, "entropy_coeff": 0.3}),
    ("rllib_maml", 1, {"actions": Categorical, "trainable_inner_step_size": True}),
    ("cavia", 1, {}),
    ("cavia", 3, {"collect": "episodes", "context_size": 3}),
    ("cavia", 2, {"actions": Categorical, "trainable_inner_step_size": True}),
    ("maesn", 1, MAESN),
    ("maesn", 3, MAESN | {"collect": "episodes", "hidden_nonlinearity": "relu"}),
    ("maesn", 2, MAESN | {"adapt_latent": False}),
    ("maesn", 2, MAESN | {"actions": Categorical}),
    ("tesp", 2, {"inner_lr": 2.0, "embedding_penalty": 0.5}),
    ("tesp", 3, {"inner_lr": [2.0, 1.0], "buffer_size": 5, "collect": "episodes"}),
    ("tesp", 2, {"inner_lr": 2.0, "episodes_kept": "last_episodes", "hidden_nonlinearity": "relu"}),
    ("tesp", 2, {"inner_lr": 2.0, "episodes_kept": "all_episodes", "collect": "episodes", "actions": Categorical}),
]


@pytest.mark.parametrize("algorithm, inner_steps, overrides", CASES)
def test_meta_gradient_agrees_with_finite_differences(algorithm: str, inner_steps: int, overrides: dict) -> None:
    algo, flat, rollouts, options = setting(algorithm, inner_steps, **overrides)
    result = algo.meta_gradient(flat, rollouts, VECTOR, **options)
    assert 0.1 < result["clip_fraction"].mean() < 0.5
    assert (result["inner_kl"] > 0.001).all() and result["inner_kl"].shape[1] == inner_steps
    expected = _finite_differences(algo, flat, rollouts, options)
    by_name, expected_by_name = algo.spec.unflatten(result["gradient"]), algo.spec.unflatten(expected)
    if overrides.get("learn_std") is False:
        assert not by_name.pop("policy.log_std").any()
    for name, gradient in by_name.items():
        assert gradient.any()
        torch.testing.assert_close(gradient, expected_by_name[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("algorithm", ["promp", "mmaml"])
def test_adaptation_with_and_without_graph_is_the_same(algorithm: str) -> None:
    algo, flat, rollouts, _ = setting(algorithm, 2)
    results = []
    for create_graph in (True, False):
        meta = algo.spec.per_task(flat, rollouts[0].tasks)
        state = algo.begin(meta, rollouts[0].identity)
        for k in range(2):
            state, _ = algo.inner_step(meta, state, rollouts[: k + 1], create_graph)
        results.append(state)
    for name, value in results[0].params.items():
        assert torch.equal(value, results[1].params[name])
        assert value.requires_grad and not results[1].params[name].requires_grad


def test_padding_is_read_by_nothing() -> None:
    assert_padding_is_read_by_nothing("mmaml", 2)


@pytest.mark.parametrize("algorithm", ["promp", "mmaml"])
def test_a_block_gives_the_gradients_of_its_tasks_alone(algorithm: str) -> None:
    algo, flat, rollouts, options = setting(algorithm, 2)
    single = [
        Rollouts.from_fields({name: v.float() if v.is_floating_point() else v for name, v in c.fields().items()})
        for c in rollouts
    ]
    together = algo.meta_gradient(flat.float(), single, None, **options)["gradient"]
    for task in range(3):
        own = [collection.select(slice(task, task + 1)) for collection in single]
        assert torch.equal(algo.meta_gradient(flat.float(), own, None, **options)["gradient"][0], together[task])
