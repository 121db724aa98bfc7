"""Dealing work to ranks and doing without those that are lost, with workers whose right answers are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmaml.errors import Failure, NotFinite, TasksFailed
from mmaml.parallel.link import MPI
from mmaml.parallel.ranks import Ranks, connect
from mmaml.parallel.requests import Request
from mmaml.trainer import train
from mmaml.worker import Worker
from tests.helpers.faults import MPIRUN
from tests.helpers.support import Log, small_config

ROOT = Path(__file__).parents[2]


class Tens:
    """Holds items and gives ten times each. troubles: raised when an item comes to this worker; None: it fails."""

    def __init__(self, troubles: dict[int, Exception | None] | None = None) -> None:
        self.troubles = troubles or {}
        self.held: list[int] = []

    def hold(self, parameters: Any, vector: Any, items: Sequence[int], extend: bool = False) -> dict[str, np.ndarray]:
        for index, item in enumerate(items):
            if item in self.troubles:
                raise self.troubles[item] or TasksFailed([Failure(index, f"item {item}", "trace")])
        self.held = [*(self.held if extend else []), *items]
        return {"ten": 10 * np.array(items)}

    def evaluate(self, parameters: Any, vector: Any, items: Sequence[int], function: str) -> dict[str, np.ndarray]:
        return {"hundred": 100 * np.array([self.held[item] for item in items])}


class Present:
    """Stands for a roster whose ranks are in this process. loses: called before each answer of a rank."""

    def __init__(self, workers: dict[int, Ranks], loses: Callable[[int, str], bool]) -> None:
        self.workers, self.loses = workers, loses
        self.owing: set[int] = set()
        self._answers: dict[int, Any] = {}

    @property
    def ranks(self) -> list[int]:
        return [*self.workers]

    def send(self, messages: dict[int, tuple[Any, Iterable[np.ndarray]]], phase: str) -> None:
        for rank, (asked, _) in messages.items():
            if self.loses(rank, phase):
                self.workers.pop(rank, None)
            elif rank in self.workers:
                answer = self.workers[rank]._work(Request(asked.method, options=asked.options), asked.items)
                self._answers[rank] = (list(answer.result), answer.fault, 0.0, 0.0), [*answer.result.values()]

    def receive(self, ranks: Iterable[int], phase: str) -> dict[int, Any]:
        return {rank: self._answers.pop(rank) for rank in ranks if rank in self._answers}

    def report_losses(self) -> None:
        pass


def ranks_of(workers: list[Tens], loses: Callable[[int, str], bool] = lambda rank, phase: False) -> Ranks:
    """Rank 0 of as many ranks as there are workers."""
    all_ranks = [Ranks(MPI.COMM_NULL) for _ in workers]
    for ranks, worker in zip(all_ranks, workers, strict=True):
        ranks._worker = worker
    all_ranks[0].roster = Present(dict(enumerate(all_ranks[1:], start=1)), loses)  # type: ignore[assignment]
    return all_ranks[0]


def losing(*moments: tuple[int, int]) -> Callable[[int, str], bool]:
    """Loses rank r at its n-th message, for each (r, n)."""
    counts: dict[int, int] = {}

    def loses(rank: int, phase: str) -> bool:
        counts[rank] = counts.get(rank, 0) + 1
        return (rank, counts[rank]) in moments

    return loses


class Sent(Present):
    """Keeps what is sent to the only other rank."""

    def __init__(self) -> None:
        super().__init__({1: Ranks(MPI.COMM_NULL)}, lambda rank, phase: False)
        self.contents: list[Any] = []

    def send(self, messages: dict[int, tuple[Any, Iterable[np.ndarray]]], phase: str) -> None:
        self.contents += [content for content, _ in messages.values()]


def test_what_stays_on_the_master_is_sent_to_no_rank() -> None:
    """A checkpoint has the parameters and the moments of Adam, which no other rank needs; errors go to all."""
    ranks = Ranks(MPI.COMM_NULL)
    ranks.roster = sent = Sent()  # type: ignore[assignment]
    assert ranks.agree(lambda: "a configuration") == "a configuration"
    assert ranks.on_master(lambda: "a checkpoint") == "a checkpoint"
    assert [shared for shared, _, _ in sent.contents] == ["a configuration", None]
    with pytest.raises(ZeroDivisionError):
        ranks.on_master(lambda: 1 // 0)
    assert isinstance(sent.contents[-1][1], ZeroDivisionError)


EVERY = list(range(11))


@pytest.mark.parametrize(
    "moments",
    [(), ((1, 1),), ((2, 2),), ((1, 1), (2, 2)), ((1, 2), (2, 3)), ((3, 2), (1, 3), (2, 4)), ((1, 3), (2, 3), (3, 3))],
)
def test_every_item_is_answered_in_order_whichever_ranks_are_lost_and_when(moments: tuple[Any, ...]) -> None:
    ranks = ranks_of([Tens() for _ in range(4)], losing(*moments))
    assert ranks.call("hold", EVERY)["ten"].tolist() == [10 * item for item in EVERY]
    for tasks in (EVERY, [2, 3, 9], [7], EVERY[::2]):
        found = ranks.call("evaluate", (), subset=ranks.indices if tasks is None else tasks, function="hundred")[
            "hundred"
        ]
        assert found.tolist() == [100 * item for item in (EVERY if tasks is None else tasks)]
    assert ranks.indices == EVERY


def test_failed_items_are_reported_in_order_and_left_out_of_all_that_follows() -> None:
    ranks, log = ranks_of([Tens({0: None}), Tens({6: None}), Tens()]), Log()
    ranks.listen(log)
    assert ranks.call("hold", EVERY)["ten"].tolist() == [10 * item for item in EVERY if item not in (0, 6)]
    assert (log.failed, log.errors) == ([0, 6], ["item 0", "item 6"])
    assert ranks.indices == [item for item in EVERY if item not in (0, 6)]


@pytest.mark.parametrize("moments", [(), ((2, 1),), ((1, 1), (2, 1))])
def test_the_same_is_told_of_an_iteration_that_cannot_be_used_whichever_ranks_are_lost(
    moments: tuple[Any, ...],
) -> None:
    troubles = {0: None, 10: NotFinite("second", (1, 10)), 7: NotFinite("first", (0, 7))}
    ranks, log = ranks_of([Tens(troubles) for _ in range(3)], losing(*moments)), Log()
    ranks.listen(log)
    with pytest.raises(NotFinite, match="first"):
        ranks.call("hold", EVERY)
    assert log.failed == []


def test_a_task_whose_environment_fails_only_when_it_is_sampled_again_makes_no_shorter_result() -> None:
    workers = [Tens(), Tens(), Tens()]
    ranks, log = ranks_of(workers, losing((2, 2))), Log()
    ranks.listen(log)
    ranks.call("hold", EVERY)
    workers[0].troubles = workers[1].troubles = {8: None}
    with pytest.raises(NotFinite, match="task 8: sampled again after its rank was lost, its environment failed"):
        ranks.call("evaluate", (), subset=ranks.indices, function="hundred")
    assert log.failed == [8]


def test_the_error_of_a_program_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        ranks_of([Tens({0: ZeroDivisionError()}), Tens()]).call("hold", EVERY)


def test_a_rank_that_is_released_closes_its_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed: list[Worker] = []
    monkeypatch.setattr(Worker, "close", lambda worker: closed.append(worker))
    with connect(parallel=False) as ranks:
        monkeypatch.setattr(ranks, "serve", lambda worker, master_works: False)
        train(small_config(dump_path=str(tmp_path / "run")), ranks)
    assert len(closed) == 1


@pytest.mark.parametrize("ends", [False, True])
def test_the_worker_of_a_run_is_closed_once(ends: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def on_iteration(row: object) -> None:
        if ends:
            raise KeyError

    closed: list[Worker] = []
    monkeypatch.setattr(Worker, "close", lambda worker: closed.append(worker))
    with connect(parallel=False) as ranks, pytest.raises(KeyError) if ends else nullcontext():
        train(small_config(dump_path=str(tmp_path / "run"), n_itr=1), ranks, on_iteration)
    assert len(closed) == 1


# Ranks of mpirun. Each kind: the signal that ranks send themselves, at the first item that comes to them.
PROGRAM = """
import json, os, signal, sys, time
import numpy as np
from mmaml.parallel.ranks import connect
stopped, timeout, broken = json.loads(sys.argv[1])

