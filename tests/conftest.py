"""Shared by all tests."""

from __future__ import annotations

import signal

import mmaml  # noqa: F401  (fixes threads and MKL's mode, so it comes before NumPy and torch)

# What starts the tests may ignore these, as a shell does in the background; processes under test are not to inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)
