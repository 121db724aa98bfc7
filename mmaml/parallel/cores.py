"""The processor cores that a process may use, and how the ranks of a machine share them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import NamedTuple

CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


class Cores(NamedTuple):
    """Physical cores that a process may use.

    names: of those of its affinity, by their hardware threads. limit: CPUs' worth of time that its container is given.
    """

    names: frozenset[str]
    limit: float

    @staticmethod
    def allowed() -> Cores:
        """Those of this process."""
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return Cores(frozenset(_hardware_threads(cpu) for cpu in cpus), _cpu_quota())


def physical_cores() -> int:
    """Physical cores that this process may use: those of its affinity, no more than its container's share."""
    return fewest_each([Cores.allowed()])


def fewest_each(ranks: Sequence[Cores]) -> int:
    """How many cores each rank of a machine may keep busy, of the rank that has fewest; at least 1.

    Ranks that may use the same core share it evenly, so that ranks bound to cores of their own have these alone.
    """
    users = Counter(name for cores in ranks for name in cores.names)
    shares: list[float] = []
    for cores in ranks:
        alike = Counter(users[name] for name in cores.names)  # by how many ranks share them
        share = sum((Fraction(number, sharing) for sharing, number in alike.items()), Fraction())
        shares.append(min(floor(share), cores.limit / len(ranks)))
    return max(1, int(min(shares)))


def _hardware_threads(cpu: int) -> str:
    """The hardware threads of the core that `cpu` belongs to, as one text; `cpu` alone if that is unknown."""
    try:
        return (CPU_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cpu_quota() -> float:
    """CPUs' worth of time that the container is given; infinite without a limit."""
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (CGROUP / quota_file).read_text().split()
            if period_file is not None:
                words += (CGROUP / period_file).read_text().split()
            quota, period = words
            return float("inf") if quota in ("max", "-1") else int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return float("inf")
