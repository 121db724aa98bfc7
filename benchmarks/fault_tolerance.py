"""What it costs to be ready for faults when there are none: `python benchmarks/fault_tolerance.py [--pairs N]`

Pairs of runs of the published point-mass config, with a quarter of its tasks, on two ranks: one as it is, one without
an MPI that survives losses, a look at numbers and at what environments return, and copies of the state for an update to
be taken back. The order alternates. Prints the iteration times of each pair and the median of their ratios (to stay
under: 1.03).
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MPIRUN = Path(sys.executable).with_name("mpirun")
CONFIG = ROOT / "configs" / "point_env_momentum_dense.json"
ITERATIONS, TASKS = 10, 10


def rank(arguments: list[str]) -> int:
    """A rank of a run without the checks."""
    from mmaml import cli, guards, sampling, trainer
    from mmaml.run import Run

    def nothing(*arguments: Any, **options: Any) -> None:
        pass

    for owner, name in (
        (guards, "check_rollouts"),
        (guards, "check_adapted"),
        (sampling, "_check_returned"),
        (trainer, "check_parameters"),
    ):
        assert hasattr(owner, name)
        setattr(owner, name, nothing)
    trainer.checked = lambda evaluate, spec: evaluate
    state = Run._state
    Run._state = lambda run: state(run) if run.iteration in (0, ITERATIONS) else run.state  # type: ignore[method-assign]
    return cli.run("mmaml", arguments)


def seconds(ready: bool, folder: Path) -> float:
    """Of an iteration, the median of a run but its first."""
    program = [ROOT / "run_scripts" / "mumo_run_point_mass.py"] if ready else [Path(__file__), "--rank"]
    tolerance = [] if ready else ["--with-ft", "none"]
    overrides = {"n_itr": ITERATIONS, "save_steps": ITERATIONS, "meta_batch_size": TASKS}
    command = [MPIRUN, *tolerance, "-n", 2, sys.executable, *program, "--config_file", CONFIG]
    command += ["--dump_path", folder, "--overrides", json.dumps(overrides)]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=ROOT)
    with open(folder / "progress.csv", newline="") as file:
        times = [float(row["Time"]) for row in csv.DictReader(file)]
    return statistics.median(after - before for before, after in zip(times, times[1:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    pairs = parser.parse_args().pairs
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        for pair in range(pairs):
            order = [True, False] if pair % 2 else [False, True]
            took = {ready: seconds(ready, Path(name, f"{pair}-{ready}")) for ready in order}
            ratios.append(took[True] / took[False])
            print(f"ready {took[True]:.3f} s, not ready {took[False]:.3f} s an iteration: {ratios[-1]:.3f}", flush=True)
    print(f"median of {pairs} pairs: {statistics.median(ratios):.3f} (to stay under: 1.03)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        sys.exit(rank(sys.argv[2:]))
    main()
