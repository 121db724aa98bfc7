"""Meta-train MGRL: an actor-critic that learns the γ and λ of its own returns (Xu, van Hasselt, Silver 2018).

python run_scripts/mgrl_run.py --name experiment_name -c configs/mgrl_cartpole.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.named_run import script
from mmaml.cli.train import run

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(run("mgrl", script=script("mgrl_cartpole")))
