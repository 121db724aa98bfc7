"""All of MPI.

One primitive carries everything: rank 0 calls a named method of every rank's worker with flat parameters, an
optional flat vector and that rank's items; the results come back as arrays in the order of the items. Items
are dealt in consecutive blocks, so item i of one call and item i of the next meet on the same rank.

Per call: one small broadcast (what to do), one broadcast of each flat vector, one scatter of the items, one
small gather (what came out), one gather of each result, without copies, straight into task order.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

Result = TypeVar("Result")

SECONDS_BEFORE_HIGHER_RANK = 0.3

MPI.pickle.__init__(cloudpickle.dumps, cloudpickle.loads)  # type: ignore[misc]


def connect(parallel: bool = True) -> Ranks:
    """Join the ranks that the launcher started; alone if `parallel` is false or nothing launched us."""
    torch.set_num_threads(1)
    return Ranks(MPI.COMM_WORLD if parallel else MPI.COMM_SELF)


def partition(items: int, ranks: int) -> list[range]:
    """Consecutive blocks, whose sizes differ by one at most; the first are the larger."""
    size, larger = divmod(items, ranks)
    starts = [rank * size + min(rank, larger) for rank in range(ranks + 1)]
    return [range(a, b) for a, b in zip(starts, starts[1:], strict=False)]


class Ranks:
    """The ranks of a run. rank: which this is; size: how many; seconds_busy: of the slowest rank in all calls."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.seconds_busy = 0.0
        self._worker: Any = None
        self._agreed_failure: Exception | None = None
        self._master_works = True
        self._blocks: list[range] = []

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Release the ranks that serve; if this rank failed, end all of them."""
        if error is not None and error is not self._agreed_failure and self.size > 1:
            self._abort(error)
        if self.rank == 0 and self._worker is not None:
            self._comm.bcast(None)

    def agree(self, function: Callable[[], Result]) -> Result:
        """`function()` of rank 0 on every rank; what it raises is raised on every rank."""
        outcome: tuple[Any, Exception | None] = (None, None)
        if self.rank == 0:
            try:
                outcome = (function(), None)
            except Exception as error:
                outcome = (None, error)
        result, failure = self._comm.bcast(outcome)
        if failure is not None:
            self._agreed_failure = failure
            raise failure
        return result

    @staticmethod
    def workers(size: int, master_works: bool) -> int:
        """How many of `size` ranks sample."""
        return size if master_works or size == 1 else size - 1

    def serve(self, worker: Any, master_works: bool = True) -> bool:
        """Offer `worker` to the master's calls. Rank 0 returns True at once, the others False at the end.

        master_works: rank 0 takes a share of the items too (always, when it is alone).
        """
        self._worker = worker
        self._master_works = master_works or self.size == 1
        self._warn_of_mixed_processors()
        if self.rank == 0:
            return True
        while (request := self._comm.bcast(None)) is not None:
            self._answer(*request)
        return False

    def call(
        self,
        method: str,
        items: Sequence[Any],
        parameters: Tensor | None = None,
        vector: Tensor | None = None,
        subset: Sequence[int] | None = None,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """worker.method(parameters, vector, its items, **options) on every rank; results [items, …] in order.

        subset: positions, ascending, into the items of the last call without one. Each rank is then given
        those of its own block, counted from the block's start, in place of items. Only rank 0 calls this.
        """
        if subset is None:
            workers = self.workers(self.size, self._master_works)
            self._blocks = partition(len(items), workers)
            if workers < self.size:
                self._blocks.insert(0, range(0))
            shares = [(0, [items[i] for i in block]) for block in self._blocks]
        else:
            shares = [(block.start, [i - block.start for i in subset if i in block]) for block in self._blocks]
        lengths = [None if value is None else value.numel() for value in (parameters, vector)]
        self._comm.bcast((method, lengths, options))
        return self._answer(method, lengths, options, [parameters, vector], shares)

    def evaluator(self) -> Callable[..., dict[str, np.ndarray]]:
        """`algorithms.base.Evaluate` on the rollouts where they were sampled: on all ranks."""

        def evaluate(
            function: str,
            parameters: Tensor,
            vector: Tensor | None = None,
            tasks: Sequence[int] | None = None,
            **options: Any,
        ) -> dict[str, np.ndarray]:
            every = range(self._blocks[-1].stop)
            chosen = every if tasks is None else tasks
            return self.call("evaluate", (), parameters, vector, chosen, function=function, **options)

        return evaluate

    def _answer(
        self,
        method: str,
        lengths: list[int | None],
        options: dict[str, Any],
        flats: Sequence[Tensor | None] = (None, None),
        shares: list[tuple[int, list[Any]]] | None = None,
    ) -> dict[str, np.ndarray]:
        """Every rank's part in a call. shares: per rank, where its block starts and its items."""
        received = [self._broadcast(flat, length) for flat, length in zip(flats, lengths, strict=True)]
        first, items = self._comm.scatter(shares)
        clock = time.perf_counter()
        result: dict[str, np.ndarray] = {}
        if items:
            try:
                result = getattr(self._worker, method)(*received, items, **options)
            except Exception as error:
                error.add_note(self._place(method, items, first, error))
                if self.size > 1:
                    self._abort(error)
                raise
        return self._gather(result, len(items), time.perf_counter() - clock)

    def _broadcast(self, flat: Tensor | None, length: int | None) -> Tensor | None:
        if length is None:
            return None
        buffer = torch.empty(length) if flat is None else flat.detach().to("cpu", torch.float32).contiguous()
        self._comm.Bcast(buffer.numpy())
        return buffer

    def _gather(self, result: dict[str, np.ndarray], items: int, seconds: float) -> dict[str, np.ndarray]:
        layout = {name: (value.shape[1:], value.dtype) for name, value in result.items()}
        reports = self._comm.allgather((items, layout, seconds))
        self.seconds_busy += max(report[2] for report in reports)
        counts = [report[0] for report in reports]
        layout = next((report[1] for report in reports if report[0]), {})
        return {name: self._gather_one(result.get(name), *layout[name], counts) for name in layout}

    def _gather_one(
        self, own: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype, counts: list[int]
    ) -> np.ndarray:
        """One result of all ranks, in the order of the items, on rank 0; elsewhere this rank's part."""
        part = np.empty((0, *shape), dtype) if own is None else np.ascontiguousarray(own)
        if self.size == 1:
            return part
        each = int(np.prod(shape, dtype=np.int64))
        gathered = np.empty((sum(counts), *shape), dtype) if self.rank == 0 else None
        receive = None if gathered is None else [gathered, [count * each for count in counts]]
        self._comm.Gatherv(part, receive)
        return part if gathered is None else gathered

    def _place(self, method: str, items: Sequence[Any], first: int, error: Exception) -> str:
        """Where it happened, for a reader of the traceback: rank, and task if the environment told."""
        tasks = [item[0] if isinstance(item, tuple) else first + item for item in items]
        if (failed := getattr(error, "task", None)) is not None:
            tasks = [tasks[failed]]
        which = f"task {tasks[0]}" if len(tasks) == 1 else f"tasks {tasks[0]} to {tasks[-1]}"
        return f"On rank {self.rank} of {self.size}, in {method} of {which}."

    def _abort(self, error: BaseException) -> None:
        """Print this rank's traceback and end every rank.

        What fails on all ranks is told by the lowest: the others give it the time to end them first.
        """
        time.sleep(SECONDS_BEFORE_HIGHER_RANK * min(self.rank, 10))
        sys.stdout.flush()
        sys.stderr.write(f"rank {self.rank} of {self.size} failed:\n" + "".join(traceback.format_exception(error)))
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)

    def _warn_of_mixed_processors(self) -> None:
        """Equal bits are promised on equal processors."""
        capability = (platform.machine(), torch.backends.cpu.get_cpu_capability(), os.environ.get("MKL_CBWR"))
        capabilities = self._comm.gather(capability)
        if capabilities is not None and len(set(capabilities)) > 1:
            print(
                f"warning: ranks run on unlike processors {sorted(set(map(str, capabilities)))}; results may "
                "differ in the last bits from those on another number of ranks",
                file=sys.stderr,
            )
