"""Measure a trained run on held-out tasks: the same as `mmaml evaluate`.

python run_scripts/evaluate.py --restore_path data/run1
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.evaluate import main

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(main())
