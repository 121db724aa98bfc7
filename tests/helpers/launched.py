"""A rank program without training, for tests of the launcher: `python tests/helpers/launched.py <folder> <way> …`.

Rank 0 exchanges messages with the others until it is asked to stop by a signal, or by a file `stop` in the folder.
Ways in which ranks differ from that are the words after the folder.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])
WAYS = sys.argv[2:]
RANK = int(os.environ["OMPI_COMM_WORLD_RANK"])
LAUNCHER = os.environ.get("MMAML_LAUNCHER")  # on the first machine only
CODES = {signal.SIGUSR1: 143, signal.SIGUSR2: 130}

asked: list[int] = []


def report(state: str) -> None:
    if LAUNCHER is not None:
        Path(LAUNCHER, state).touch()


def main() -> None:
    for number in CODES:
        signal.signal(number, note)
    report("starting")
    if "lost-in-start" in WAYS and RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if "all-lost-in-start" in WAYS:
        os.kill(os.getpid(), signal.SIGKILL)
    global MPI
    from mpi4py import MPI

    ranks = MPI.COMM_WORLD
    ranks.Set_errhandler(MPI.ERRORS_RETURN)
    if RANK == 0:
        report("started")
    present_oneself()
    try:
        lead(ranks) if RANK == 0 else follow(ranks)
    except MPI.Exception:
        os._exit(0)  # the other is lost


def note(number: int, _: object) -> None:
    asked.append(number)
    (FOLDER / "asked").touch()


def present_oneself() -> None:
    """What the test looks for after the end, and with it the news that this rank is ready."""
    segments = sorted(set(re.findall(r"/\S*/sm_segment\S*", Path("/proc/self/maps").read_text())))
    facts = {"pid": os.getpid(), "host": os.uname().nodename, "folder": LAUNCHER, "segments": segments}
    if sys.stdout.isatty():
        facts["terminal"] = os.get_terminal_size(1).columns
    (FOLDER / "writing").mkdir(exist_ok=True)
    written = FOLDER / "writing" / str(RANK)
    written.write_text(json.dumps(facts))
    written.rename(FOLDER / f"rank{RANK}")


def lead(ranks) -> None:  # type: ignore[no-untyped-def]
    while not (asked and "deaf" not in WAYS) and not (FOLDER / "stop").exists():
        if (FOLDER / "pause").exists():  # so that no rank is waited for that the test stops
            (FOLDER / "paused").touch()
        elif "no-messages" not in WAYS:
            for other in range(1, ranks.size):
                ranks.sendrecv("work", other, 1, source=other, recvtag=2)
        time.sleep(0.01)
    code = CODES[asked[0]] if asked and "end-well" not in WAYS else 0
    print("asked", *asked, flush=True)
    if "fail" in WAYS:
        code = 5
    if "plain-end" not in WAYS:
        report(f"ended.{code}")
    if "no-messages" in WAYS:
        os._exit(0)
    for other in range(1, ranks.size):
        ranks.send("end", other, 1)
    if "plain-end" in WAYS:
        report("ended")
        MPI.Finalize()
    (FOLDER / "ended").touch()
    while "slow-end" in WAYS and not (FOLDER / "last breath").exists():
        time.sleep(0.01)
    sys.exit(code)


def follow(ranks) -> None:  # type: ignore[no-untyped-def]
    while "loop" in WAYS:
        time.sleep(0.01)
    while ranks.recv(source=0, tag=1) != "end":
        ranks.send("done", 0, 2)
    while "never-end" in WAYS:
        time.sleep(0.01)


if __name__ == "__main__":
    main()
