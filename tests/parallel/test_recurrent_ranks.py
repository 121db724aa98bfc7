"""Algorithms without inner steps, on several ranks: the same bits as on one, whichever ranks are lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mmaml.config.loading import load_config
from mmaml.storage import checkpoint
from tests.helpers import faults
from tests.helpers.recurrent_bandit import MODULE
from tests.helpers.support import REMEMBERING, SMALL, assert_same_states
from tests.helpers.support import run as train_here

pytestmark = pytest.mark.ranks

# Tasks in blocks of unequal length; all that outlives an iteration: optimisers, buffer, trace, running statistics.
VALUES: dict[str, Any] = SMALL | {
    "meta_batch_size": 5,
    "rollouts_per_meta_task": 4,
    "max_path_length": 2,
    "episodes_per_trial": 3,
    "n_itr": 4,
    "num_minibatches": 2,
    "normalize_observations": True,
    "normalize_rewards": True,
    "eval_interval": 2,
    "eval_num_tasks": 3,
    "max_grad_norm": 0.5,
    "parallel": True,
}
RUNS: dict[str, dict[str, Any]] = {
    "proof": {"algorithm": f"{MODULE}:RecurrentBandit", "env": f"{MODULE}:WaitingBandit"},
    **{name: {"algorithm": name, "env": "tests.helpers.probes:RandomLengths"} for name in REMEMBERING},
    "varibad": {
        "algorithm": "varibad",
        "env": "tests.helpers.probes:RandomLengths",
        "vae_normalize_rewards": True,
    },
    "mgrl": {
        "algorithm": "mgrl",
        "env": "tests.helpers.probes:RandomLengths",
        "episodes_per_trial": 1,
        "max_path_length": 7,
        "meta_lambda": True,
        "gae_lambda": 0.9,
        "trace_decay": 0.5,
    },
}
LOST = {1: [faults.fault("SIGKILL", "evaluation", 3)], 2: [faults.fault("crash", "time step", 20)]}


@pytest.fixture(scope="module")
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The configuration, and the directory of a run in one process."""
    path, values = str(tmp_path_factory.mktemp("alone") / "run"), VALUES | RUNS[request.param]
    train_here(load_config(None, values | {"dump_path": path, "parallel": False}))
    return values, path


# Without losses, tests/parallel/test_ranks.py compares the toolkit's own algorithms.
@pytest.mark.long
@pytest.mark.parametrize(
    "alone",
    [pytest.param(name, marks=pytest.mark.slow) if name in ("snail", "epn") else name for name in RUNS],
    indirect=True,
)
def test_a_run_in_which_ranks_are_lost_has_the_same_bits(alone: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    compare(*alone, str(tmp_path / "run"), 3, lost=LOST)


@pytest.mark.parametrize("alone", ["varibad"], indirect=True)
def test_a_rank_that_is_lost_while_the_master_works_alone_is_missed_at_the_next_call(
    alone: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    path = str(tmp_path / "run")
    loss = faults.fault("SIGKILL", "master step", to=1, iteration=1, step=1)
    compare(*alone, path, 3, lost={0: [loss]})
    (message,) = faults.messages(path)
    assert "warning: rank 1 of 3 was lost in collect: its process ended; 2 of 3 ranks go on with its work" in message


@pytest.mark.parametrize("alone", ["proof"], indirect=True)
@pytest.mark.parametrize("ranks, options", [(2, {}), (3, {"master_samples": False}), (2, {"meta_gradient": "master"})])
def test_a_run_has_the_same_bits_on_any_number_of_ranks(
    ranks: int, options: dict[str, Any], alone: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    compare(*alone, str(tmp_path / "run"), ranks, options)


def compare(
    values: dict[str, Any],
    directory: str,
    path: str,
    ranks: int,
    options: Mapping[str, Any] = MappingProxyType({}),
    lost: Mapping[int, list[faults.Fault]] = MappingProxyType({}),
) -> None:
    """A run on several ranks, into `path`, with that in one process, in `directory`."""
    ended = faults.run(values | dict(options) | {"dump_path": path}, ranks, faults=lost)
    assert ended.returncode == 0, ended.stderr
    assert len(faults.messages(path)) == len(lost)
    assert faults.result(path)[1] == faults.result(directory)[1]
    assert_same_states(checkpoint.load(path), checkpoint.load(directory))
