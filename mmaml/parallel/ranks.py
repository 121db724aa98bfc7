"""The ranks of a run: dealing work to them, and going on without those that are lost.

One primitive carries everything: the master, rank 0, calls a named method of every rank's worker with flat
parameters, an optional flat vector and that rank's items; the results come back as arrays in the order of the items.
Items are dealt in consecutive blocks; what a worker makes of an item stays with it, for later calls on that item.

Messages (`mmaml.parallel.link`) go between the master and one other rank, never among others. So the loss of a rank is
seen by the master alone: it deals the lost items to the ranks that are left, and asks them for what the lost one was
asked. Results do not depend on who computed them, so the run ends as if nothing had happened.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from mmaml.errors import Failure, Interrupted, NotFinite, RunStopped, TasksFailed, UsageError, to_stderr
from mmaml.launcher.protocol import ENDED, LOST, REMEDY, report
from mmaml.parallel.cores import Cores
from mmaml.parallel.link import MPI, Link, RankLost, Timeout, all_lost, join
from mmaml.parallel.peers import FIRST_TIMEOUT, Listener, Roster
from mmaml.parallel.process import Process
from mmaml.parallel.requests import (
    Answer,
    Arrays,
    Dealt,
    Part,
    Released,
    Request,
    extending,
    in_order,
    partition,
    travelling,
)
from mmaml.parallel.shutdown import shutdown

Result = TypeVar("Result")
SECONDS_BEFORE_HIGHER_RANK = 0.3
# How long a rank waits for the master, which works alone now and then, in units of how long that waits for a rank.
TIMEOUTS_OF_MASTER = 5
# While the ranks are released: how long a signal may wait before it ends the process.
SECONDS_TO_RELEASE = 30.0


def connect(parallel: bool = True) -> Ranks:
    """Join the ranks that the launcher started; alone if `parallel` is false or nothing launched us."""
    torch.set_num_threads(1)
    if parallel:
        join()
    return Ranks(MPI.COMM_WORLD if parallel and MPI.Is_initialized() else MPI.COMM_NULL)


class MasterLost(Exception):
    """Rank 0 is gone, or has sent nothing for longer than the timeout."""


class WorkerError(RuntimeError):
    """A rank's worker failed; the text is its traceback."""


class _Stderr:
    """The listener where there is no other."""

    def warn(self, text: str) -> None:
        to_stderr(text)

    def task_failed(self, index: int, failure: Failure) -> None:
        raise WorkerError(f"the environment of task {index} failed:\n{failure.trace}")


