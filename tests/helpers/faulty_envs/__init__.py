"""Environments and families with one fault each, to be found by the examination; `Sound` and `SoundBlock` have none."""

from __future__ import annotations

from typing import Any

from tests.helpers.faulty_envs import answers, declared, families, process, sound, tasks
from tests.helpers.faulty_envs.sound import Sound as Sound
from tests.helpers.faulty_envs.sound import SoundBlock as SoundBlock

MODULES = (sound, declared, answers, tasks, process, families)
BASES = {"Steps", "BlockSteps"}
PROBES: dict[str, Any] = {
    name: value
    for module in MODULES
    for name, value in vars(module).items()
    if getattr(value, "__module__", "") == module.__name__ and name not in BASES
}


def place(probe: str) -> str:
    """Where a probe is, as a config names it."""
    return f"{PROBES[probe].__module__}:{probe}"
