"""Draw learning curves and trajectories of runs: the same as `mmaml plot`.

python run_scripts/plot.py data/run1 data/run2
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.plot import main

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(main())