class Ranks:
    """The ranks of a run.

    rank: which this is; size: how many were started; seconds_busy: of the slowest rank in all calls; cpu_seconds: of
    the other ranks in all calls. roster: on rank 0, the others. cores: how many each rank may keep busy, of the rank
    that has fewest; known once they have met.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self.rank: int = comm.Get_rank() if comm else 0
        self.size: int = comm.Get_size() if comm else 1
        self.seconds_busy = self.cpu_seconds = 0.0
        self.cores = 1
        self._listener: Listener = _Stderr()
        self.roster = Roster(comm, self.size if self.rank == 0 else 1, lambda text: self._listener.warn(text))
        self._master = Link(comm, 0)
        self._timeout = TIMEOUTS_OF_MASTER * FIRST_TIMEOUT
        self._remedy = "start again"
        self._worker: Any = None
        self._agreed_failure: Exception | None = None
        self._master_works = True
        self._dealt = Dealt(Request(""))

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Release the ranks that serve; end all of them if this one failed, those at work if it leaves before."""
        if isinstance(error, MasterLost):
            self._leave(error)
        in_order = error is None or error is self._agreed_failure
        in_order |= isinstance(error, RunStopped | Interrupted | SystemExit)
        in_order |= self.rank == 0 and isinstance(error, UsageError)
        if error is not None and self.size > 1 and not in_order:
            self._abort(error)
        if self.rank == 0 and self.size > 1:
            with shutdown.finishing(SECONDS_TO_RELEASE):
                self.roster.end_those_at_work()
                self._send_all(Released(RankLost.ever), "the end")
                self.roster.report_losses()

    def agree(self, function: Callable[[], Result]) -> Result:
        """`function()` of rank 0 on every rank; what it raises is raised on every rank."""
        return self._agree(function, lambda result: result)

    def on_master(self, function: Callable[[], Result]) -> Result | None:
        """`function()` on rank 0, where its result stays, None elsewhere; what it raises is raised on every rank."""
        return self._agree(function, lambda _: None)

    def _agree(self, function: Callable[[], Result], share: Callable[[Result], Any]) -> Any:
        """On rank 0 the result, on the others what is shared of it."""
        outcome: Any
        result: Result | None = None
        if self.rank == 0:
            try:
                result = function()
                outcome = (share(result), None, Process.this())
            except Exception as error:
                outcome = (None, error, Process.this())
            self._send_all(outcome, "the start")
            self.roster.report_losses()
        else:
            outcome = self._from_master_at_start()
        shared, failure, self._master.process = outcome
        if failure is not None:
            self._agreed_failure = failure
            raise failure
        return result if self.rank == 0 else shared

    def meet(self) -> None:
        """Learn where all ranks are, and which cores they may use. Every rank calls this once, before `serve`."""
        if self.rank == 0:
            self.cores = self.roster.meet()
            self._send_all(self.cores, "the start")
            self.roster.report_losses()
        else:
            self._to_master((Process.this(), Cores.allowed()))
            self.cores = self._from_master_at_start()

    def listen(self, listener: Listener) -> None:
        """Report lost ranks and failed tasks to `listener`. Before: to stderr, and a failed task ends the program."""
        self._listener = listener

    def set_timeout(self, rank_timeout: float, remedy: str) -> None:
        """How long a rank may take to answer, in seconds, and what a user is to do when the master is lost."""
        self.roster.rank_timeout = rank_timeout
        self._timeout, self._remedy = TIMEOUTS_OF_MASTER * rank_timeout, remedy
        if self.rank == 0:
            report(REMEDY, remedy)

    @property
    def indices(self) -> list[int]:
        """Indices of the items dealt last, in order, without those whose environments failed."""
        return self._dealt.indices

    def serve(self, worker: Any, master_works: bool = True) -> bool:
        """Offer `worker` to the master's calls. Rank 0 returns True at once, the others False at the end.

        master_works: rank 0 takes a share of the items too (always, when it is alone).
        """
        self._worker, self._master_works = worker, master_works
        if self.rank == 0:
            return True
        while not isinstance((message := self._from_master())[0], Released):
            asked, arrays = message
            flats = map(torch.from_numpy, arrays)
            parameters, vector = (next(flats) if given else None for given in asked.flats)
            answer = self._work(Request(asked.method, parameters, vector, asked.options), asked.items)
            fault = answer.fault
            if fault is not None and not isinstance(fault, NotFinite | TasksFailed):
                trace = "".join(traceback.format_exception(fault))
                fault = WorkerError(f"rank {self.rank} of {self.size} failed in {asked.method}:\n{trace}")
            self._to_master((list(answer.result), fault, answer.seconds, answer.cpu_seconds), answer.result.values())
        RankLost.ever |= message[0].others_lost
        return False

    # The master's side of a call.

    def call(
        self,
        method: str,
        items: Sequence[Any],
        parameters: Tensor | None = None,
        vector: Tensor | None = None,
        subset: Sequence[int] | None = None,
        **options: Any,
    ) -> Arrays:
        """worker.method(parameters, vector, its items, **options) on every rank; results [items, …] in order.

        subset: indices, ascending, of items of the last call without one. Each rank is then given those that it
        holds, counted from its own first, in place of items. Only rank 0 calls this.

        Items whose environment failed (the worker raised TasksFailed) are reported to the listener and left out, now
        and later. The items of ranks that are lost are dealt to others, with `extend=True` in the options where these
        hold some already. Raises NotFinite, of those that workers raised the first in order; what this rank's worker
        raised; or WorkerError.
        """
        flats = [None if v is None else v.detach().to("cpu", torch.float32).contiguous() for v in (parameters, vector)]
        request = Request(method, flats[0], flats[1], options)
        try:
            if subset is None:
                self._dealt = Dealt(request, items, {rank: [] for rank in self._samplers()})
                parts = self._deal(range(len(items)))
            else:
                parts = self._ask(request, subset)
        finally:
            self.roster.report_losses()
        return in_order(parts)

    def _deal(self, indices: Iterable[int]) -> list[Part]:
        """Deal items that no rank holds; their results."""
        dealt, parts, left = self._dealt, [], list(indices)
        failed: dict[int, Failure] = {}
        while left:
            ranks = self._samplers()
            blocks = zip(ranks, partition(len(left), len(ranks)), strict=True)
            shares = {rank: [left[i] for i in block] for rank, block in blocks if block}
            answers = self._exchange(
                {
                    rank: (extending(dealt.request, bool(dealt.held.get(rank))), [dealt.items[i] for i in share])
                    for rank, share in shares.items()
                }
            )
            left = []
            for rank, share in shares.items():
                if rank not in answers:
                    left += share + dealt.held.pop(rank, [])
                elif isinstance(fault := answers[rank].fault, TasksFailed):
                    failed |= {share[failure.item_index]: failure for failure in fault.failures}
                    left += [index for index in share if index not in failed]
                else:
                    dealt.held.setdefault(rank, []).extend(share)
                    parts.append(Part(share, answers[rank].result))
            left.sort()
        for index in sorted(failed):
            self._listener.task_failed(index, failed[index])
        return parts

    def _ask(self, request: Request, subset: Collection[int]) -> list[Part]:
        """What the ranks that hold the items say of them; the items of a lost rank are dealt again first.

        Raises NotFinite where the environment of such an item has failed since.
        """
        held, parts, left = self._dealt.held, [], set(subset)
        while left:
            if missing := left - set(self._dealt.indices):
                raise NotFinite(f"task {min(missing)}: sampled again after its rank was lost, its environment failed")
            shares = {rank: [i for i, index in enumerate(own) if index in left] for rank, own in held.items()}
            answers = self._exchange({rank: (request, share) for rank, share in shares.items() if share})
            for rank in answers:
                indices = [held[rank][i] for i in shares[rank]]
                parts.append(Part(indices, answers[rank].result))
                left.difference_update(indices)
            if left:
                lost = held.keys() - {0, *self.roster.ranks}
                self._deal(sorted(index for rank in lost for index in held.pop(rank)))
        return parts

    def _exchange(self, messages: Mapping[int, tuple[Request, list[Any]]]) -> dict[int, Answer]:
        """Ask ranks, and wait for all answers; those of lost ranks are missing. Raises what workers raised."""
        phase = next(iter(messages.values()))[0].phase
        others = {rank: travelling(*message) for rank, message in messages.items() if rank}
        self.roster.owing |= others.keys()
        self.roster.send(others, phase)
        answers = {0: self._work(*messages[0])} if 0 in messages else {}
        for rank, ((names, fault, *times), arrays) in self.roster.receive(others, phase).items():
            answers[rank] = Answer(dict(zip(names, arrays, strict=True)), fault, *times)
            self.cpu_seconds += answers[rank].cpu_seconds
        self.roster.owing.clear()
        self.seconds_busy += max((answer.seconds for answer in answers.values()), default=0.0)
        _raise_worst([answer.fault for answer in answers.values() if answer.fault is not None])
        return answers

    def _samplers(self) -> list[int]:
        """The ranks that take items."""
        others = self.roster.ranks
        return [0, *others] if self._master_works or not others else others

    # A rank's side of it.

    def _work(self, request: Request, items: Sequence[Any]) -> Answer:
        """This rank's part in a call."""
        clock, cpu = time.perf_counter(), time.process_time()
        result: Arrays = {}
        fault: Exception | None = None
        try:
            result = getattr(self._worker, request.method)(request.parameters, request.vector, items, **request.options)
        except Exception as error:
            fault = error
        return Answer(result, fault, time.perf_counter() - clock, time.process_time() - cpu)

    def _send_all(self, content: Any, phase: str) -> None:
        self.roster.send(dict.fromkeys(self.roster.ranks, (content, ())), phase)

    def _from_master_at_start(self) -> Any:
        message, _ = self._from_master()
        if isinstance(message, Released):
            raise SystemExit(1)  # interrupted, as the master says
        return message

    def _from_master(self) -> tuple[Any, list[np.ndarray]]:
        try:
            return self._master.receive(Timeout(self._timeout))
        except RankLost as loss:
            raise MasterLost(str(loss)) from loss

    def _to_master(self, content: Any, arrays: Iterable[np.ndarray] = ()) -> None:
        try:
            self._master.send(content, arrays)
            self._master.finish_sending(Timeout(self._timeout))
        except RankLost as loss:
            raise MasterLost(str(loss)) from loss

    def _leave(self, error: MasterLost) -> NoReturn:
        """End this rank; if our mpirun does not say why, the lowest that is left does."""
        if not report(LOST) and all_lost(self._comm, range(1, self.rank)):
            to_stderr(f"error: the master, rank 0 of {self.size}, was lost: {error}; {self._remedy}")
        os._exit(1)  # MPI's own end would wait for the lost

    def _abort(self, error: BaseException) -> NoReturn:
        """Print this rank's traceback and end every rank.

        What fails on all ranks is reported by the lowest: the others give it the time to end them first.
        """
        sys.stdout.flush()
        time.sleep(SECONDS_BEFORE_HIGHER_RANK * min(self.rank, 10))
        trace = f"rank {self.rank} of {self.size} failed:\n" + "".join(traceback.format_exception(error))
        to_stderr(str(error) if isinstance(error, WorkerError) else trace)
        report(f"{ENDED}.1")
        MPI.COMM_WORLD.Abort(1)
        raise SystemExit(1)


def _raise_worst(faults: Sequence[Exception]) -> None:
    """Raise the first error of a program, or else the first finding in order; failed tasks are for the caller."""
    for error in faults:
        if not isinstance(error, NotFinite | TasksFailed):
            raise error
    if findings := [fault for fault in faults if isinstance(fault, NotFinite)]:
        raise min(findings, key=lambda finding: finding.order)
