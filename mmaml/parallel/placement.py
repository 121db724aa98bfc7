"""Where a run computes: for its first line, and for what it records."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmaml.wording import counted


class Placement(NamedTuple):
    """How many ranks a run started with, on how many machines, and where its meta-gradient is computed.

    meta_gradient: "ranks", or "master"; device: the master's, "cpu" or "cuda…". physics_threads: of each rank.
    """

    ranks: int = 1
    machines: int = 1
    meta_gradient: str = "ranks"
    device: str = "cpu"
    physics_threads: int = 1

    def __str__(self) -> str:
        where = "the ranks" if self.meta_gradient == "ranks" else f"the master ({self.device})"
        ranks = f"{counted(self.ranks, 'rank')} on {counted(self.machines, 'machine')}"
        if self.physics_threads > 1:
            ranks += f", {self.physics_threads} physics threads{' each' * (self.ranks > 1)}"
        return f"{ranks} · meta-gradient on {where}"

    def record(self) -> dict[str, Any]:
        """As it is written into a run's folder."""
        return self._asdict()


ALONE = Placement()
