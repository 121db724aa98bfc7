"""Shared by all tests."""

from __future__ import annotations

import signal

import pytest

import mmaml  # noqa: F401  (fixes threads and MKL's mode, so it comes before NumPy and torch)

# What starts the tests may ignore these, as a shell does in the background; processes under test are not to inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes test, a file's tests stay together; those that start ranks come first, one at a time."""
    items.sort(key=lambda item: item.get_closest_marker("ranks") is None)
    for item in items:
        name = "ranks" if item.get_closest_marker("ranks") else item.path.name
        item.add_marker(pytest.mark.xdist_group(name))
