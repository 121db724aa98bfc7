"""Shared by all tests: the process they run in, and how they are divided among processes."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load

# The program that starts the tests may ignore these signals, as a shell does for background jobs; processes that tests
# start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)

MARKS_BY_TIME = ("ranks", "slow", "learn", "fuzz")  # the longest first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first."""
    items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in MARKS_BY_TIME])


class ByFile(LoadScopeScheduling):
    """Gives each process all tests of a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)
