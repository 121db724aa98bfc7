"""Meta-train RL²: a recurrent policy that learns while it acts, over the episodes of a trial (Duan et al. 2016).

python run_scripts/rl2_run.py --name experiment_name -c configs/rl2_ppo.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.named_run import script
from mmaml.cli.train import run

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(run("rl2", script=script("rl2_ppo")))
