"""Every key of the configuration does something: change it, and what it governs changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.config.keys import COMMON_KEYS, LEGACY, built_in_keys
from mmaml.errors import ConfigError
from mmaml.parallel.ranks import connect
from mmaml.trainer import check_ranks_and_device
from tests.helpers.support import progress, run, small_config

RAGGED = {"env": "tests.helpers.probes:RandomLengths"}
FAST = {"learning_rate": 0.05, "n_itr": 3}  # far enough for ratios to be clipped and coefficients to adapt
TRUST_REGION = {"algorithm": "maml"}
FAR = TRUST_REGION | {"max_kl": 10.0}  # the longest step is refused, a shorter one taken
VALUES = {"algorithm": "rllib_maml"}
LATENTS = {"algorithm": "maesn", "num_train_tasks": 6}
RETURNS = {"algorithm": "mgrl", "n_itr": 4}
BELIEFS = {"algorithm": "varibad", "env": "2DNavigation-v0"}
BEST_EPISODES = {"algorithm": "tesp", "num_inner_grad_steps": 2}

# key: (other value, what else both runs have)
CHANGES_THE_RESULT: dict[str, tuple[Any, dict[str, Any]]] = {
    "algorithm": ("promp", {}),
    "env": ("MetaPointEnvMomentum2Modes", {}),
    "env_kwargs": ({"noise": 3.0}, {}),
    "seed": (2, {}),
    "meta_batch_size": (5, {}),
    "rollouts_per_meta_task": (4, {}),
    "max_path_length": (8, {}),
    "num_train_tasks": (3, {}),
    "collect": ("episodes", RAGGED),
    "normalization_scale": (1.0, {}),
    "baseline": ("ZeroBaseline", {}),
    "discount": (0.5, {}),
    "gae_lambda": (0.5, {}),
    "normalize_adv": (False, {}),
    "positive_adv": (True, {}),
    "hidden_sizes": ([8], {}),
    "hidden_nonlinearity": ("relu", {}),
    "learn_std": (False, {}),
    "num_inner_grad_steps": (2, {}),
    "inner_lr": (0.2, {}),
    "learning_rate": (0.01, {}),
    "learning_rate_anneal": (0.5, {}),
    "num_promp_steps": (3, {}),
    "num_minibatches": (2, {}),
    "max_outer_kl": (1e-6, FAST),
    "clip_eps": (0.01, FAST),
    "clip_outer": (False, FAST),
    "anneal_factor": (0.1, FAST),
    "init_inner_kl_penalty": (5.0, FAST),
    "adaptive_inner_kl_penalty": (True, FAST | {"init_inner_kl_penalty": 1.0}),
    "target_inner_step": (10.0, FAST | {"adaptive_inner_kl_penalty": True, "init_inner_kl_penalty": 1.0}),
    "init_outer_kl_penalty": (5.0, FAST),
    "adaptive_outer_kl_penalty": (True, FAST | {"init_outer_kl_penalty": 1.0}),
    "target_outer_step": (10.0, FAST | {"adaptive_outer_kl_penalty": True, "init_outer_kl_penalty": 1.0}),
    "trainable_inner_step_size": (True, {}),
    "first_order": (True, TRUST_REGION),
    "meta_update": ("vpg", TRUST_REGION),
    "max_kl": (0.05, TRUST_REGION),
    "cg_iters": (2, TRUST_REGION),
    "cg_damping": (1.0, TRUST_REGION),
    "fisher_rollouts": (1, TRUST_REGION),
    "ls_max_steps": (1, FAR),
    "ls_backtrack_ratio": (0.3, FAR),
    "vf_loss_coeff": (0.1, VALUES),
    "entropy_coeff": (0.1, VALUES),
    "entropy_anneal": (0.1, {"algorithm": "rl2", "entropy_coeff": 0.5}),
    "readout_size": (4, {"algorithm": "rl2"}),
    "previous_observation": (True, {"algorithm": "rl2"}),
    "input_init_scale": (2.0, {"algorithm": "rl2"}),
    "filters": (9, {"algorithm": "snail"}),
    "attention_size": (9, {"algorithm": "snail"}),
    "memory_embedding_size": (3, {"algorithm": "epn"}),
    "memory_length": (2, {"algorithm": "epn"}),
    "planning_iterations": (1, {"algorithm": "epn"}),
    "context_size": (3, {"algorithm": "cavia"}),
    "latent_size": (3, LATENTS),
    "latent_kl_penalty": (1.0, LATENTS),
    "adapt_latent": (False, LATENTS),
    "meta_discount": (False, RETURNS),
    "meta_lambda": (True, RETURNS | {"gae_lambda": 0.9}),
    "meta_learning_rate": (0.1, RETURNS),
    "discount_range": ([0.5, 1.0], RETURNS),
    "outer_discount": (0.9, RETURNS),
    "outer_lambda": (0.5, RETURNS),
    "outer_value": (False, RETURNS),
    "trace_decay": (0.5, RETURNS),
    "condition_on_returns": (True, RETURNS),
    "optimizer": ("sgd", RETURNS),
    "belief_size": (3, BELIEFS),
    "encoder_hidden_sizes": ([7], BELIEFS),
    "decoder_hidden_sizes": ([7], BELIEFS),
    "decoder_reads": ("transition", BELIEFS),
    "reward_likelihood": ("bernoulli", BELIEFS),
    "vae_normalize_rewards": (True, BELIEFS),
    "kl_weight": (0.1, BELIEFS),
    "vae_learning_rate": (0.01, BELIEFS),
    "vae_max_grad_norm": (1e-3, BELIEFS),
    "vae_updates": (1, BELIEFS),
    "vae_batch_size": (2, BELIEFS),
    "vae_buffer_size": (2, BELIEFS),
    "vae_prefixes": (2, BELIEFS),
    "vae_decoded_steps": (2, BELIEFS),
    "cell_size": (9, {}),
    "use_betas": (True, {}),
    "shift_gammas": (False, {}),
    "mlp_after_gru": (False, {}),
    "mlp_after_pool": (False, {}),
    "encoder_input": ("published", {}),
    "embedding_size": (3, BEST_EPISODES),
    "embedding_penalty": (1.0, BEST_EPISODES),
    "episodes_kept": ("last_episodes", BEST_EPISODES),
    "buffer_size": (2, BEST_EPISODES),
    "n_itr": (3, {}),
}

# Keys whose effect the named test shows.
SHOWN_ELSEWHERE = {
    "parallel": "test_cli",
    "physics_threads": "test_ranks and test_mujoco: same bits; test_cores: how many",
    "master_samples": "test_ranks: same bits; here: who is asked to work",
    "dump_path": "every run",
    "episodes_per_trial": "the tests of trials",
    "normalize_observations": "the tests of running statistics",
    "normalize_rewards": "the tests of running statistics",
    "max_grad_norm": "the tests of the meta-update",
    "restore_path": "test_ranks: a resumed run",
    "max_checkpoints_to_keep": "test_checkpoint",
    "keep_checkpoint_every_n_hours": "test_checkpoint",
    "rank_timeout": "test_lost_ranks",
    "shutdown_seconds": "test_shutdown",
    "resume": "test_resume",
    "max_failed_saves": "test_disk",
    "max_bad_updates": "test_bad_runs",
    "max_failed_tasks": "test_bad_runs",
}
SHOWN_BELOW = {
    "meta_gradient",
    "device",
    "eval_interval",
    "eval_num_tasks",
    "save_steps",
    "log_grad_norm",
    "te_save_path",
    "num_embeddings",
}


def test_no_key_is_forgotten() -> None:
    live = {name for name, key in (COMMON_KEYS | built_in_keys()).items() if key.group != LEGACY}
    assert live == set(CHANGES_THE_RESULT) | set(SHOWN_ELSEWHERE) | SHOWN_BELOW


def _parameters(tmp_path: Path, name: str, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    values = dict(values)
    algorithm = values.pop("algorithm", "mmaml")
    return run(small_config(algorithm, dump_path=str(tmp_path / name), **values))["parameters"]


@pytest.mark.parametrize("key", CHANGES_THE_RESULT)
def test_the_key_changes_the_result(key: str, tmp_path: Path) -> None:
    value, common = CHANGES_THE_RESULT[key]
    before = _parameters(tmp_path, "before", common)
    after = _parameters(tmp_path, "after", common | {key: value})
    same = before.keys() == after.keys() and all(
        before[name].shape == after[name].shape and torch.equal(before[name], after[name]) for name in before
    )
    assert not same


def test_held_out_tasks_are_evaluated_at_the_interval_and_at_the_end(tmp_path: Path) -> None:
    for tasks in (3, 4):
        run(small_config("promp", n_itr=5, eval_interval=2, eval_num_tasks=tasks, dump_path=str(tmp_path / f"{tasks}")))
    rows = progress(tmp_path / "3")
    assert [bool(row["Eval-Step_1-AverageReturn"]) for row in rows] == [False, True, False, True, True]
    assert rows[1]["Eval-Step_0-AverageReturn"] != progress(tmp_path / "4")[1]["Eval-Step_0-AverageReturn"]
    assert rows[1]["Step_0-AverageReturn"] == progress(tmp_path / "4")[1]["Step_0-AverageReturn"]


def test_checkpoints_are_written_at_the_interval_and_at_the_end(tmp_path: Path) -> None:
    run(small_config("promp", n_itr=5, save_steps=2, dump_path=str(tmp_path / "run")))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["itr_000002.pt", "itr_000004.pt", "itr_000005.pt"]


def test_gradient_norms_are_logged_when_asked_for(tmp_path: Path) -> None:
    run(small_config(dump_path=str(tmp_path / "without")))
    run(small_config(dump_path=str(tmp_path / "with"), log_grad_norm=True))
    assert not [name for name in progress(tmp_path / "without")[0] if name.startswith("GradNorm")]
    row = {name: float(value) for name, value in progress(tmp_path / "with")[0].items() if name.startswith("GradNorm")}
    assert set(row) == {"GradNorm-all", "GradNorm-policy", "GradNorm-encoder"}
    assert row["GradNorm-all"] <= row["GradNorm-policy"] + row["GradNorm-encoder"]
    assert min(row.values()) > 0


def test_task_embeddings_are_written_with_their_tasks(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "embeddings.npz"
    config = small_config(dump_path=str(tmp_path / "run"), te_save_path=str(path), num_embeddings=11)
    run(config)
    with np.load(path) as saved:
        assert saved["embedding"].shape == (11, 8)
        assert np.unique(saved["embedding"], axis=0).shape[0] == 11
        assert saved["goal"].shape == (11, 2)
        nearest = np.sign(saved["goal"])  # the modes are the corners (±5, ±5), the noise is 1
        assert all(len(np.unique(nearest[saved["mode"] == mode], axis=0)) == 1 for mode in np.unique(saved["mode"]))


def test_tasks_whose_entries_differ_in_shape_are_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.npz"
    values = RAGGED | {"env_kwargs": {"ragged": True}, "num_embeddings": 3}
    run(small_config(dump_path=str(tmp_path / "run"), te_save_path=str(path), **values))
    with np.load(path) as saved:
        assert saved["index"].tolist() == ["[0]", "[1, 1]", "[2]"]


def test_an_algorithm_without_embeddings_writes_none(tmp_path: Path) -> None:
    run(small_config("promp", dump_path=str(tmp_path / "run"), te_save_path=str(tmp_path / "embeddings.npz")))
    assert not (tmp_path / "embeddings.npz").exists()


def test_meta_gradient_on_the_master_leads_to_the_same_place(tmp_path: Path) -> None:
    ranks = _parameters(tmp_path, "ranks", {"meta_gradient": "ranks"})
    master = _parameters(tmp_path, "master", {"meta_gradient": "master"})
    for name, value in ranks.items():
        torch.testing.assert_close(master[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device: expected a CUDA device for 'cuda', got none"):
        run(small_config(dump_path=str(tmp_path / "run"), device="cuda"))
    assert not (tmp_path / "run").exists()


def test_a_number_that_no_device_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with connect(parallel=False) as ranks:
        assert check_ranks_and_device(small_config(device="cuda:1"), ranks) == "cuda:1"
        with pytest.raises(ConfigError, match="device: expected a CUDA device for 'cuda:2', got 2, counted from 0"):
            check_ranks_and_device(small_config(device="cuda:2"), ranks)
