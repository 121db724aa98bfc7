"""MPI-parallel meta-reinforcement learning: ProMP and MMAML.

Importing this package fixes the process's arithmetic before NumPy or torch load: one thread per rank, so
that results do not depend on how tasks are split over ranks, and an allocator that keeps large blocks,
so that the meta-gradient's buffers are not returned to the kernel and faulted in again at every epoch.
"""

from __future__ import annotations

import ctypes
import os
import sys

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# MKL's products otherwise depend on where in memory a matrix lies, hence on a task's place in its batch.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if sys.platform == "linux":
    # mallopt(3): M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD. A libc without it (musl) is left as it is.
    _mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if _mallopt is not None:
        for _parameter, _bytes in ((-1, 1 << 30), (-2, 1 << 26), (-3, 1 << 25)):
            _mallopt(_parameter, _bytes)

__version__ = "0.1.0"
