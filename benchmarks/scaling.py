"""What ranks cost the master, and what an iteration takes on up to 1,024: `python benchmarks/scaling.py [PICTURE]`

Each rank has as many tasks, one or eight, so that the meta-batch grows with the ranks. Three things are measured:

- One full-size task of each configuration, in this process: the CPU seconds and the bytes of each call to a rank, and
  what the master does alone (tasks, outer step, log).
- What a call costs the master for each rank (to send, to receive, to join and average results), at several sizes of
  the message: CPU seconds with up to 64 ranks, which answer at once, over TCP.
- Whether it grows with the number of ranks.

From them an iteration is predicted, with networks of 10 and 100 Gbit/s. A call takes the time to send to all ranks, to
compute, and to receive from all; to send or to receive takes the longer of the master's CPU seconds and the bytes on
its wire; to that come a few latencies of the network, and looks of ranks that wait (`mmaml.parallel.link`). It leaves
out that ranks differ in speed, and that a few of these overlap.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch

from benchmarks.helpers.arguments import parsed, refuse
from mmaml.cli.script import Parser
from mmaml.config.loading import load_config
from mmaml.errors import UsageError
from mmaml.parallel import link
from mmaml.parallel.ranks import Ranks, connect
from mmaml.parallel.requests import Request, travelling
from mmaml.trainer import one_iteration
from mmaml.training_run import Run
from mmaml.worker import Worker

MPIRUN = Path(sys.executable).with_name("mpirun")
# Name, algorithm and file in configs/.
CASES = {
    "point mass": ("mmaml", "point_env_momentum_dense"),
    "reacher": ("mmaml", "reacher"),
    "ant": ("mmaml", "ant_rand_goal"),
    "RL²": ("rl2", "rl2_ppo"),
}
ITERATIONS = 3
STARTED = (4, 16, 64)  # ranks that are measured
SIZES = (250, 2_500, 12_500, 25_000, 50_000)  # numbers of a message, 4 bytes each
CALLS = 4
LOOK = 5e-3  # seconds between two looks at a message, while the CPU seconds of 64 ranks on few cores are measured
ANSWER = 4e-3  # seconds that a rank is given to answer
PREDICTED = (8, 16, 32, 64, 128, 256, 512, 1024)


class Network(NamedTuple):
    """bandwidth: of the master's connection, bytes/s. latency: of a message, s."""

    bandwidth: float
    latency: float


NETWORKS = {"10 Gbit/s, 25 µs": Network(1.25e9, 25e-6), "100 Gbit/s, 10 µs": Network(12.5e9, 10e-6)}
SECONDS_BETWEEN_LOOKS = 1.1e-4  # of a rank that waits: `link.PAUSE` and the kernel's slack


class Phase(NamedTuple):
    """Calls of one kind in an iteration.

    times: how often a rank is called; rounds: how often the master calls some of them, more often with minibatches.
    sent, answered: bytes to and from a rank; seconds: of its CPU; one call each.
    """

    times: int
    rounds: int
    sent: float
    answered: float
    seconds: float


class Workload(NamedTuple):
    """phases: by name. alone: seconds of the master in an iteration that depend on no rank."""

    phases: dict[str, Phase]
    alone: float


class Line(NamedTuple):
    """Seconds of the master for a message: of any, and of each byte."""

    message: float
    byte: float

    def seconds(self, size: float) -> float:
        return self.message + self.byte * size


