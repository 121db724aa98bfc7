"""The pictures of one run: its learning curves, and how adaptation changes its trajectories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmaml.figures import curves
from mmaml.storage.checkpoint_format import CheckpointError
from mmaml.storage.layout import PROGRESS
from mmaml.written_paths import as_written

if TYPE_CHECKING:
    from mmaml.envs.spec import EnvSpec

CURVES, TRAJECTORIES = "learning_curves.png", "trajectories.png"


def draw_run(run: Path, env_spec: EnvSpec | None = None) -> None:
    """Write the learning curves and, for point masses, the trajectories of a run into its directory.

    env_spec: that of the run's task family, where it is known already.
    Nothing is drawn if no iteration was logged there, as after a finished run was continued in a new directory.
    """
    if not (run / PROGRESS).exists():
        return
    config, curve = curves.read_run(run, "")
    curves.plot_curves(curves.group_runs([(config, curve)]), run / CURVES, title=str(config["env"]))
    print(as_written(run / CURVES))
    draw_trajectories(run, run / TRAJECTORIES, env_spec=env_spec)


def draw_trajectories(run: Path, path: Path, rollouts_per_task: int = 20, env_spec: EnvSpec | None = None) -> None:
    """Write the trajectories of a run, if its environment is a point mass and it has a checkpoint."""
    from mmaml.evaluation.held_out import restore  # loads torch, after the curves are written
    from mmaml.figures.recording import point_mass_trajectories
    from mmaml.figures.trajectories import plot_trajectories

    try:
        config, state = restore(run, env_spec)
    except CheckpointError as error:
        print(f"note: no trajectories are drawn: {error}", file=sys.stderr)
        return
    trajectories = point_mass_trajectories(config, state, rollouts_per_task)
    if trajectories is not None:
        title = f"{config.algorithm} on {config.env} after {state['iteration']} iterations"
        plot_trajectories(trajectories, path, title=title)
        print(as_written(path))
