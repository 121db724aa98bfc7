"""Show a run's policy moving, before and after adaptation: the same as `mmaml visualize`.

python run_scripts/visualize_policy.py --restore_path data/run1
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.visualize import main

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(main())
