"""The files of made-up runs, with returns and evaluations that are known, for reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmaml.evaluation.summary import summarise

PARAMS = {"algorithm": "mmaml", "env": "MetaPointEnvMomentumModes", "seed": 1, "learning_rate": 1e-3}
VERSIONS = {"python": "3.11.9", "torch": "2.13.0", "tensorboard": None}


def write_run(path: Path, returns: Sequence[Sequence[float]], cpu: bool = True, **changes: Any) -> Path:
    """A run with these returns [I, K+1] in its iterations of 1000 env steps, 2 s and 3 CPU seconds."""
    path.mkdir(parents=True)
    record = {**PARAMS, "n_itr": len(returns), "dump_path": str(path), **changes}
    record |= {"placement": {"ranks": 2}, "versions": VERSIONS, "git_commit": "0123abc-dirty"}
    (path / "params.json").write_text(json.dumps(record))
    names = ["Itr", "n_timesteps", "Time", *(["Time-CPU"] if cpu else [])]
    lines = [",".join(names + [f"Step_{step}-AverageReturn" for step in range(len(returns[0]))])]
    for index, row in enumerate(returns):
        cells = [index, 1000 * (index + 1), 2 * (index + 1), *([3] if cpu else []), *row]
        lines.append(",".join(map(str, cells)))
    (path / "progress.csv").write_text("\n".join(lines) + "\n")
    return path


def write_evaluation(
    run: Path,
    returns: np.ndarray,
    modes: Sequence[int],
    success: float | np.ndarray = np.nan,
    by_episode: bool = False,
    mode_names: Sequence[str] = (),
    **changes: Any,
) -> None:
    """evaluation.json with returns, and success, [M, K+1] of tasks of these modes [M]."""
    about: dict[str, Any] = {"iteration": 4, "split": "test", "num_adapt_steps": returns.shape[1] - 1}
    about["stage"] = "episode" if by_episode else "adaptation step"
    summary = summarise(returns, np.array(modes), np.broadcast_to(success, returns.shape), by_episode, mode_names)
    (run / "evaluation.json").write_text(json.dumps(about | changes | summary))
