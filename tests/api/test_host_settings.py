"""In a program that has changed what belongs to the whole process, all is computed as in any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmaml
from mmaml.config.algorithms import ALGORITHMS
from mmaml.envs.process_state import SETTINGS, read
from mmaml.storage import checkpoint
from tests.helpers.policies import episode, saved_state, trained
from tests.helpers.support import REQUIRED, SMALL, STEPPING, assert_same_states, dump

ENV = "tests.helpers.unsettling:Unsettling"


@contextmanager
def strange_host() -> Iterator[None]:
    """The program computes with double precision, without gradients, and lets NumPy raise."""
    with np.errstate(all="raise"), torch.no_grad():
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        try:
            before = read(SETTINGS)
            yield
            assert before == read(SETTINGS)
        finally:
            torch.set_default_dtype(torch.float32)
            torch.use_deterministic_algorithms(False)


def train(folder: str, algorithm: str, **keys: Any) -> dict[str, Any]:
    values = SMALL | REQUIRED.get(algorithm, {}) | {"algorithm": algorithm, "env": ENV} | keys
    return checkpoint.load(mmaml.train(values, dump_path=folder, show=False).folder)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_has_the_same_bits(algorithm: str, tmp_path: Path) -> None:
    expected = train(dump(tmp_path, "usual"), algorithm)
    with strange_host():
        found = train(dump(tmp_path, "strange"), algorithm)
    assert_same_states(found, expected)


def test_the_programs_own_code_goes_on_with_its_settings(tmp_path: Path) -> None:
    seen: list[Any] = []

    def callback(row: Mapping[str, float]) -> None:
        seen.append((torch.tensor(0.1).dtype, torch.is_grad_enabled(), np.geterr()["over"]))

    holds = "torch.get_default_dtype() == torch.float64 and np.geterr()['over'] == 'raise'"
    kwargs = {"where": "set_task", "what": "", "holds": holds}
    with strange_host():
        keys = SMALL | {"algorithm": "promp", "env": "tests.helpers.unsettling:UnsettlingUser", "env_kwargs": kwargs}
        done = mmaml.train(keys, dump_path=dump(tmp_path, "run"), callbacks=[callback], show=False)
    assert seen == [(torch.float64, False, "raise")] * 2
    assert checkpoint.load(done.folder)["counts"]["FailedTasks"] == 0
    mmaml.train(keys | {"env_kwargs": kwargs | {"holds": "torch.get_default_dtype() == torch.float32"}}, show=False,
                dump_path=dump(tmp_path, "again"))  # fmt: skip
    assert not (tmp_path / "again/messages.log").exists()


def test_what_a_callback_changes_is_put_back(tmp_path: Path) -> None:
    expected = train(dump(tmp_path, "usual"), "promp", n_itr=3)
    seen = []

    def callback(row: Mapping[str, float]) -> None:
        seen.append(torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        np.seterr(all="raise")

    before = read(SETTINGS)
    keys = SMALL | {"algorithm": "promp", "env": ENV, "n_itr": 3}
    done = mmaml.train(keys, dump_path=dump(tmp_path, "run"), callbacks=[callback], show=False)
    assert_same_states(checkpoint.load(done.folder), expected)
    assert seen == [torch.float32, torch.float64, torch.float64] and before == read(SETTINGS)


@pytest.mark.parametrize("algorithm", STEPPING)
def test_policies_act_and_adapt_with_the_same_bits(algorithm: str, tmp_path: Path) -> None:
    path = trained(tmp_path, algorithm)

    def adapted(name: str) -> tuple[list[torch.Tensor], np.ndarray]:
        policy = mmaml.load(path)
        policy.rng = np.random.default_rng(0)
        for seed in range(2):
            episode(policy, 6, seed, lanes=3)
            policy.adapt()
        found = saved_state(policy, tmp_path / f"{name}.pt")
        again = mmaml.load(tmp_path / f"{name}.pt")
        return found, again.act(np.ones(policy.spaces.observation_size), deterministic=True)

    expected, action = adapted("usual")
    with strange_host():
        found, other = adapted("strange")
    assert all(map(torch.equal, found, expected))
    np.testing.assert_array_equal(other, action)
