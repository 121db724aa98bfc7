"""Real processes are killed and stopped under a real mpirun: the run ends with the bits of an undisturbed one."""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.config.loading import load_config
from tests.helpers.faults import (
    VALUES,
    Fault,
    described,
    fault,
    finished,
    iterations,
    messages,
    processes,
    result,
    run,
    started,
)
from tests.helpers.support import run as train_here
from tests.helpers.waiting import GUARD, wait_until

pytestmark = pytest.mark.ranks

Result = tuple[dict[str, torch.Tensor], list[dict[str, str]]]

# Runs, and in each the ranks that are killed at random moments; the points below add a dozen.
VICTIMS = 5
LONG = VALUES | {"n_itr": 25, "save_steps": 7, "meta_batch_size": VICTIMS + 1}
# Where a rank is not lost for its silence before the test fails for its length.
UNHURRIED = VALUES | {"rank_timeout": 10 * GUARD}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Result]:
    """Results of runs of so many iterations on which no fault falls, in one process."""
    results = {}
    for values in (VALUES, LONG):
        path = str(tmp_path_factory.mktemp("undisturbed") / "run")
        train_here(load_config(None, {"algorithm": "mmaml"} | values | {"dump_path": path, "parallel": False}))
        results[values["n_itr"]] = result(path)
    return results


def assert_same(path: str, undisturbed: Result) -> None:
    (parameters, rows), (expected, expected_rows) = result(path), undisturbed
    assert all(torch.equal(parameters[name], expected[name]) for name in expected)
    assert rows == expected_rows


# What happens to ranks 1 to 4 of 5 in one run.
LOSSES = [
    (
        fault("SIGKILL", "receive", iteration=1),
        fault("crash", "half received", iteration=0, time=3),
        fault("SIGKILL", "sampling", iteration=2, purpose="train"),
        fault("crash", "time step", iteration=1, time=10),
    ),
    (
        fault("SIGKILL", "advantages", iteration=1, collection=1),
        fault("crash", "adaptation", iteration=1),
        fault("SIGKILL", "evaluation", iteration=0, function="meta_gradient"),
        fault("crash", "evaluation", iteration=3, function="meta_gradient"),
    ),
    (
        fault("SIGKILL", "sampling", purpose="test"),
        fault("crash", "evaluation", iteration=1, function="meta_loss"),
        fault("SIGKILL", "send", iteration=2, time=2),
        fault("crash", "half sent", iteration=1),
    ),
]


@pytest.mark.long
@pytest.mark.parametrize("losses", LOSSES, ids=[", ".join(map(described, losses)) for losses in LOSSES])
def test_a_rank_killed_in_any_phase_costs_no_bit(
    losses: tuple[Fault, ...], undisturbed: dict[int, Result], tmp_path: Path
) -> None:
    values = VALUES | {"dump_path": str(tmp_path / "run")}
    ended = run(values, 5, faults={rank: [loss] for rank, loss in enumerate(losses, 1)})
    assert ended.returncode == 0, ended.stderr
    assert "finished" in ended.stdout
    assert_same(values["dump_path"], undisturbed[VALUES["n_itr"]])
    told = messages(values["dump_path"])
    assert len(told) == len(losses)
    for line in told:
        lost = r"warning: rank \d of 5 was lost in .+: its process ended; \d of 5 ranks go on with its work, [\d.]+ s"
        pattern = rf"iteration \d+: ({lost})$"
        assert (match := re.search(pattern, line)) and match[1] in ended.stderr


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_kills_at_random_moments_down_to_the_master_alone_cost_no_bit(
    seed: int, undisturbed: dict[int, Result], tmp_path: Path
) -> None:
    """All ranks but the master are lost, within some iterations of each other and whatever they do then."""
    chance, path = random.Random(seed), str(tmp_path / "run")
    with started(LONG | {"dump_path": path}, VICTIMS + 1) as process:
        wait_until(lambda: iterations(path))
        victims = [pid for pid, rank in processes(path).items() if rank]
        assert len(victims) == VICTIMS
        for pid in chance.sample(victims, VICTIMS):
            later = iterations(path) + chance.choice([0, 0, 1, 2, 3])
            wait_until(lambda later=later: iterations(path) >= later)
            os.kill(pid, signal.SIGKILL)
        ended = finished(process)
    assert ended.returncode == 0, ended.stderr
    assert_same(path, undisturbed[LONG["n_itr"]])
    lost = [line for line in messages(path) if "was lost in" in line]
    assert len(lost) == VICTIMS and f"; 1 of {VICTIMS + 1} ranks go on" in lost[-1]


