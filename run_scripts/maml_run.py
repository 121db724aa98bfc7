"""Meta-train MAML by trust region (Finn et al. 2017), by the flags and defaults of the TensorFlow 2 port of MAML-RL,
github.com/schneimo/maml-rl-tf2.

python run_scripts/maml_run.py --env-name 2DNavigation-v0 --fast-lr 0.1 --num-batches 500 --gamma 0.99
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.maml_run import SCRIPT
from mmaml.cli.train import run

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(run("maml", script=SCRIPT))
