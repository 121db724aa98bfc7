"""The ranks that the master can count on: sending to them, hearing from them, and what becomes of those it loses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from mmaml.errors import Failure
from mmaml.parallel.cores import Cores, fewest_each
from mmaml.parallel.link import MPI, Link, RankLost, Timeout
from mmaml.parallel.process import Process

Result = TypeVar("Result")
# Until the configuration says how long a rank may take to answer, and for ranks to come through their start.
FIRST_TIMEOUT = 600.0


class Listener(Protocol):
    """What lost ranks and tasks whose environments fail are reported to."""

    def warn(self, text: str) -> None:
        """A line for the user."""

    def task_failed(self, index: int, failure: Failure) -> None:
        """The environment of an item raised; the others go on without it, unless this raises."""


class Loss(NamedTuple):
    """What is to be said of a rank that was lost, and the seconds that went by in waiting for it."""

    text: str
    waited: float


class Roster:
    """The other ranks, as the master sees them; a rank that is lost is no longer among `ranks`.

    size: how many there were, the master with them. rank_timeout: seconds without an answer after which a rank is lost.
    warn: takes a line for each loss. machines: on how many all are, once they have met. seconds_lost: that losses have
    cost. owing: ranks that owe an answer.
    """

    def __init__(self, comm: MPI.Comm, size: int, warn: Callable[[str], None]) -> None:
        self.size = size
        self.rank_timeout = FIRST_TIMEOUT
        self._warn = warn
        self.machines = 1
        self.seconds_lost = 0.0
        self.owing: set[int] = set()
        self._links = {rank: Link(comm, rank) for rank in range(1, size)}
        self._gone: list[Link] = []
        self._losses: list[Loss] = []  # not yet reported
        self._noticed: float | None = None  # when the first of them was done with

    @property
    def ranks(self) -> list[int]:
        """Those that answer, as far as is known."""
        return [*self._links]

    def meet(self) -> int:
        """Learn where the ranks are. Equal bits are promised on equal processors: unlike ones are reported.

        Returns how many cores each rank may keep busy, of the rank that has fewest.
        """
        capabilities = {str(Process.this().capability)}
        cores = {Process.this().machine: [Cores.allowed()]}
        for rank, ((process, allowed), _) in self.receive(self.ranks, "the start", FIRST_TIMEOUT).items():
            self._links[rank].process = process
            capabilities.add(str(process.capability))
            cores.setdefault(process.machine, []).append(allowed)
        self.report_losses()
        self.machines = len(cores)
        if len(capabilities) > 1:
            self._warn(
                f"warning: ranks run on unlike processors {sorted(capabilities)}; results may differ in the last bits "
                "from those on another number of ranks"
            )
        return min(map(fewest_each, cores.values()))

    def send(self, messages: Mapping[int, tuple[Any, Iterable[np.ndarray]]], phase: str) -> None:
        """Send each rank a message of its own, and wait until all have gone. phase: for what is said of a loss."""
        for rank, (content, arrays) in messages.items():
            self._attempt(rank, phase, partial(Link.send, content=content, arrays=arrays))
        timeout = Timeout(self.rank_timeout)
        for rank in messages:
            self._attempt(rank, phase, partial(Link.finish_sending, timeout=timeout))

    def receive(
        self, ranks: Iterable[int], phase: str, seconds: float | None = None
    ) -> dict[int, tuple[Any, list[np.ndarray]]]:
        """A message of each rank that is not lost. phase: what they are doing. seconds: by default rank_timeout.

        All arrays begin to come before the first are waited for: a transfer is a few exchanges, each of which takes as
        long as until the other side looks again.
        """
        timeout = Timeout(self.rank_timeout if seconds is None else seconds)
        contents = {rank: self._attempt(rank, phase, partial(Link.begin_receiving, timeout=timeout)) for rank in ranks}
        arrays = {rank: self._attempt(rank, phase, Link.finish_receiving) for rank in contents}
        if self._losses and self._noticed is None:
            self._noticed = time.perf_counter()
        return {rank: (contents[rank], found) for rank, found in arrays.items() if found is not None}

    def report_losses(self) -> None:
        """Report the ranks that were lost since the last report; what it took to do without them ends now."""
        again = 0.0 if self._noticed is None else time.perf_counter() - self._noticed
        for text, waited in self._losses:
            left = 1 + len(self._links)
            self._warn(f"warning: {text}; {left} of {self.size} ranks go on with its work, {waited + again:.2f} s")
        self.seconds_lost += again + sum(loss.waited for loss in self._losses)
        self._losses, self._noticed = [], None

    def end_those_at_work(self) -> None:
        """Give up the ranks that owe an answer: none will come."""
        for rank in self.owing & self._links.keys():
            self._gone.append(self._links.pop(rank))
            self._gone[-1].give_up()

    def _attempt(self, rank: int, phase: str, action: Callable[[Link], Result]) -> Result | None:
        """`action` of the link to a rank; None if the rank is, or was, lost."""
        if rank not in self._links:
            return None
        try:
            return action(self._links[rank])
        except RankLost as loss:
            self._gone.append(link := self._links.pop(rank))
            self.owing.discard(rank)
            process = link.give_up()
            where = f" ({process})" if loss.waited else ""
            self._losses.append(Loss(f"rank {rank} of {self.size} was lost in {phase}: {loss}{where}", loss.waited))
            return None
