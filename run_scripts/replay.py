"""Repeat the iteration whose numbers went bad and ended a run: the same as `mmaml replay`.

python run_scripts/replay.py data/run1/bad_update_000123.pt
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.replay import main

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(main())
