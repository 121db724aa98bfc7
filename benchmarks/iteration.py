"""Whole iterations at the published sizes: `python benchmarks/iteration.py [CONFIG ...]`

Runs the training script under mpirun on two ranks and prints, from its own log: seconds of an iteration; seconds
from the command to the end of the first; the share that is neither sampling nor gradients on the busiest rank
(MPI, serialisation, the optimiser, logging); and weak scaling: 20 tasks on one rank against 40 on two.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.arguments import chosen

ROOT = Path(__file__).resolve().parents[1]
MPIRUN = Path(sys.executable).with_name("mpirun")
ITERATIONS = 6
POINT_MASS = "to reach: 1.6"
# Run script, config, and what an iteration is to reach, in seconds.
CASES = [
    ("mumo_run_point_mass.py", "point_env_momentum_dense.json", POINT_MASS),
    ("pro-mp_run_point_mass.py", "point_env_momentum_dense.json", POINT_MASS),
    ("mumo_run_mujoco.py", "reacher.json", ""),
    ("pro-mp_run_mujoco.py", "half_cheetah_direction.json", ""),
]


def run(script: str, config: str, ranks: int, tasks: int, folder: Path) -> tuple[list[dict[str, float]], float]:
    """Rows of the log of a short run, and seconds from the command until the first iteration was logged."""
    overrides = {"n_itr": ITERATIONS, "meta_batch_size": tasks}
    dump_path = folder / f"{script}-{config}-{ranks}-{tasks}"
    command = [MPIRUN, "-n", ranks, sys.executable, ROOT / "run_scripts" / script, "--overrides", json.dumps(overrides)]
    command += ["--config_file", ROOT / "configs" / config, "--dump_path", dump_path]
    started = time.time()
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=ROOT)
    ended = time.time()
    with open(dump_path / "progress.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    after_first = rows[-1]["Time"] - rows[0]["Time"]
    return rows, ended - started - after_first


def main() -> None:
    configs = chosen(__doc__, "config", dict.fromkeys(config for _, config, _ in CASES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for script, config, goal in CASES:
            if config not in configs:
                continue
            rows, first = run(script, config, 2, 40, folder)
            wall = np.diff([row["Time"] for row in rows])
            middle = float(np.median(wall))
            busy = [row["ItrTime"] - row["Time-Communication"] for row in rows[1:]]
            share = 1 - float(np.sum(busy) / np.sum(wall))
            sampling = float(np.median([row["Time-Sampling"] for row in rows[1:]]))
            update = float(np.median([row["Time-OuterStep"] for row in rows[1:]]))
            print(f"{script}, {config}, 2 ranks, {rows[0]['n_timesteps']:,.0f} env steps an iteration:")
            parts = f"sampling {sampling:.2f}, update {update:.2f}"
            print(f"  an iteration {middle:.2f} s{f' ({goal})' if goal else ''}: {parts}")
            print(f"  first iteration at most {first:.1f} s after the command{' (to reach: 5)' if goal else ''}")
            print(f"  MPI, serialisation, optimiser, logging: {100 * share:.1f}% (to stay under: 5%)")
            alone, _ = run(script, config, 1, 20, folder)
            half = float(np.median(np.diff([row["Time"] for row in alone])))
            print(f"  weak scaling, 1 rank x 20 tasks -> 2 ranks x 40 tasks: {half / middle:.2f} (to reach: 0.9)")


if __name__ == "__main__":
    main()
