"""Under a real mpirun: the same bits on any number of ranks, resuming, and failing without hanging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mmaml.config.loading import load_config
from mmaml.parallel.requests import partition
from mmaml.storage import checkpoint
from tests.helpers.support import SMALL, VARIANTS, assert_same_states, progress, run, small_config

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, json
from mmaml.process_settings import prepare_process
prepare_process()
from mmaml.parallel.ranks import connect
from mmaml.config.loading import load_config
from mmaml.trainer import train
for values in sys.argv[1:]:
    with connect() as ranks:
        train(load_config(None, json.loads(values)), ranks)
"""
Values = dict[str, Any]


def launch(ranks: int, *runs: Values, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Train by each of `runs`, one after the other, on `ranks` ranks: one start of MPI and torch for all."""
    command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), sys.executable, "-c", PROGRAM]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *map(json.dumps, runs)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )


class Result(NamedTuple):
    """Of a run: parameters at its end, and the rows of its log."""

    parameters: dict[str, torch.Tensor]
    rows: list[dict[str, str]]


def trained(ranks: int, *runs: Values) -> list[Result]:
    """The result of each of such runs."""
    finished = launch(ranks, *runs)
    assert finished.returncode == 0, finished.stderr
    paths = [values["dump_path"] for values in runs]
    return [Result(checkpoint.load(path)["parameters"], _rows(Path(path))) for path in paths]


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(value.any() for value in ours.values())


def _rows(path: Path) -> list[dict[str, str]]:
    """progress.csv without its clock columns."""
    clocks = ("Time", "ItrTime", "EnvStepsPerSecond")
    return [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in progress(path)]


def _without(values: Values, *names: str) -> Values:
    return {name: value for name, value in values.items() if name not in names}


# Sizes that leave tasks unaligned in memory and blocks of unequal length.
ODD = SMALL | {
    "n_itr": 3,
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
ENCODER_KEYS = ("cell_size", "use_betas", "mlp_after_gru")
FAMILIES: dict[str, Values] = {
    "point mass": ODD | {"algorithm": "mmaml", "env": "MetaPointEnvMomentumModes"},
    "ragged episodes": ODD | {"algorithm": "mmaml", "env": "tests.helpers.probes:RandomLengths"},
    "one action": _without(ODD, *ENCODER_KEYS) | {"algorithm": "promp", "env": "tests.helpers.probes:TargetAction"},
    "discrete": ODD | {"algorithm": "mmaml", "env": "CartPoleMassEnv", "max_path_length": 15},
    "reacher": ODD | {"algorithm": "mmaml", "env": "Reacher3LinkEnv"},
    "ant": ODD | {"algorithm": "mmaml", "env": "AntRandGoalModeEnv"},
    "published sizes": {"n_itr": 1, "num_inner_grad_steps": 2, "num_promp_steps": 2, "inner_lr": 0.01},
}

# 3 tasks are a block of 3 on one rank, blocks of 2 and of 1 on two.
FEW = ODD | {
    "n_itr": 2,
    "meta_batch_size": 3,
    "eval_interval": 0,
    "cg_iters": 4,
    "env": "tests.helpers.probes:RandomLengths",
}
RUNS = FAMILIES | {name: FEW | values for name, values in VARIANTS.items()}


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    """Results of all runs: alone and on 2 ranks; families on 3 too; one on 5, and on 3 whose master samples nothing.

    Those with physics also on 2 ranks of 3 threads; those of which one task is long on 2 ranks at most.
    """
    folder = tmp_path_factory.mktemp("by_ranks")
    results: dict[str, list[Result]] = {name: [] for name in RUNS}
    one = {name: FAMILIES[name] for name in ("ragged episodes",)}
    short = {name: values for name, values in FAMILIES.items() if name != "published sizes"}
    physics = {name: FAMILIES[name] for name in ("reacher", "ant")}
    by_number: dict[int, list[tuple[dict[str, Values], Values]]] = {
        1: [(RUNS, {})],
        2: [(RUNS, {}), (physics, {"physics_threads": 3})],
        3: [(short, {}), (one, {"master_samples": False})],
        5: [(one, {})],
    }
    for ranks, groups in by_number.items():
        runs = [
            (name, values | options | {"dump_path": str(folder / f"{name} {ranks} {bool(options)}")})
            for chosen, options in groups
            for name, values in chosen.items()
        ]
        for (name, _), result in zip(runs, trained(ranks, *[values for _, values in runs]), strict=True):
            results[name].append(result)
    return results


@pytest.mark.long
@pytest.mark.ranks
@pytest.mark.parametrize("name", RUNS)
def test_same_bits_on_any_number_of_ranks(name: str, by_ranks: dict[str, list[Result]]) -> None:
    alone, *others = by_ranks[name]
    learned = any(row.get("LossAfter") != row.get("LossBefore") for row in alone.rows)
    assert learned or name == "mgrl"  # whose loss is taken only before an update
    for other in others:
        assert_same_bits(other.parameters, alone.parameters)
        assert other.rows == alone.rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(variant: str, tmp_path: Path) -> None:
    common = {
        "adaptive_inner_kl_penalty": True,
        "anneal_factor": 0.9,
        "save_steps": 2,
        "eval_interval": 2,
        "num_minibatches": 2,
    } | VARIANTS[variant]
    whole = run(small_config(n_itr=4, dump_path=str(tmp_path / "whole"), **common))
    path = str(tmp_path / "cut")
    config = small_config(n_itr=3, dump_path=path, **common)
    cut = run(config)
    update = config.chosen_update
    outlives = {"trpo": set(), "vpg": {"optimizer"}, "ppo": {"optimizer", "kl_coefficients", "outer_kl_coefficient"}}
    if update:  # an algorithm may keep more besides
        of_update = cut["algorithm"].get("update", cut["algorithm"])
        assert set(of_update) == outlives[update]
        assert update != "ppo" or 5e-4 not in of_update["kl_coefficients"]
    # As if it had died in its third iteration: the newest checkpoint is of the second.
    checkpoint.latest(path).unlink()
    resumed = run(small_config(n_itr=4, dump_path=path, restore_path=path, **common))
    assert_same_bits(resumed["parameters"], whole["parameters"])
    assert resumed["env_steps"] == whole["env_steps"]
    assert_same_states(resumed, whole)
    for ours, theirs in zip(_rows(tmp_path / "cut"), _rows(tmp_path / "whole"), strict=True):
        assert ours == theirs


@pytest.fixture(scope="module")
def on_master(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of every variant with the meta-gradient on the master of 2 ranks."""
    folder = tmp_path_factory.mktemp("on_master")
    runs = {
        name: FEW | values | {"meta_gradient": "master", "dump_path": str(folder / name)}
        for name, values in VARIANTS.items()
    }
    return dict(zip(runs, trained(2, *runs.values()), strict=True))


@pytest.mark.long
@pytest.mark.ranks
@pytest.mark.parametrize("variant", VARIANTS)
def test_master_and_ranks_agree_on_the_gradient(
    variant: str, on_master: dict[str, Result], by_ranks: dict[str, list[Result]]
) -> None:
    """Both homes evaluate the same function; in a run they lead to the same place."""
    alone, *_ = by_ranks[variant]
    for name, value in alone.parameters.items():
        torch.testing.assert_close(on_master[variant].parameters[name], value, rtol=1e-5, atol=1e-6)


RAGGED = _without(SMALL, "cell_size") | {
    "algorithm": "promp",
    "env": "tests.helpers.probes:RandomLengths",
    "parallel": True,
}


@pytest.mark.ranks
def test_an_evaluation_that_fails_on_one_rank_ends_on_all(tmp_path: Path) -> None:
    values = RAGGED | {"env_kwargs": {"fail_on_rank": 1}, "dump_path": str(tmp_path / "run"), "parallel": False}
    run(load_config(None, values))
    script = str(ROOT / "run_scripts" / "evaluate.py")
    command = [str(Path(sys.executable).with_name("mpirun")), "-n", "2", sys.executable, script]
    finished = subprocess.run(
        [*command, "--restore_path", values["dump_path"]], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert finished.returncode not in (0, None)
    assert "rank 1 of 2 failed in collect:" in finished.stderr and "the probe fails as asked" in finished.stderr


@pytest.mark.parametrize("items, ranks", [(40, 3), (5, 5), (3, 5), (7, 2)])
def test_items_are_dealt_in_consecutive_blocks_of_like_size(items: int, ranks: int) -> None:
    blocks = partition(items, ranks)
    assert [i for block in blocks for i in block] == list(range(items))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
