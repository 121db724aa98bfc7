"""Meta-train VariBAD: a policy that reads a belief about its task, inferred from rewards (Zintgraf et al. 2020).

python run_scripts/varibad_run.py --name experiment_name -c configs/grid_navi_varibad.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.named_run import script
from mmaml.cli.train import run

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(run("varibad", script=script("grid_navi_varibad")))