@pytest.mark.long
def test_a_stopped_rank_and_one_that_loops_are_named_killed_and_done_without(
    undisturbed: dict[int, Result], tmp_path: Path
) -> None:
    values = VALUES | {"dump_path": str(tmp_path / "run"), "rank_timeout": 3.0, "master_samples": False}
    stopped = fault("SIGSTOP", "adaptation", iteration=0)
    loops = fault("loop", "evaluation", iteration=0, function="meta_gradient", time=2)
    ended = run(values, 3, faults={1: [stopped], 2: [loops]})
    assert ended.returncode == 0, ended.stderr
    assert_same(values["dump_path"], undisturbed[VALUES["n_itr"]])
    told = messages(values["dump_path"])
    assert re.search(r"rank 1 of 3 was lost in collect: no answer for 3 s \(process \d+, stopped, killed\)", told[0])
    assert re.search(
        r"rank 2 of 3 was lost in meta_gradient: no answer for 3 s \(process \d+, running, killed\)", told[1]
    )
    assert not processes(values["dump_path"])


LOSSES_OF_THE_MASTER = [
    fault("SIGKILL", "evaluation", iteration=3, function="meta_gradient"),
    fault("SIGKILL", "checkpoint", saved=4),
    fault("SIGKILL", "half written", file="itr_000004.pt"),
]


@pytest.mark.long
@pytest.mark.parametrize("loss", LOSSES_OF_THE_MASTER, ids=described)
def test_without_the_master_all_end_and_the_run_continues_from_its_checkpoint(
    loss: Fault, undisturbed: dict[int, Result], tmp_path: Path
) -> None:
    """They end because the master is lost, not because it does not answer within `rank_timeout`, which is longer."""
    path = str(tmp_path / "run")
    ended = run(UNHURRIED | {"dump_path": path}, 3, faults={0: [loss]})
    assert ended.returncode not in (0, None)
    assert not processes(path)
    assert ended.stderr.count(f"error: rank 0, the master, was lost; continue with --restore_path {path}\n") == 1
    train_here(load_config(None, {"algorithm": "mmaml"} | VALUES | {"dump_path": path, "restore_path": path}))
    assert_same(path, undisturbed[VALUES["n_itr"]])


OTHERS: dict[str, tuple[dict[str, Any], Fault]] = {
    "rollouts on their way to the master": (
        {"meta_gradient": "master"},
        fault("SIGKILL", "send", iteration=0, time=2),
    ),
    "a trust region": (
        {"algorithm": "tesp", "meta_update": "trpo", "cg_iters": 3},
        fault("SIGKILL", "evaluation", iteration=0, function="fisher_product", time=2),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_costs_no_bit_wherever_and_however_the_update_is_made(name: str, tmp_path: Path) -> None:
    changed, loss = OTHERS[name]
    values = {"algorithm": "mmaml", "meta_gradient": "ranks"} | VALUES | {"n_itr": 2} | changed
    path = str(tmp_path / "run")
    assert run(values | {"dump_path": path}, 3, faults={2: [loss]}).returncode == 0
    assert len(messages(path)) == 1
    alone = values | {"dump_path": str(tmp_path / "alone"), "parallel": False}
    train_here(load_config(None, alone))
    assert_same(path, result(alone["dump_path"]))


@pytest.mark.long
def test_an_mpi_that_survives_no_loss_ends_the_run_which_continues_from_its_checkpoint(
    undisturbed: dict[int, Result], tmp_path: Path
) -> None:
    path = str(tmp_path / "run")
    loss = fault("SIGKILL", "evaluation", iteration=2, function="meta_gradient", time=4)
    ended = run(UNHURRIED | {"dump_path": path}, 3, "--with-ft", "none", faults={1: [loss]})
    assert ended.returncode not in (0, None)
    assert not processes(path)
    assert f"continue with --restore_path {path}\n" in ended.stderr
    assert run(VALUES | {"dump_path": path, "resume": "auto", "parallel": False}, 0).returncode == 0
    assert_same(path, undisturbed[VALUES["n_itr"]])
