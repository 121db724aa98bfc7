"""Runs under mpirun of which processes are killed, stopped or told to stop; and faults put into their ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmaml.fault_points import Point
from mmaml.parallel.launch import mpirun_command
from mmaml.storage import checkpoint
from tests.helpers.support import SMALL, progress
from tests.helpers.waiting import GUARD

ROOT = Path(__file__).parents[2]
MPIRUN = str(Path(sys.executable).with_name("mpirun"))
# Runs the script of its arguments with faults in its rank.
PROGRAM = str(Path(__file__).with_name("faulty_rank.py"))

Fault = dict[str, Any]


def fault(what: str, point: Point, time: int = 1, *, to: int | None = None, **when: int | str) -> Fault:
    """What happens in a rank at the `time`-th time (from 1) that it reaches a point.

    what: a signal that its process sends itself, or that of rank `to`, "crash" (it ends with code 3), "loop" or "hang",
    both without end.
    when: only those times count at which the point, or the latest before it that says so, is reached in this
    "iteration", "collection", "function", … (`mmaml.fault_points`).
    """
    return {"what": what, "point": point, "time": time, "to": to, "when": when}


def described(fault: Fault) -> str:
    """A fault in few words, for the names of tests."""
    return " ".join([fault["point"], *(f"{name} {value}" for name, value in fault["when"].items())])


# Uneven blocks on any number of ranks; minibatches, evaluations and several checkpoints.
VALUES: dict[str, Any] = SMALL | {
    "n_itr": 6,
    "meta_batch_size": 7,
    "num_inner_grad_steps": 2,
    "num_minibatches": 2,
    "eval_interval": 3,
    "eval_num_tasks": 5,
    "save_steps": 2,
    "parallel": True,
}


def command(values: dict[str, Any], ranks: int, *mpirun: str, script: str = "mumo_run_point_mass.py") -> list[str]:
    """The command line of a run, whose mpirun starts as for --ranks; without mpirun where `ranks` is 0."""
    arguments = [PROGRAM, str(ROOT / "run_scripts" / script), "--overrides", json.dumps(values)]
    return [*([*mpirun_command(), "-n", str(ranks), *mpirun] if ranks else []), sys.executable, *arguments]


@contextmanager
def started(
    values: dict[str, Any],
    ranks: int,
    *mpirun: str,
    faults: Mapping[int, Sequence[Fault]] | None = None,
    place: Sequence[str] = (),
) -> Iterator[subprocess.Popen[str]]:
    """A run that goes on while the test does something to it. What is left of it at the end is killed.

    faults: of each rank. place: the command that runs another where this is to start.
    """
    given = {"folder": str(_fault_folder(values["dump_path"])), "faults": faults or {}}
    process = subprocess.Popen(
        [*place, *command(values, ranks, *mpirun)],
        env=os.environ | {"FAULTS": json.dumps(given), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        for pid in processes(values["dump_path"]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def finished(process: subprocess.Popen[str], seconds: float = GUARD) -> subprocess.CompletedProcess[str]:
    """The process once it has ended."""
    out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(
    values: dict[str, Any], ranks: int, *mpirun: str, faults: Mapping[int, Sequence[Fault]] | None = None
) -> subprocess.CompletedProcess[str]:
    """A run from start to end."""
    with started(values, ranks, *mpirun, faults=faults) as process:
        return finished(process)


def processes(dump_path: str) -> dict[int, int]:
    """The processes of the ranks of the run that writes `dump_path`: pid -> rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = [value[len("PMIX_RANK=") :] for value in map(bytes.decode, variables) if value.startswith("PMIX_RANK=")]
        if rank and any(dump_path.encode() in word for word in words):
            found[int(entry.name)] = int(rank[0])
    return found


def has_happened(dump_path: str, rank: int, point: Point) -> bool:
    """Whether the fault of a rank at a point has happened, or is about to."""
    return (_fault_folder(dump_path) / str(rank) / point).exists()


def _fault_folder(dump_path: str) -> Path:
    return Path(f"{dump_path}.faults")


def iterations(dump_path: str) -> int:
    """How many iterations the run has logged."""
    path = Path(dump_path) / "progress.csv"
    return len(progress(dump_path)) if path.exists() else 0


def messages(dump_path: str) -> list[str]:
    """What the log tells of faults."""
    path = Path(dump_path) / "messages.log"
    return path.read_text().splitlines() if path.exists() else []


def result(dump_path: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The last checkpoint's parameters and the log's rows without their clocks."""
    clocks = ("Time", "ItrTime", "EnvStepsPerSecond")
    rows = [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in progress(dump_path)]
    return checkpoint.load(dump_path)["parameters"], rows
