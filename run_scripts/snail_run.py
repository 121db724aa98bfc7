"""Meta-train SNAIL: a policy that looks back over its trial by convolutions and attention (Mishra et al. 2018).

python run_scripts/snail_run.py --name experiment_name -c configs/snail_ppo.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.named_run import script
from mmaml.cli.train import run

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(run("snail", script=script("snail_ppo")))