class Tens:
    def hold(self, parameters, vector, items, extend=False):
        if ranks.rank in stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        if ranks.rank == broken:
            raise ZeroDivisionError("as asked")
        return {"ten": 10 * np.array(items)}

with connect() as ranks:
    ranks.set_timeout(timeout, "do as you are told")
    ranks.meet()
    if ranks.serve(Tens()):
        found = ranks.call("hold", range(20))["ten"].tolist()
        print(json.dumps([found, ranks.roster.ranks]))
"""


def launch(ranks: int, stopped: list[int], timeout: float, broken: int = -1) -> subprocess.CompletedProcess[str]:
    command = [MPIRUN, "-n", str(ranks), sys.executable, "-c", PROGRAM, json.dumps([stopped, timeout, broken])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.long
@pytest.mark.ranks
def test_several_silent_ranks_are_lost() -> None:
    ended = launch(7, [1, 2, 4, 5, 6], 4.0)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [[10 * item for item in range(20)], [3]]
    assert ended.stderr.count("was lost in hold: no answer for 4 s") == 5


@pytest.mark.long
@pytest.mark.ranks
def test_a_master_that_hangs_is_told_and_the_run_ended() -> None:
    ended = launch(3, [0], 1.0)
    assert ended.returncode not in (0, None)
    assert ended.stderr == "error: rank 0, the master, was lost; do as you are told\n"


@pytest.mark.ranks
def test_the_error_of_a_program_is_told_once_with_its_rank_and_ends_all() -> None:
    ended = launch(3, [], 60.0, broken=2)
    assert ended.returncode not in (0, None)
    assert ended.stderr.count("rank 2 of 3 failed in hold:\n") == ended.stderr.count("ZeroDivisionError: as asked") == 1
