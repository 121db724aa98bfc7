"""Under a real mpirun: the same bits on any number of ranks, resuming, and failing without hanging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml import checkpoint
from mmaml.algorithms import ALGORITHMS
from mmaml.comm import partition
from tests.support import SMALL, run, sampled, small_config

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys, json, mmaml
from mmaml.comm import connect
from mmaml.config import load_config
from mmaml.trainer import train
values = json.loads(sys.argv[1])
with connect() as ranks:
    train(load_config(None, values), ranks)
"""


def launch(ranks: int, values: dict[str, Any], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Train by `values` on `ranks` ranks."""
    command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), sys.executable, "-c", PROGRAM]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, json.dumps(values)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )


def trained(ranks: int, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters at the end of such a run."""
    finished = launch(ranks, values)
    assert finished.returncode == 0, finished.stderr
    return checkpoint.load(values["dump_path"])["parameters"]


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(value.any() for value in ours.values())


# Sizes that leave tasks unaligned in memory and blocks of unequal length.
ODD = SMALL | {
    "n_itr": 5,
    "meta_batch_size": 7,
    "rollouts_per_meta_task": 3,
    "max_path_length": 9,
    "hidden_sizes": [13, 7],
    "cell_size": 5,
    "num_inner_grad_steps": 2,
    "use_betas": True,
    "mlp_after_gru": True,
    "num_minibatches": 2,
    "eval_interval": 2,
    "eval_num_tasks": 3,
    "parallel": True,
}
POINT_MASS = {"env": "MetaPointEnvMomentumModes"}
RAGGED = {"env": "tests.probes:RandomLengths"}
LONE_ACTION = {"env": "tests.probes:TargetAction", "algorithm": "promp"}


@pytest.mark.parametrize("family", [POINT_MASS, RAGGED, LONE_ACTION], ids=["point mass", "ragged", "one action"])
def test_same_bits_on_1_2_3_and_5_ranks(family: dict[str, Any], tmp_path: Path) -> None:
    values = {"algorithm": "mmaml"} | ODD | family
    values = {k: v for k, v in values.items() if values["algorithm"] == "mmaml" or k not in ("cell_size", "use_betas")}
    alone = trained(1, values | {"dump_path": str(tmp_path / "1")})
    for ranks in (2, 3, 5):
        assert_same_bits(trained(ranks, values | {"dump_path": str(tmp_path / str(ranks))}), alone)
    spared = trained(3, values | {"dump_path": str(tmp_path / "spared"), "master_samples": False})
    assert_same_bits(spared, alone)


def test_same_bits_at_the_sizes_of_the_published_config(tmp_path: Path) -> None:
    values = {"algorithm": "mmaml", "n_itr": 1, "num_inner_grad_steps": 2, "num_promp_steps": 2, "inner_lr": 0.01}
    runs = [trained(ranks, values | {"dump_path": str(tmp_path / str(ranks))}) for ranks in (1, 3)]
    assert_same_bits(*runs)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(algorithm: str, tmp_path: Path) -> None:
    common = {
        "adaptive_inner_kl_penalty": True,
        "anneal_factor": 0.9,
        "save_steps": 2,
        "eval_interval": 2,
        "num_minibatches": 2,
    }
    whole = run(small_config(algorithm, n_itr=6, dump_path=str(tmp_path / "whole"), **common))
    path = str(tmp_path / "cut")
    cut = run(small_config(algorithm, n_itr=4, dump_path=path, **common))
    assert cut["algorithm"]["kl_coefficients"] != [5e-4]
    # As if it had died in its fourth iteration: the newest checkpoint is of the second.
    checkpoint.latest(path).unlink()
    resumed = run(small_config(algorithm, n_itr=6, dump_path=path, restore_path=path, **common))
    assert_same_bits(resumed["parameters"], whole["parameters"])
    assert resumed["env_steps"] == whole["env_steps"]
    assert resumed["algorithm"]["kl_coefficients"] == whole["algorithm"]["kl_coefficients"]
    for ours, theirs in zip(_rows(tmp_path / "cut"), _rows(tmp_path / "whole"), strict=True):
        assert ours == theirs


def _rows(path: Path) -> list[dict[str, str]]:
    """progress.csv without its clock columns."""
    header, *lines = (path / "progress.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    clocks = ("Time", "ItrTime", "EnvStepsPerSecond")
    return [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in rows]


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_master_and_ranks_agree_on_the_gradient(algorithm: str, tmp_path: Path) -> None:
    """Both homes evaluate the same function; in a run they lead to the same place."""
    runs = {}
    for home in ("ranks", "master"):
        values = ODD | {"algorithm": algorithm, "meta_gradient": home, "dump_path": str(tmp_path / home), "n_itr": 2}
        values = {k: v for k, v in values.items() if algorithm == "mmaml" or k not in ("cell_size", "use_betas")}
        runs[home] = trained(2, values)
    for name, value in runs["ranks"].items():
        torch.testing.assert_close(runs["master"][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_the_gradient_on_cuda_is_that_on_the_cpu(algorithm: str) -> None:
    from mmaml.worker import TaskBlock

    config = small_config(algorithm, meta_batch_size=6, hidden_sizes=[64, 64], num_inner_grad_steps=2)
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    options = {"clip_eps": 0.1, "kl_coefficients": [5e-4, 5e-4], "outer_kl_coefficient": 0.0}
    moved = parameters + 0.01 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(0))
    on_cpu = worker.block.evaluate("meta_gradient", moved, **options)["gradient"]
    block = TaskBlock(worker.algorithm, worker.block.rollouts, "cuda")
    on_gpu = block.evaluate("meta_gradient", moved, **options)["gradient"]
    difference, norm = torch.from_numpy(on_gpu - on_cpu).norm(), torch.from_numpy(on_cpu).norm()
    assert difference < 1e-5 * norm


def test_a_failing_environment_ends_all_ranks_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    values = SMALL | {
        "algorithm": "promp",
        "env": "tests.probes:RandomLengths",
        "env_kwargs": {"longest": 7},
        "dump_path": str(tmp_path / "run"),
        "save_steps": 1,
        "parallel": True,
    }
    values.pop("cell_size")
    assert launch(2, values).returncode == 0
    saved = checkpoint.latest(tmp_path / "run").read_bytes()
    values |= {"env_kwargs": {"longest": 7, "fail_at": 3}, "n_itr": 9, "restore_path": values["dump_path"]}
    clock = time.monotonic()
    failed = launch(2, values, timeout=60)
    assert failed.returncode not in (0, None)
    assert time.monotonic() - clock < 30
    assert "the probe fails as asked" in failed.stderr
    assert "of 2, in collect of tasks" in failed.stderr
    assert checkpoint.latest(tmp_path / "run").read_bytes() == saved


@pytest.mark.parametrize("items, ranks", [(40, 3), (5, 5), (3, 5), (7, 2)])
def test_items_are_dealt_in_consecutive_blocks_of_like_size(items: int, ranks: int) -> None:
    blocks = partition(items, ranks)
    assert [i for block in blocks for i in block] == list(range(items))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
