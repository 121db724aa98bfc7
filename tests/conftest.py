"""Shared by all tests: the process they run in, and how they are divided among processes."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load

# The program that starts the tests may ignore these signals, as a shell does for background jobs; processes that tests
# start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)

MARKS_BY_TIME = ("ranks", "slow", "learn", "fuzz")  # the longest first


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the tests that start ranks on all cores into one group, which one process runs."""
    if item.get_closest_marker("ranks"):
        item.add_marker(pytest.mark.xdist_group("ranks"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first."""
    items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in MARKS_BY_TIME])


class ByFile(LoadGroupScheduling):
    """Gives each process a group of tests at a time, or all other tests of a file."""

    def _split_scope(self, nodeid: str) -> str:
        return super()._split_scope(nodeid).partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)
