"""The names of a run's files and folders."""

from __future__ import annotations

from pathlib import Path

FOLDER = "checkpoints"
LOCK = ".lock"
PARAMS = "params.json"
PROGRESS = "progress.csv"
MESSAGES = "messages.log"
EVALUATION = "evaluation.json"
# Its entry "stage": of what its returns are, numbers of adaptation steps or episodes of a trial.
STAGES = ("adaptation step", "episode")
UNSAVED = "unsaved.json"


def run_directory(path: str | Path) -> Path:
    """The run's directory, given a checkpoint, its `checkpoints` directory or the run's directory itself."""
    path = Path(path)
    if not path.is_dir():
        path = path.parent
    return path.parent if path.resolve().name == FOLDER else path
