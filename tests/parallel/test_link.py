"""Waiting for messages that are slow, or never come, and knowing the process of a rank."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

from mmaml.launcher import job
from mmaml.parallel import link, peers
from mmaml.parallel.link import Link, RankLost, Timeout
from mmaml.parallel.peers import Roster
from mmaml.parallel.process import Process
from tests.helpers.waiting import wait_until


class Clock:
    """Stands for the module `time`: seconds pass only where they are waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


class Slow:
    """Stands for a communicator: what arrives, part by part, each so many seconds after it was asked for."""

    def __init__(self, *parts: tuple[float, np.ndarray]) -> None:
        self._parts = list(parts)

    def Irecv(self, buffer: np.ndarray, source: int) -> tuple[float, np.ndarray, np.ndarray]:  # noqa: N802
        seconds, content = self._parts.pop(0)
        return CLOCK.monotonic() + seconds, buffer, content


def _all_came(requests: list[Any]) -> bool:
    came = all(CLOCK.monotonic() >= due for due, _, _ in requests)
    for _, buffer, content in requests if came else ():
        buffer[...] = content
    return came


@pytest.fixture(autouse=True)
def no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = SimpleNamespace(Testall=_all_came)
    monkeypatch.setattr(link, "MPI", SimpleNamespace(Request=requests, Exception=link.MPI.Exception))
    monkeypatch.setattr(link, "MOMENT", 0.1)
    for module in (link, peers):
        monkeypatch.setattr(module, "time", CLOCK)


def message(first: float, rest: float) -> Link:
    """A link on which a message comes: its length after some seconds, the array beside it after some more."""
    return Link(Slow(*parts(first, rest)), 1)  # type: ignore[arg-type]


def parts(first: float, rest: float) -> list[tuple[float, np.ndarray]]:
    array = np.arange(6.0).reshape(2, 3)
    text = np.frombuffer(cloudpickle.dumps(("ten", [(array.shape, array.dtype)])), np.uint8)
    return [(first, np.array([text.size])), (0, text), (rest, array)]


def test_of_ranks_that_answer_none_is_lost_by_how_long_an_answer_takes_to_arrive() -> None:
    timeout = Timeout(0.5)
    for one in (message(0.1, 0.4), message(0, 0.4), message(0, 0.4)):
        content, arrays = one.receive(timeout)
        assert content == "ten" and arrays[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert timeout.spent < 0.5


@pytest.mark.parametrize("link", [message(60, 0), message(0, 60)], ids=["silent", "stuck"])
def test_a_rank_that_says_nothing_or_no_more_is_lost(link: Link) -> None:
    with pytest.raises(RankLost, match=r"no answer for 0.2 s"):
        link.receive(Timeout(0.2))


def test_silent_ranks_share_their_seconds() -> None:
    timeout = Timeout(0.3)
    waited = []
    for one in (message(60, 0), message(60, 0)):
        with pytest.raises(RankLost) as lost:
            one.receive(timeout)
        waited.append(lost.value.waited)
    assert waited[0] > 0.3 > waited[1]


def test_a_master_waits_for_all_silent_ranks_together() -> None:
    reported: list[str] = []
    roster = Roster(Slow(*[(60, np.array([0]))] * 5), 6, reported.append)  # type: ignore[arg-type]
    assert not roster.receive(roster.ranks, "collect", seconds=4.0)
    roster.report_losses()
    assert len(reported) == 5 and roster.ranks == []
    assert 4.0 < roster.seconds_lost < 4.0 + 5 * (link.MOMENT + 0.01)


def test_arrays_of_all_ranks_come_at_the_same_time() -> None:
    roster = Roster(Slow(*5 * parts(0, 0.4)), 6, pytest.fail)  # type: ignore[arg-type]
    begun = CLOCK.now
    found = roster.receive(roster.ranks, "meta_gradient", seconds=1.0)
    assert [content for content, _ in found.values()] == ["ten"] * 5
    assert all(arrays[0].tolist() == [[0, 1, 2], [3, 4, 5]] for _, arrays in found.values())
    assert CLOCK.now - begun < 2 * 0.4


def test_a_process_is_known_by_its_start_too() -> None:
    """Another may have its number."""
    with subprocess.Popen(["sleep", "60"]) as program:
        found = wait_until(lambda: (seen := job.state_of(program.pid)) and seen.state == "S" and seen)
        same = Process.this()._replace(pid=program.pid, started=found.started)
        before = same._replace(started=found.started - 1)
        assert before.has_ended() and not same.has_ended()
        assert before.kill() == f"process {program.pid}, which has ended" and program.poll() is None
        assert same.kill() == f"process {program.pid}, sleeping, killed"
        assert program.wait() == -9
        assert same.has_ended()


@pytest.mark.parametrize(
    ("offered", "chosen"), [("munge,native", "native"), ("native", "native"), ("munge", "munge"), (None, None)]
)
def test_of_what_a_launcher_offers_the_security_that_every_pmix_has_is_chosen(
    offered: str | None, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {} if offered is None else {link.SECURITY: offered}
    monkeypatch.setattr(os, "environ", variables)
    link.choose_security()
    assert variables.get(link.SECURITY) == chosen
