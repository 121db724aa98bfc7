"""Shared by all tests."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load

# What starts the tests may ignore these, as a shell does in the background; processes under test are not to inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)


# Files whose tests start ranks on all cores: where several processes test, one of them runs all these, one by one.
STARTING_RANKS = {
    f"tests/{name}.py"
    for name in (
        "cli/test_cli parallel/test_calls parallel/test_lost_ranks parallel/test_ranks parallel/test_shutdown "
        "storage/test_bad_runs storage/test_resume test_hosts test_launcher test_leftovers test_mpirun"
    ).split()
}


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class ByFile(LoadScopeScheduling):
    """Deals files to processes, and those that start ranks together."""

    def _split_scope(self, nodeid: str) -> str:
        return "ranks" if _file(nodeid) in STARTING_RANKS else _file(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first."""
    items.sort(key=lambda item: _file(item.nodeid) not in STARTING_RANKS)
