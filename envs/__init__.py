"""Task families. Importing this package registers each with `gymnasium.make` (see `envs.registry`)."""

from __future__ import annotations

from envs.registry import register_all

register_all()
