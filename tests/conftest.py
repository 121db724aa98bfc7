"""Shared by all tests."""

from __future__ import annotations

import mmaml  # noqa: F401  (fixes threads and MKL's mode, so it comes before NumPy and torch)
