"""A training script in a rank in which faults happen: `python faulty_rank.py SCRIPT ARGUMENTS…`

FAULTS, a variable of the environment, holds a JSON object: "folder", and "faults", which maps a rank to a list of
faults as `faults.fault` makes them. Before a fault happens, a file with the name of its point is made in
`folder`/`rank`.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmaml import fault_points

RANK = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
GIVEN = json.loads(os.environ["FAULTS"])
FOLDER = Path(GIVEN["folder"], RANK)


class Faults:
    """Has the faults of a rank happen at the points that it reaches."""

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        self._faults = faults
        self._now: dict[str, int | str] = {}  # what was last said of each thing, such as the iteration
        self._times = [0] * len(faults)  # how often each fault's point was reached as the fault says

    def reached(self, point: str, when: dict[str, int | str]) -> None:
        self._now.update(when)
        for k, fault in enumerate(self._faults):
            if fault["point"] == point and fault["when"].items() <= self._now.items():
                self._times[k] += 1
                if self._times[k] == fault["time"]:
                    happen(fault["what"], point, fault["to"])


def happen(what: str, point: str, rank: int | None) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / point).touch()
    if what == "crash":
        os._exit(3)
    elif what == "loop":
        while True:
            pass
    elif what == "hang":
        while True:
            time.sleep(0.01)
    else:
        os.kill(os.getpid() if rank is None else process_of(rank), signal.Signals[what])


def process_of(rank: int) -> int:
    from tests.helpers.faults import processes

    path = GIVEN["folder"].removesuffix(".faults")
    return next(pid for pid, found in processes(path).items() if found == rank)


if faults := GIVEN["faults"].get(RANK):
    fault_points.handler = Faults(faults).reached
sys.modules["mmaml.figures.run_figures"] = SimpleNamespace(draw_run=lambda *_: None)  # type: ignore[assignment]  # slow
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parents[1]))
runpy.run_path(sys.argv[0], run_name="__main__")
