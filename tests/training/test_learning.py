"""Algorithms on probes whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.config.loading import load_config
from mmaml.meta_batch import Master
from mmaml.parallel.ranks import connect
from mmaml.trainer import train
from mmaml.worker import Worker
from tests.helpers.support import Log, progress, run, small_config

pytestmark = pytest.mark.learn

LEARN = {
    "rollouts_per_meta_task": 10,
    "max_path_length": 4,
    "num_promp_steps": 5,
    "hidden_sizes": [8],
    "save_steps": 1000,
}


@pytest.mark.parametrize("probe", ["TargetAction", "DelayedTarget"])
def test_promp_learns_the_known_action(probe: str, tmp_path: Path) -> None:
    config = small_config(
        "promp",
        env=f"tests.helpers.probes:{probe}",
        dump_path=str(tmp_path / "run"),
        meta_batch_size=8,
        n_itr=50,
        learning_rate=1e-2,
        inner_lr=0.01,
        learn_std=False,
        **LEARN,
    )
    state = run(config)
    worker = Worker(config)
    one = {name: value[None] for name, value in state["parameters"].items()}
    action = worker.algorithm.policy.distribution(one, torch.ones(1, 1, 1)).mean.item()  # type: ignore[attr-defined]
    assert abs(action - 0.7) < 0.15


TARGET, STEPS = 1.0, 4
TWO_MODES: dict[str, Any] = {
    "env": "tests.helpers.probes:TargetAction",
    "env_kwargs": {"modes": 2, "target": TARGET, "signal": 1.0},
    "meta_batch_size": 10,
    "n_itr": 60,
    "learning_rate": 1e-2,
    "inner_lr": 1e-6,
    "learn_std": False,
    "use_betas": True,
} | LEARN


def best_return_without_modulation(weights: dict[str, torch.Tensor]) -> float:
    """The most that one policy with std 1 can return on both modes after one inner step of size α.

    Before it, both modes share a mean μ, and (1/2) Σ_m -(μ - m·g)² is at most -g². The step moves μ by at
    most α · κ · G, with κ = ‖∂μ/∂θ‖² of a network y = tanh(W + b), μ = y·V + c at x = 1, and
    G = |E[Â (a - μ)]| ≤ sqrt(E[Â²] E[(a - μ)²]) = 1; on samples, twice that leaves room. Each step pays
    -1 for the variance; the signal ±c cancels over the modes.
    """
    y = torch.tanh(weights["policy.0.weight"] + weights["policy.0.bias"])
    v = weights["policy.1.weight"].T
    kappa = 1 + y.square().sum() + 2 * (v * (1 - y.square())).square().sum()
    moved = 2 * TWO_MODES["inner_lr"] * float(kappa)
    return STEPS * (-((max(TARGET - moved, 0.0)) ** 2) - 1)


def _final(algorithm: str, seed: int, tmp_path: Path) -> tuple[float, dict[str, torch.Tensor]]:
    config = small_config(algorithm, dump_path=str(tmp_path / f"{algorithm}{seed}"), seed=seed, **TWO_MODES)
    state = run(config)
    worker = Worker(config)
    with connect(parallel=False) as ranks:
        ranks.serve(worker)
        tasks = worker.sample_tasks(100, 0, purpose="test")
        parameters = worker.algorithm.spec.flatten(state["parameters"])
        result = Master(config, ranks, worker, Log()).collect(parameters, tasks, 0, purpose="test")
    return float(result["return"][:, -1].mean()), state["parameters"]


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_modulation_beats_the_best_that_is_possible_without(seed: int, tmp_path: Path) -> None:
    promp, weights = _final("promp", seed, tmp_path)
    mmaml, _ = _final("mmaml", seed, tmp_path)
    bound = best_return_without_modulation(weights)
    noise = 3 * STEPS * np.sqrt(6.0) / np.sqrt(100 * 10 * STEPS)  # three standard errors of the mean return
    assert promp < bound + noise
    assert mmaml > bound + 1 + noise


EITHER_SIDE: dict[str, Any] = {
    "env": "tests.helpers.probes:TargetAction",
    "env_kwargs": {"modes": 2, "target": TARGET},
    "meta_batch_size": 8,
    "n_itr": 25,
    "inner_lr": 0.3,
    "learning_rate": 0.03,
    "max_kl": 0.03,
    "cg_damping": 0.1,  # the observation never changes: most directions of the parameters change nothing
    "cg_iters": 5,
} | LEARN


@pytest.mark.parametrize(
    "algorithm, overrides",
    [
        ("maml", {}),
        ("maml", {"meta_update": "vpg"}),
        ("maml", {"meta_update": "ppo", "learning_rate": 0.01}),
        ("maml", {"first_order": True}),
        ("e_maml", {}),
        ("dice", {}),
        ("meta_sgd", {}),
        ("promp", {"learning_rate": 0.01, "trainable_inner_step_size": True}),
    ],
)
def test_adaptation_finds_what_no_single_policy_can(algorithm: str, overrides: dict, tmp_path: Path) -> None:
    """The tasks pay for acting 1 or -1: the best single policy acts 0, always, for a return of -1 a step."""
    run(small_config(algorithm, dump_path=str(tmp_path / "run"), **EITHER_SIDE | overrides))
    rows = progress(tmp_path / "run")[-5:]
    returns = [np.mean([float(row[f"Step_{step}-AverageReturn"]) for row in rows]) for step in (0, 1)]
    assert returns[0] < -STEPS * TARGET**2
    assert returns[1] > -0.8 * STEPS * TARGET**2


def test_more_working_ranks_than_tasks_is_refused(tmp_path: Path) -> None:
    config = small_config(dump_path=str(tmp_path / "run"))
    with connect(parallel=False) as ranks:
        ranks.size = 9
        with pytest.raises(ValueError, match="start 4 ranks or fewer"):
            train(config, ranks)
        ranks.size = 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_tuned_config_passes_the_published_return_of_its_family(tmp_path: Path) -> None:
    """-209 after adaptation on the 4-mode point mass, within 120 of its 401 iterations (docs/results/README.md)."""
    overrides = {"n_itr": 120, "parallel": False, "dump_path": str(tmp_path / "run")}
    run(load_config(Path(__file__).parents[2] / "configs/point_mass_4_modes.json", overrides, "mmaml"))
    returns = [float(row["Step_2-AverageReturn"]) for row in progress(tmp_path / "run")]
    assert sum(returns[-10:]) / 10 > -209
