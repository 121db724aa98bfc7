"""Starting the environment's mpirun on launched.py, and looking for what remains of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmaml.launcher import install, job, protocol
from tests.helpers.waiting import wait_until

PROGRAM = Path(sys.executable).with_name("mpirun")
RANKS = Path(__file__).with_name("launched.py")
ROOT = Path(__file__).parents[2]
# mpirun whose supervisor has other settings: python -c CHANGED <settings> <Open MPI's mpirun> …
CHANGED = (
    f"import json, sys; sys.path.append({str(ROOT)!r}); from mmaml.launcher import mpirun, supervisor; "
    "vars(supervisor).update(json.loads(sys.argv[1])); mpirun.main(sys.argv[2], sys.argv[3:])"
)
SECONDS = 60.0  # no test takes as long, unless something hangs


class Launch:
    """A started mpirun with `ranks` ranks of launched.py.

    place: a command that runs it elsewhere. settings: those of the supervisor that differ, by their names there.
    """

    def __init__(
        self,
        folder: Path,
        *ways: str,
        ranks: int = 2,
        options: Sequence[str] = (),
        place: Sequence[str] = (),
        settings: Mapping[str, float] | None = None,
        **streams: Any,
    ) -> None:
        self.folder = folder
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        mpirun = [str(PROGRAM)]
        if settings is not None:
            mpirun = [sys.executable, "-c", CHANGED, json.dumps(settings), str(install.open_mpi(PROGRAM.parent))]
        program = [sys.executable, str(RANKS), str(folder), *ways]
        self.process = subprocess.Popen([*place, *mpirun, *options, "-n", str(ranks), *program], text=True, **streams)
        self.size = ranks
        self.facts: list[dict[str, Any]] = []

    def ready(self) -> Launch:
        """Wait for all ranks to have joined each other."""
        files = [self.folder / f"rank{rank}" for rank in range(self.size)]
        wait_until(lambda: all(file.exists() for file in files))
        self.facts = [json.loads(file.read_text()) for file in files]
        return self

    def pid(self, rank: int) -> int:
        return self.facts[rank]["pid"]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr), after a look for what remains of the job."""
        output, errors = self.process.communicate(timeout=SECONDS)
        self.check_nothing_remains()
        return self.process.returncode, output or "", errors or ""

    def check_nothing_remains(self) -> None:
        assert self.facts[0]["segments"]
        for facts in self.facts:
            marker = f"{protocol.FOLDER_VARIABLE}={facts['folder']}".encode()
            assert not [pid for pid in job.processes() if marker in environment(pid)]
            assert not [path for path in (facts["folder"], *facts["segments"]) if os.path.exists(path)]


def environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def parent(pid: int) -> int:
    process = job.state_of(pid)
    assert process is not None
    return process.parent
