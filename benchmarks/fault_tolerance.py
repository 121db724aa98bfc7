"""What it costs to be ready for faults when there are none: `python benchmarks/fault_tolerance.py [--turns N]`

Two runs of the published point-mass config on two ranks take turns, an iteration each, the other's ranks stopped: one
is as it is, one without an MPI that survives losses, a look at numbers and at what environments return, and copies of
the state for an update to be taken back. So both meet the same machine, however its speed changes. Who is first
alternates. Prints the median of the ratios of their seconds, turn by turn, and between what it lies with 95%, by
bootstrap (to stay under: 1.03).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MPIRUN = Path(sys.executable).with_name("mpirun")
CONFIG = ROOT / "configs" / "point_env_momentum_dense.json"
RANKS = 2
FIRST = 2  # turns that do not count
SECONDS_TO_START = 120.0


def rank(ready: str, address: str, *arguments: str) -> int:
    """A rank of a run that waits for its turns."""
    from mmaml import trainer
    from mmaml.cli import train

    if ready == "no":
        _leave_out_readiness()
    harness = socket.socket(socket.AF_UNIX)
    harness.connect(address)
    harness.sendall(f"{os.environ['OMPI_COMM_WORLD_RANK']} {os.getpid()}".encode())
    harness.recv(1)
    one_iteration = trainer.one_iteration

    def in_turn(*given: Any) -> dict[str, float]:
        harness.sendall(b".")
        harness.recv(1)
        return one_iteration(*given)

    trainer.one_iteration = in_turn
    return train.run("mmaml", list(arguments))


def _leave_out_readiness() -> None:
    from mmaml import trainer
    from mmaml.sampling import collector, finite
    from mmaml.training_run import Run

    def nothing(*arguments: Any, **options: Any) -> None:
        pass

    for owner, name in (
        (finite, "check_rollouts"),
        (finite, "check_adapted"),
        (collector, "_check_returned"),
        (trainer, "require_finite"),
    ):
        assert hasattr(owner, name)
        setattr(owner, name, nothing)
    trainer.checked = lambda evaluate, spec: evaluate
    state = Run._state
    Run._state = lambda run: run.state if run.iteration else state(run)  # type: ignore[method-assign]


class Job:
    """A run of so many iterations, the first of which is about to begin."""

    def __init__(self, ready: bool, folder: Path, overrides: dict[str, Any]) -> None:
        folder.mkdir()
        address = str(folder / "harness")
        command = [MPIRUN, *([] if ready else ["--with-ft", "none"]), "-n", RANKS, sys.executable, __file__]
        command += ["--rank", "yes" if ready else "no", address]
        command += ["--config_file", CONFIG, "--dump_path", folder / "run", "--overrides", json.dumps(overrides)]
        with socket.socket(socket.AF_UNIX) as server, open(folder / "output", "w") as output:
            server.bind(address)
            server.listen(RANKS)
            server.settimeout(SECONDS_TO_START)
            self._process = subprocess.Popen([*map(str, command)], stdout=output, stderr=output, cwd=ROOT)
            self._pids: list[int] = []
            for _ in range(RANKS):
                connection, _ = server.accept()
                number, pid = map(int, connection.recv(100).split())
                connection.sendall(b".")
                if number == 0:
                    self._master = connection
                else:
                    self._pids.append(pid)
        self._wait()

    def take_turn(self) -> float:
        """Seconds of an iteration, until the next can begin."""
        self._signal(signal.SIGCONT)
        clock = time.perf_counter()
        self._master.sendall(b".")
        self._wait()
        seconds = time.perf_counter() - clock
        self._signal(signal.SIGSTOP)
        return seconds

    def end(self) -> None:
        """Have it take its last turn, and end."""
        self._signal(signal.SIGCONT)
        self._master.sendall(b".")
        assert self._process.wait() == 0

    def _wait(self) -> None:
        assert self._master.recv(1), "the run has ended"

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            os.kill(pid, number)


def compare(turns: int, overrides: dict[str, Any]) -> np.ndarray:
    """Seconds of an iteration [turns, 2], of the run that is ready and of the other."""
    overrides = overrides | {"n_itr": turns + 1, "save_steps": turns + 1, "rank_timeout": 600}
    with tempfile.TemporaryDirectory() as name:
        jobs = [Job(ready, Path(name, str(ready)), overrides) for ready in (True, False)]
        seconds = np.empty((turns, 2))
        for turn in range(turns):
            for which in (0, 1) if turn % 2 else (1, 0):
                seconds[turn, which] = jobs[which].take_turn()
        for job in jobs:
            job.end()
    return seconds[FIRST:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=62)
    parser.add_argument("--overrides", default="{}", help="JSON object: of the config")
    arguments = parser.parse_args()
    seconds = compare(arguments.turns, json.loads(arguments.overrides))
    ratios = seconds[:, 0] / seconds[:, 1]
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    ready, other = np.median(seconds, axis=0)
    print(f"{len(ratios)} turns: ready {ready:.3f} s, not ready {other:.3f} s an iteration, medians")
    print(f"median of the ratios {np.median(ratios):.3f}, 95% between {low:.3f} and {high:.3f} (to stay under: 1.03)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        sys.exit(rank(*sys.argv[2:]))
    main()
