"""A long run of a small config, watched from outside: `python benchmarks/soak.py [--iterations 2000] [--ranks 3]`

Prints for each rank, and for mpirun's own processes, by how much its memory grows an iteration, and its open files
and threads after warming up and at the end; then, for short runs that end in every way, what is left of them:
processes, shared memory, temporary files. Exit code 1 if anything grows or is left.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MPIRUN = Path(sys.executable).with_name("mpirun")
SHARED_MEMORY = "/dev/shm/"
KIB_AN_ITERATION = 1.0  # to stay under
WARM_UP = 0.25  # of the iterations
BINS = 20  # of the iterations after it; of each the median, so that a checkpoint's buffers do not count
SECONDS_TO_END = 120.0  # an end that takes longer hangs

# Everything that an iteration can do: minibatches, several steps, evaluation, checkpoints that replace others.
SETTINGS: dict[str, Any] = {
    "meta_batch_size": 7,
    "rollouts_per_meta_task": 3,
    "max_path_length": 7,
    "hidden_sizes": [8, 8],
    "cell_size": 8,
    "num_inner_grad_steps": 2,
    "num_promp_steps": 2,
    "num_minibatches": 2,
    "eval_interval": 5,
    "eval_num_tasks": 5,
    "save_steps": 20,
}


class Sample(NamedTuple):
    """A process at a time. memory: KiB that are its own, and its part of shared ones; not those of files."""

    name: str
    iteration: int
    memory: float
    files: int
    threads: int
    children: int


class Job:
    """A command, and all that it starts; of a run, that writes into `folder`/run.

    Its processes are known by a variable of their environment; it has a folder for temporary files to itself.
    """

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.dump_path, self.temporary = folder / "run", folder / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._mark = f"SOAK={folder}".encode()
        self._segments: set[str] = set()
        self.errors = folder / "errors"
        with open(folder / "output", "w") as output, open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"SOAK": str(folder), "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=errors,
                cwd=ROOT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell's & starts
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left, and remove its shared memory."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for segment in self.segments():
            Path(segment).unlink(missing_ok=True)

    def processes(self) -> dict[int, str]:
        """Its processes: pid -> "rank N", or what else it is."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if self._mark in variables:
                ranks = [v.removeprefix(b"PMIX_RANK=").decode() for v in variables if v.startswith(b"PMIX_RANK=")]
                program = next((word for word in words if b"mpirun" in word or b"prte" in word), words[0])
                found[int(entry.name)] = f"rank {ranks[0]}" if ranks else os.path.basename(program.decode())
        return found

    def rank(self, number: int) -> int:
        """The process of a rank."""
        return next(pid for pid, name in self.processes().items() if name == f"rank {number}")

    def iterations(self) -> int:
        """How many it has logged."""
        with suppress(OSError):
            return max(0, (self.dump_path / "progress.csv").read_bytes().count(b"\n") - 1)
        return 0

    def look(self) -> list[Sample]:
        """Its processes now."""
        self._find_segments()
        samples, iteration, processes = [], self.iterations(), self.processes()
        with_numbers: dict[str, int] = {}
        parents = [_parent(pid) for pid in processes]
        for pid, name in sorted(processes.items()):
            with suppress(OSError):
                with_numbers[name] = count = with_numbers.get(name, 0) + 1
                memory, files = _own_memory(pid), len(os.listdir(f"/proc/{pid}/fd"))
                threads = len(os.listdir(f"/proc/{pid}/task"))
                called = name if count == 1 else f"{name} ({count})"
                samples.append(Sample(called, iteration, memory, files, threads, parents.count(pid)))
        return samples

    def wait(self, condition: Callable[[], Any] = lambda: False, seconds: float = SECONDS_TO_END) -> int | None:
        """Until the condition is true or the job ended; its exit code, None while it lives. Raises TimeoutError."""
        limit = time.monotonic() + seconds
        while not condition():
            self._find_segments()
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.1)
            if time.monotonic() > limit:
                raise TimeoutError(f"{', '.join(self.processes().values())} after {seconds:g} s")
        return None

    def _find_segments(self) -> None:
        for pid in self.processes():
            with suppress(OSError):
                self._segments |= _shared_memory(pid)

    def segments(self) -> list[str]:
        """The shared memory that it used and that is there."""
        return [segment for segment in sorted(self._segments) if os.path.exists(segment)]

    def left(self) -> list[str]:
        """What is left of it, for after its end."""
        processes = [f"{name}, process {pid}" for pid, name in self.processes().items()]
        unfinished = map(str, self.dump_path.rglob(".*.unfinished"))
        return [*processes, *self.segments(), *unfinished, *map(str, self.temporary.iterdir())]


