"""Which cores a process may use, how the ranks of a machine share them, and how many threads that gives each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.errors import ConfigError
from mmaml.parallel import cores
from mmaml.parallel.cores import Cores, fewest_each
from mmaml.parallel.launch import physics_threads
from tests.helpers.support import run, small_config


def test_physical_cores_are_those_the_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(8):  # four cores of two hardware threads
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(cores, "CPU_TOPOLOGY", tmp_path)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 5, 6})
    assert cores.physical_cores() == 3
    for limit, number in (("max 100000", 3), ("250000 100000", 2), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(limit)
        assert cores.physical_cores() == number
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.physical_cores() == 2


def may_use(*names: int, limit: float = float("inf")) -> Cores:
    return Cores(frozenset(map(str, names)), limit)


def test_ranks_share_the_cores_that_they_have_in_common() -> None:
    node = may_use(*range(128))
    for ranks, each in ((1, 128), (40, 3), (128, 1), (200, 1)):
        assert fewest_each([node] * ranks) == each
    assert fewest_each([may_use(0, 1), may_use(2, 3)]) == 2  # bound to cores of their own
    assert fewest_each([may_use(*range(16)), may_use(*range(16)), may_use(*range(16, 32))]) == 8
    assert fewest_each([may_use(*range(12), limit=7.5)] * 2) == 3  # of a container


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 7, 48, 49])
def test_no_rounding_takes_a_core(parts: int) -> None:
    assert fewest_each([may_use(*range(5 * parts))] * parts) == 5


def test_cores_become_threads_where_no_rank_can_use_them() -> None:
    def threads(ranks: int, cores: int, **keys: Any) -> int:
        return physics_threads(small_config("promp", meta_batch_size=4, **keys), ranks, cores)

    physics = {"env": "Reacher3LinkEnv"}
    assert threads(4, 3, **physics) == 3
    assert threads(3, 3, **physics) == 1  # a fourth rank would do more
    assert threads(5, 3, **physics, master_samples=False) == 3
    assert threads(4, 3, **physics, master_samples=False) == 1
    assert threads(4, 3) == 1  # the point mass is arrays
    assert threads(2, 3, **physics, physics_threads=8) == 8
    assert threads(4, 3, **physics, physics_threads=1) == 1


def test_a_run_steps_its_lanes_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(MujocoFamily, "use_threads", lambda family, threads: asked.append(threads))
    run(small_config("promp", env="Reacher3LinkEnv", physics_threads=3, dump_path=str(tmp_path / "run")))
    assert set(asked) == {3}
    assert json.loads((tmp_path / "run" / "params.json").read_text())["placement"]["physics_threads"] == 3


def test_threads_for_a_family_without_physics_are_refused() -> None:
    with pytest.raises(ConfigError, match=r'physics_threads: expected "auto" or 1 with .+, got 2'):
        small_config("promp", physics_threads=2)
    assert small_config("promp", physics_threads=1).physics_threads == 1
