"""How many steps a rank computes at a time, and holds what it prepared for; without torch, for the check of memory."""

from __future__ import annotations

# Steps of a chunk of tasks on the CPU: enough that calls cost little, few enough to bound memory.
CPU_CHUNK_STEPS = 40_000
# Steps of a rank's tasks up to which what was prepared for many vectors is held, which bounds its memory.
KEPT_STEPS = 10 * CPU_CHUNK_STEPS


def tasks_held(tasks: int, steps_per_task: int) -> int:
    """Of how many tasks of a rank what was prepared is held at a time; of one chunk at least, while it is computed."""
    chunk = max(1, CPU_CHUNK_STEPS // steps_per_task)
    return min(tasks, max(chunk, KEPT_STEPS // (chunk * steps_per_task) * chunk))