def _own_memory(pid: int) -> float:
    """KiB. Pages of files come and go with those of other processes and are left out."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: float(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return sizes["Pss_Anon"] + sizes["Pss_Shmem"] + sizes["SwapPss"]


def _shared_memory(pid: int) -> set[str]:
    """What a process has mapped of it."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {SHARED_MEMORY + rest for line in lines for rest in line.split(SHARED_MEMORY)[1:] if " " not in rest}


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def training(folder: Path, ranks: int, overrides: Mapping[str, Any]) -> Job:
    """A run. ranks: under mpirun, 0: without. overrides: of SETTINGS."""
    values = SETTINGS | {"dump_path": str(folder / "run"), "parallel": ranks > 0} | dict(overrides)
    script = ROOT / "run_scripts" / "mumo_run_point_mass.py"
    command = [sys.executable, str(script), "--overrides", json.dumps(values)]
    return Job(folder, [str(MPIRUN), "-n", str(ranks), *command] if ranks else command)


class Growth(NamedTuple):
    """Of one process after warming up. slope: of its memory, KiB an iteration; pairs: after warming up, at the end."""

    slope: float
    memory: tuple[float, float]
    files: tuple[float, float]
    threads: tuple[float, float]
    children: tuple[float, float]

    @property
    def is_flat(self) -> bool:
        return self.slope < KIB_AN_ITERATION and all(start >= end for start, end in (self.files, self.threads))


def growth(samples: list[Sample], iterations: int) -> Growth | None:
    """How a process grew in a run; None of one that was not there from warm-up to the end."""
    edges = np.linspace(WARM_UP * iterations, iterations, BINS + 1)
    rows = np.array([sample[1:] for sample in samples])
    bins = [rows[(rows[:, 0] >= low) & (rows[:, 0] < high)] for low, high in zip(edges[:-1], edges[1:], strict=True)]
    middles = np.array([np.median(rows, axis=0) for rows in bins if len(rows)])
    if len(middles) < BINS // 2:
        return None
    slope = float(np.polyfit(middles[:, 0], middles[:, 1], 1)[0])
    pairs = [(float(first), float(last)) for first, last in zip(middles[0, 1:], middles[-1, 1:], strict=True)]
    return Growth(slope, *pairs)


def soak(job: Job, iterations: int, seconds: float) -> tuple[list[Sample], int]:
    """Everything seen in a run, every so many seconds; its exit code."""
    samples: list[Sample] = []
    while True:
        samples += job.look()
        with suppress(subprocess.TimeoutExpired):
            return samples, job.process.wait(seconds)


@dataclass(frozen=True)
class End:
    """A way in which a run ends. act: done to it after some iterations; code: its exit code."""

    name: str
    code: int
    act: Callable[[Job], None] = lambda job: None
    overrides: dict[str, Any] = field(default_factory=dict)


def _kill(rank: int) -> Callable[[Job], None]:
    return lambda job: os.kill(job.rank(rank), signal.SIGKILL)


def _send(number: signal.Signals) -> Callable[[Job], None]:
    return lambda job: job.process.send_signal(number)


def _twice(job: Job) -> None:
    """The second signal meets a run that cannot finish its iteration."""
    os.kill(job.rank(1), signal.SIGSTOP)
    job.process.send_signal(signal.SIGINT)
    time.sleep(1.5)  # sooner it would count as the same
    job.process.send_signal(signal.SIGINT)


