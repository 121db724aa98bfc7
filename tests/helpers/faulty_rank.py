"""A training script in a rank that meets its end at given places: `python faulty_rank.py SCRIPT ARGUMENTS…`

FAULTS, a variable of the environment, holds a JSON object: rank -> [[place, visit, what], …]. At the visit, counted
from 1, of a place (a name of PLACES) the process sends itself the signal named `what`, or does what else is named.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load, as a training script does

from mmaml import worker
from mmaml.algorithms import maml
from mmaml.parallel import link
from mmaml.sampling import collector
from mmaml.storage import files
from mmaml.storage.saver import Saver

RANK = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
FAULTS = {(place, visit): what for place, visit, what in json.loads(os.environ["FAULTS"]).get(RANK, [])}
visits: Counter[str] = Counter()

# Before what a fault happens: place -> the owner and the name of a function.
PLACES: dict[str, tuple[Any, str]] = {
    "broadcast": (link.Link, "receive"),  # a request to this rank, or its answer to the master
    "broadcast, half received": (link.cloudpickle, "loads"),
    "sampling": (worker.Worker, "collect"),
    "a time step": (collector, "to_environment"),
    "processing": (worker, "advantages"),
    "adaptation": (maml.MAML, "adapt"),
    "evaluation": (worker.Worker, "evaluate"),
    "gradient": (maml.MAML, "meta_gradient"),
    "losses": (maml.MAML, "meta_loss"),
    "gather": (link.Link, "send"),
    "gather, half sent": (link.Link, "finish_sending"),
    "checkpoint": (Saver, "save"),
    "checkpoint, half written": (files.os, "replace"),
}


def with_fault(place: str, function: Any) -> Any:
    def visited(*arguments: Any, **options: Any) -> Any:
        visits[place] += 1
        what = FAULTS.get((place, visits[place]))
        if what == "loop":
            while True:
                pass
        elif what == "slow":
            time.sleep(60)
        elif what == "crash":
            os._exit(3)
        elif what is not None:
            os.kill(os.getpid(), signal.Signals[what])
        return function(*arguments, **options)

    return visited


for place, (owner, name) in PLACES.items():
    setattr(owner, name, with_fault(place, getattr(owner, name)))
sys.modules["mmaml.figures.run_figures"] = SimpleNamespace(draw_run=lambda *_: None)  # type: ignore[assignment]  # slow
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parents[1]))
runpy.run_path(sys.argv[0], run_name="__main__")
