"""What tests of evaluation share: a small run, and what an evaluation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmaml.config.loading import build_config
from mmaml.parallel.ranks import connect
from mmaml.trainer import train

SCRIPTS = Path(__file__).parents[2] / "run_scripts"
SMALL = {
    "n_itr": 2,
    "meta_batch_size": 4,
    "rollouts_per_meta_task": 3,
    "max_path_length": 12,
    "num_promp_steps": 1,
    "hidden_sizes": [8, 8],
    "cell_size": 6,
}


def small_run(path: Path, **changes: Any) -> Path:
    """Train in a moment; the directory."""
    train(build_config({**SMALL, "dump_path": str(path), **changes}), connect(parallel=False))
    return path


def returns_of(result: dict[str, Any]) -> np.ndarray:
    """Of each task at each stage, [M, C]."""
    return np.array([task["return"] for task in result["tasks"]])