LONG = {"n_itr": 100_000}
SHORT = {"n_itr": 20}
FAILING = {
    "seed": 0,
    "env": "tests.helpers.probes:GoesWrong",
    "env_kwargs": {"fault": "error", "step": 1, "share": 0.002},
}
ENDS = [
    End("success", 0, overrides=SHORT),
    End("failure", 1, overrides=LONG | FAILING | {"max_failed_tasks": 1}),
    End("a worker killed", 0, _kill(1), SHORT),
    End("the master killed", 1, _kill(0), LONG),
    End("SIGINT", 130, _send(signal.SIGINT), LONG),
    End("SIGTERM", 143, _send(signal.SIGTERM), LONG),
    End("SIGINT twice", 130, _twice, LONG),
]


def end_of(job: Job, end: End) -> list[str]:
    """What is wrong after a run that ended so: another exit code, what is left of it, or all of it if it goes on."""
    try:
        code = job.wait(lambda: job.iterations() >= 3)
        if code is None:
            end.act(job)
            code = job.wait()
    except TimeoutError as error:
        return [str(error)]
    return ([f"exit code {code} in place of {end.code}"] if code != end.code else []) + job.left()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000, help="memory settles in some 500 (default: 2000)")
    parser.add_argument("--ranks", type=int, default=3, help="under mpirun; 0: without")
    parser.add_argument("--algorithm", default="mmaml")
    parser.add_argument("--overrides", default="{}", help="JSON object: of the config")
    parser.add_argument("--seconds", type=float, default=1.0, help="between samples")
    parser.add_argument("--soak-only", action="store_true", help="leave out the ends")
    parser.add_argument("--samples", type=Path, help="a CSV file for them")
    arguments = parser.parse_args()
    overrides = {"algorithm": arguments.algorithm} | json.loads(arguments.overrides)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        good = report_soak(Path(name), arguments, overrides)
        for place, end in enumerate([] if arguments.soak_only else ENDS if arguments.ranks > 1 else ENDS[:2]):
            with training(Path(name) / str(place), arguments.ranks, overrides | end.overrides) as job:
                wrong = end_of(job, end)
            print(f"{end.name}: {'; '.join(wrong) or 'nothing left'}", flush=True)
            good &= not wrong
    return 0 if good else 1


def report_soak(folder: Path, arguments: argparse.Namespace, overrides: Mapping[str, Any]) -> bool:
    """Print what the long run came to; whether all is well."""
    clock = time.monotonic()
    with training(folder / "soak", arguments.ranks, {**overrides, "n_itr": arguments.iterations}) as job:
        samples, code = soak(job, arguments.iterations, arguments.seconds)
        seconds, left = time.monotonic() - clock, job.left()
    if arguments.samples:
        with open(arguments.samples, "w", newline="") as file:
            csv.writer(file).writerows([Sample._fields, *samples])
    print(f"{arguments.iterations} iterations on {arguments.ranks} ranks, {seconds:.0f} s, exit code {code}")
    grown = {name: growth([s for s in samples if s.name == name], arguments.iterations) for name in _names(samples)}
    for name, figures in grown.items():
        if figures is None:
            continue
        start, end = (f"{size / 1024:.1f} MiB" for size in figures.memory)
        counts = zip(("files", "threads", "children"), figures[2:], strict=True)
        rest = ", ".join(f"{what} {first:.0f} to {last:.0f}" for what, (first, last) in counts)
        print(f"  {name}: {figures.slope:+.3f} KiB an iteration ({start} to {end}); {rest}")
    print(f"  left: {'; '.join(left) or 'nothing'}", flush=True)
    measured = sum(figures is not None for name, figures in grown.items() if name.startswith("rank"))
    flat = all(figures is None or figures.is_flat for figures in grown.values())
    return flat and measured == arguments.ranks and code == 0 and not left


def _names(samples: list[Sample]) -> list[str]:
    return sorted({sample.name for sample in samples})


if __name__ == "__main__":
    sys.exit(main())
