"""What a process has to be for its results to have the same bits on any number of ranks, and to be fast."""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt(3): M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD.
ALLOCATOR_BYTES = {-1: 1 << 30, -2: 1 << 26, -3: 1 << 25}


def prepare_process() -> None:
    """Fix the arithmetic of this process; call it before NumPy or torch load, when a run starts.

    One thread a rank: results do not depend on how tasks are split over ranks. MKL's strict mode: its products
    otherwise depend on where in memory a matrix lies, hence on a task's index in its batch. An allocator that keeps
    large blocks: the meta-gradient's buffers are not returned to the kernel and faulted in again at every epoch.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # a libc without it (musl) is left as it is
        if mallopt is not None:
            for parameter, size in ALLOCATOR_BYTES.items():
                mallopt(parameter, size)
