"""However a run ends, nothing of it is left; and while it goes on, it holds no more from iteration to iteration."""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import soak
from mmaml.training_run import Run
from tests.helpers.support import run, small_config

pytestmark = pytest.mark.ranks

# The other ends of the benchmark are those of tests/parallel/test_shutdown.py and tests/launcher/test_supervisor.py.
ENDS = [end for end in soak.ENDS if end.name in ("success", "failure", "a worker killed", "SIGINT")]
ITERATIONS, WARM_UP = 50, 25
PERIOD = 5  # iterations after which all happens again
BYTES_AN_ITERATION = 1024


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS, ids=[end.name for end in ENDS])
def test_nothing_is_left(end: soak.End, tmp_path: Path) -> None:
    with soak.training(tmp_path, 2, end.overrides) as job:
        assert job.wait(lambda: job.iterations() >= 1) is None
        has = "\n".join(job.left())
        assert all(part in has for part in ("rank 0", "rank 1", "prterun", "sm_segment", str(job.temporary)))
        assert soak.end_of(job, end) == [], job.errors.read_text()


@pytest.mark.long
def test_nothing_is_left_of_scripts_without_mpirun(tmp_path: Path) -> None:
    with soak.training(tmp_path, 0, {"n_itr": 2}) as job:
        assert job.wait() == 0, job.errors.read_text()
        assert job.left() == []
    script = str(soak.ROOT / "run_scripts" / "evaluate.py")
    with soak.Job(tmp_path, [sys.executable, script, "--restore_path", str(job.dump_path), "--num_tasks", "2"]) as job:
        assert job.wait() == 0, job.errors.read_text()
        assert job.left() == []


def held() -> list[int]:
    """How many open files, threads and objects this process has, and how many bytes they take."""
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    return [len(os.listdir("/proc/self/fd")), threading.active_count(), len(gc.get_objects()), size]


@pytest.mark.long
def test_an_iteration_leaves_nothing_behind_in_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minibatches, evaluations and checkpoints that replace others among them."""
    finish, counts = Run.finish_iteration, np.zeros((ITERATIONS // PERIOD, 4), int)

    def watched(self: Run, iteration: int, row: dict[str, float]) -> None:
        finish(self, iteration, row)
        if iteration % PERIOD == 0:
            counts[iteration // PERIOD] = held()

    monkeypatch.setattr(Run, "finish_iteration", watched)
    settings: dict[str, Any] = soak.SETTINGS | {
        "eval_interval": PERIOD,
        "save_steps": PERIOD,
        "meta_batch_size": 3,
        "num_inner_grad_steps": 1,
    }
    tracemalloc.start()
    try:
        run(small_config(dump_path=str(tmp_path / "run"), **settings | {"n_itr": ITERATIONS}))
    finally:
        tracemalloc.stop()
    growth = np.diff(counts[WARM_UP // PERIOD :], axis=0)
    # What is kept for later use comes now and then, what leaks comes each time.
    files, threads, objects, size = np.median(growth, axis=0)
    assert (files, threads, objects) == (0, 0, 0) and size < BYTES_AN_ITERATION * PERIOD, growth


def test_growth_is_told_from_what_comes_and_goes() -> None:
    def grown(leak: float, files: int = 0) -> soak.Growth:
        sizes = [(n, 5000.0 + leak * n + 900 * (n % 20 == 0) + 3000 * (n < 200)) for n in range(0, 2000, 2)]
        found = soak.growth([soak.Sample("rank 0", n, size, 9 + files * (n > 1500), 2, 0) for n, size in sizes], 2000)
        assert found is not None
        return found

    assert grown(0.0).is_flat and abs(grown(0.0).slope) < 0.01
    assert grown(0.9).is_flat and grown(0.9).slope == pytest.approx(0.9, abs=0.01)
    assert not grown(1.1).is_flat and not grown(0.0, files=1).is_flat
