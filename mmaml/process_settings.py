"""What a process has to be for its results to have the same bits on any number of ranks, and to be fast."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MKL_MODE = "MKL_CBWR"
# Which signal UCX, a part of some MPI libraries, takes for itself, when it is loaded: SIGHUP unless this says none.
UCX_SIGNAL = ("UCX_DEBUG_SIGNO", "0")
# mallopt(3): M_TRIM_THRESHOLD and M_TOP_PAD, bytes; M_MMAP_MAX, so that blocks of any size are kept.
ALLOCATOR = {-1: 1 << 30, -2: 1 << 26, -4: 0}


def prepare_process() -> None:
    """Fix the arithmetic of this process; call it before NumPy or torch load, when a run starts.

    One thread a rank: results do not depend on how tasks are split over ranks. MKL's strict mode: its products
    otherwise depend on where in memory a matrix lies, hence on a task's index in its batch. An allocator that keeps
    large blocks: the meta-gradient's buffers are not returned to the kernel and faulted in again at every epoch. And no
    library that takes SIGHUP, by which a run whose terminal is closed is asked to stop.
    """
    os.environ.setdefault(*UCX_SIGNAL)
    for variable in THREADS:
        os.environ[variable] = "1"
    os.environ.setdefault(MKL_MODE, "AUTO,STRICT")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # a libc without it (musl) is left as it is
        if mallopt is not None:
            for parameter, value in ALLOCATOR.items():
                mallopt(parameter, value)


def end_without_collection() -> None:
    """Have this process end without a last search for unreachable objects: 0.3 CPU seconds where torch is loaded.

    Its memory goes back to the kernel all the same. For processes of our own alone: objects of another program that
    close something when they are collected would not be.
    """
    atexit.register(gc.freeze)


@contextmanager
def prepared_process() -> Iterator[None]:
    """Prepare a process that belongs to another program, and restore it at the end as far as possible.

    NumPy and torch may be loaded already. What stays: MKL's mode, which it reads once, when it first computes; the
    allocator's; and NumPy's single thread, if NumPy was not loaded before. What cannot be set: MKL's mode, if it has
    computed before; NumPy's threads, if it was loaded before and the package threadpoolctl is not installed.
    """
    with ExitStack() as stack:
        stack.callback(_set_environment, {name: os.environ.get(name) for name in (*THREADS, MKL_MODE, UCX_SIGNAL[0])})
        os.environ.setdefault(MKL_MODE, "AUTO,STRICT")
        if "numpy" not in sys.modules:
            os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import torch  # with the host's number of threads, to return to it

        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        try:
            import threadpoolctl
        except ImportError:
            pass
        else:
            stack.enter_context(threadpoolctl.threadpool_limits(1))
        prepare_process()
        yield


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
