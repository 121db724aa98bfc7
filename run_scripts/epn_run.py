"""Meta-train EPN: a policy that plans over the transitions of its trial before every step (Ritter et al. 2021).

python run_scripts/epn_run.py --name experiment_name -c configs/epn_memory_planning.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for this checkout's mmaml

from mmaml.cli.named_run import script
from mmaml.cli.train import run

sys.path.pop(0)  # its folder envs must not hide a package `envs` of the user

if __name__ == "__main__":
    sys.exit(run("epn", script=script("epn_memory_planning")))
