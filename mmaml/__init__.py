"""MPI-parallel meta-reinforcement learning.

Importing this package changes nothing in the process; starting a run does (`mmaml.process_settings`).
"""

from __future__ import annotations

__version__ = "0.2.0"
