"""The process of a rank: whether it is on this machine, whether it is alive, and ending it."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path
from typing import NamedTuple

import torch

from mmaml.launcher import job
from mmaml.policies import kernel


class Process(NamedTuple):
    """That of a rank: on which machine, and what its results' last bits depend on.

    started: in clock ticks since boot, None where there is no /proc to see it in.
    """

    pid: int
    started: int | None
    host: str
    machine: tuple[str, ...]
    capability: tuple[str | None, ...]

    @staticmethod
    def this() -> Process:
        """This process."""
        boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
        machine = (
            platform.node(),
            boot.read_text() if boot.exists() else "",
            os.readlink(namespace) if namespace.is_symlink() else "",
        )
        compiled = "kernel" if kernel.serves() else "no kernel"
        capability = platform.machine(), torch.backends.cpu.get_cpu_capability(), os.environ.get("MKL_CBWR"), compiled
        own = job.state_of(os.getpid())
        started = None if own is None else own.started
        return Process(os.getpid(), started, platform.node(), machine, capability)

    @property
    def is_near(self) -> bool:
        """Whether it is on this machine."""
        return self.machine == Process.this().machine

    def has_ended(self) -> bool:
        """Whether it is known to have ended; another may have its number by now."""
        return self.is_near and self.started is not None and not job.lives(self.pid, self.started)

    def kill(self) -> str:
        """End it if it is on this machine; what it was doing, or why it goes on, in words."""
        if not self.is_near:
            return f"on host {self.host}, where it cannot be killed from here"
        if self.has_ended():
            return f"process {self.pid}, which has ended"
        found = job.state_of(self.pid)
        state = "" if found is None else found.state
        doing = {"R": "running", "T": "stopped", "D": "waiting for a disk"}.get(state, "sleeping")
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError as error:
            return f"process {self.pid}, which cannot be killed ({error.strerror})"
        return f"process {self.pid}, {doing}, killed"
