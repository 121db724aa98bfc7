"""The standard streams of a script, whatever the shell has made of them."""

from __future__ import annotations

import errno
import io
import os
import sys

from mmaml.errors import to_stderr

SIGPIPE_EXIT = 141  # what a shell reports of a program whose reader went away


def prepare() -> None:
    """Make every stream one that can be written to, in letters that it has.

    The numbers of streams that were closed (`>&-`) would else be given to the next files opened, and what a library
    prints would be written into these.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _discard(number)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (open as long as the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def finish() -> int:
    """Write out what is left of standard output; the exit code, not 0 if nobody reads it or its disk is full."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return refused(error)
    return 0


def is_of_stdout(error: OSError) -> bool:
    """Whether an error may have come of printing: files that scripts write tell of theirs themselves."""
    return error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC)


def refused(error: OSError) -> int:
    """Write no more to standard output, also not at exit, once it has refused; the exit code."""
    _discard(1)
    if isinstance(error, BrokenPipeError):
        return SIGPIPE_EXIT
    to_stderr(f"error: standard output: expected a place that can be written ({error.strerror})")
    return 1


def _discard(number: int) -> None:
    """Have a stream's number lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