class Recorder:
    """A worker whose calls are timed and measured: (name, bytes sent, bytes answered, CPU seconds) in `calls`."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.calls: list[tuple[str, int, int, float]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.worker, name)

        def recorded(parameters: Any, vector: Any, items: Sequence[Any], **options: Any) -> dict[str, np.ndarray]:
            clock = time.process_time()
            found = method(parameters, vector, items, **options)
            seconds = time.process_time() - clock
            request = Request(name, parameters, vector, options)
            content, arrays = travelling(request, items)
            sent = len(cloudpickle.dumps(content)) + sum(array.nbytes for array in arrays)
            answered = len(cloudpickle.dumps((list(found), None, seconds))) + sum(v.nbytes for v in found.values())
            self.calls.append((request.phase, sent, answered, seconds))
            return found

        return recorded


def workload(algorithm: str, name: str) -> Workload:
    """One task of a configuration, as a rank computes it."""
    shipped = load_config(ROOT / "configs" / f"{name}.json", {}, algorithm)
    with tempfile.TemporaryDirectory() as folder, connect(parallel=False) as ranks:
        changes = {"meta_batch_size": 1, "num_minibatches": 1, "eval_interval": 0, "dump_path": f"{folder}/run"}
        config = shipped.replace(**changes)
        recorder = Recorder(worker := Worker(config))
        ranks.meet()
        ranks.serve(recorder)
        with open(f"{folder}/output", "w") as stream:
            run = Run(config, ranks, worker, None, stream=stream)
            alone = []
            for iteration in range(ITERATIONS):
                recorder.calls.clear()
                clock = time.process_time()
                run.finish_iteration(iteration, one_iteration(run, iteration))
                alone.append(time.process_time() - clock - sum(call[-1] for call in recorder.calls))
            run.close()
        worker.close()
    phases = {}
    for phase in dict.fromkeys(call[0] for call in recorder.calls):
        of_phase = [call[1:] for call in recorder.calls if call[0] == phase]
        rounds = len(of_phase) * (shipped.num_minibatches if phase == "meta_gradient" else 1)
        phases[phase] = Phase(len(of_phase), rounds, *np.median(of_phase, axis=0))
    return Workload(phases, min(alone))


class Echo:
    """A worker that answers at once, with as many numbers as it was sent."""

    def hold(self, parameters: Any, vector: Any, items: Sequence[int]) -> dict[str, np.ndarray]:
        return {"index": np.array(items)}

    def gradient(self, parameters: torch.Tensor, vector: Any, items: Sequence[int]) -> dict[str, np.ndarray]:
        return {"gradient": np.zeros((len(items), len(parameters)), np.float32)}


def measure_ranks() -> None:
    """On each rank that was started: print CPU seconds of the master for each other rank, by size of the message."""
    link.PAUSE = LOOK
    with connect() as ranks:
        ranks.meet()
        if not ranks.serve(Echo()):
            return
        parts = {"send": _timed(ranks, "send", 0.0), "receive": _timed(ranks, "receive", ANSWER * ranks.size)}
        ranks.call("hold", range(ranks.size))
        everyone, found = list(range(ranks.size)), {}
        for size in SIZES:
            for k in range(CALLS + 1):
                if k == 1:  # after one that makes connections and buffers
                    for part in parts.values():
                        part.clear()
                clock = time.process_time()
                answer = ranks.call("gradient", (), torch.zeros(size), None, everyone)
                torch.from_numpy(answer["gradient"]).mean(0)
                parts.setdefault("call", []).append(time.process_time() - clock)
            seconds = {name: float(np.median(part)) / (ranks.size - 1) for name, part in parts.items()}
            seconds["reduce"] = seconds.pop("call") - seconds["send"] - seconds["receive"]
            found[4 * size] = seconds
        print(json.dumps(found))


def _timed(ranks: Ranks, name: str, wait: float) -> list[float]:
    """CPU seconds of each later call of a method of the roster; what is waited before takes none."""
    method, found = getattr(ranks.roster, name), []

    def timed(*arguments: Any, **options: Any) -> Any:
        time.sleep(wait)
        clock = time.process_time()
        try:
            return method(*arguments, **options)
        finally:
            found.append(time.process_time() - clock)

    setattr(ranks.roster, name, timed)
    return found


def measured_ranks(count: int) -> dict[int, dict[str, float]]:
    """CPU seconds of the master for each of `count` ranks: bytes -> "send", "receive", "reduce"."""
    command = [MPIRUN, "-n", count, "--mca", "btl", "self,tcp", sys.executable, __file__, "--rank"]
    ended = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return {int(size): seconds for size, seconds in json.loads(ended.stdout.splitlines()[-1]).items()}


def fitted(by_ranks: dict[int, dict[int, dict[str, float]]]) -> dict[str, Line]:
    """Of the most ranks that were measured, what a message of each part costs."""
    seconds = by_ranks[max(by_ranks)]
    sizes = np.array(list(seconds))
    lines = {}
    for part in ("send", "receive", "reduce"):
        byte, message = np.polyfit(sizes, [of_size[part] for of_size in seconds.values()], 1)
        lines[part] = Line(max(float(message), 0.0), max(float(byte), 0.0))
    return lines


class Prediction(NamedTuple):
    """Seconds of an iteration: computing on the ranks, messages, and what the master does alone."""

    computing: float
    messages: float
    alone: float

    @property
    def total(self) -> float:
        return self.computing + self.messages + self.alone


def predicted(work: Workload, lines: dict[str, Line], network: Network, ranks: int, tasks: int = 1) -> Prediction:
    """An iteration on `ranks` ranks, of so many tasks each."""
    messages = 0.0
    for phase in work.phases.values():
        others = phase.times * (ranks - 1)
        answered = tasks * phase.answered
        for part, size in (("send", phase.sent), ("receive", answered)):
            messages += others * max(lines[part].seconds(size), size / network.bandwidth)
        messages += others * lines["reduce"].seconds(answered)
        # There, a look of the rank, and back; a large message asks the other side first, and waits for its look.
        messages += phase.rounds * (4 * network.latency + 3 * SECONDS_BETWEEN_LOOKS)
    computing = tasks * sum(phase.times * phase.seconds for phase in work.phases.values())
    return Prediction(computing, messages, work.alone)


def ranks_until(share: float, work: Workload, lines: dict[str, Line], network: Network, tasks: int) -> int:
    """The number of ranks from which on messages take more than a share of an iteration."""
    ranks = 2
    while (found := predicted(work, lines, network, ranks, tasks)).messages <= share * found.total:
        ranks += 1
    return ranks


def report(works: dict[str, Workload], by_ranks: dict[int, dict[int, dict[str, float]]]) -> None:
    """Print what was measured, and what is predicted from it."""
    print("one call, one task: bytes to a rank and from it, CPU seconds of the rank; times an iteration")
    for name, work in works.items():
        for phase, of in work.phases.items():
            print(f"  {name}, {phase}: {of.sent:,.0f} and {of.answered:,.0f} bytes, {of.seconds:.4f} s; {of.times}")
        print(f"  {name}, the master alone: {work.alone:.4f} s")
    print("CPU of the master for each rank in a call, µs: send + receive + reduce")
    for ranks, seconds in by_ranks.items():
        of_size = (f"{size:,} bytes {_in_us(parts)}" for size, parts in seconds.items())
        print(f"  {ranks} ranks: {'; '.join(of_size)}")
    lines = fitted(by_ranks)
    for part, line in lines.items():
        print(f"  {part}: {1e6 * line.message:.0f} µs + {1e9 * line.byte:.2f} µs a kilobyte")
    for name, work in works.items():
        for title, network in NETWORKS.items():
            found = {ranks: predicted(work, lines, network, ranks) for ranks in PREDICTED}
            row = "  ".join(f"{ranks}: {of.total:.3g} s {of.computing / of.total:.0%}" for ranks, of in found.items())
            print(f"{name}, {title}: {row}")
            for tasks in (1, 8):
                limits = " and ".join(str(ranks_until(share, work, lines, network, tasks)) for share in (0.2, 0.5))
                print(f"  {tasks} a rank: messages take a fifth, and half, of an iteration from {limits} ranks on")


def _in_us(parts: dict[str, float]) -> str:
    return " + ".join(f"{1e6 * parts[part]:.0f}" for part in ("send", "receive", "reduce"))


def draw(path: Path, works: dict[str, Workload], lines: dict[str, Line]) -> None:
    """Seconds of an iteration, and the share of it in which the ranks compute, by the number of ranks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (seconds, share) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for number, (name, work) in enumerate(works.items()):
        for network, style in zip(NETWORKS.values(), ("-", "--"), strict=True):
            found = [predicted(work, lines, network, ranks) for ranks in PREDICTED]
            label = name if style == "-" else None
            width = 1.5 if number else 4.0  # two of the workloads nearly coincide
            look = {"color": f"C{number}", "linestyle": style, "linewidth": width, "marker": ".", "label": label}
            seconds.plot(PREDICTED, [of.total for of in found], **look)
            share.plot(PREDICTED, [of.computing / of.total for of in found], **look)
    for axes, what in ((seconds, "seconds of an iteration"), (share, "share in which ranks compute")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(PREDICTED, [str(ranks) for ranks in PREDICTED])
        axes.set_xlabel("ranks, one task each")
        axes.set_title(what, fontsize=10)
        axes.grid(alpha=0.3)
    seconds.set_yscale("log")
    share.set_ylim(0, 1)
    seconds.legend(fontsize=8)
    styles = [pyplot.Line2D([], [], color="grey", linestyle=style) for style in ("-", "--")]
    share.legend(styles, list(NETWORKS), fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    if "--rank" in sys.argv:
        return measure_ranks()
    parser = Parser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, metavar="PICTURE", help="a file to draw the predictions to")
    picture = parsed(parser).picture
    if picture is not None and not picture.parent.is_dir():
        refuse(UsageError("PICTURE", expected="a file in a folder that exists", got=str(picture)))
    works = {name: workload(*case) for name, case in CASES.items()}
    by_ranks = {ranks: measured_ranks(ranks) for ranks in STARTED}
    report(works, by_ranks)
    if picture is not None:
        draw(picture, works, fitted(by_ranks))


if __name__ == "__main__":
    main()
