"""The pictures of one run: its learning curves, and how its policy learns a task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmaml.errors import UsageError
from mmaml.figures import curves
from mmaml.storage.layout import PROGRESS
from mmaml.wording import counted
from mmaml.written_paths import as_written

if TYPE_CHECKING:
    from mmaml.envs.spec import EnvSpec

CURVES, TRAJECTORIES = "learning_curves.png", "trajectories.png"


def draw_run(run: Path, env_spec: EnvSpec | None = None) -> None:
    """Write the learning curves and, of families that have some, the trajectories of a run into its directory.

    env_spec: that of the run's task family, where it is known already.
    Nothing is drawn if no iteration was logged there, as after a finished run was continued in a new directory, nor
    what was drawn after the last iteration was.
    """
    if not (run / PROGRESS).exists():
        return
    if not _is_current(run / CURVES):
        config, curve = curves.read_run(run, "")
        curves.plot_curves(curves.group_runs([(config, curve)]), run / CURVES, title=str(config["env"]))
        print(as_written(run / CURVES))
    if not _is_current(run / TRAJECTORIES):
        draw_trajectories(run, run / TRAJECTORIES, env_spec=env_spec)


def _is_current(picture: Path) -> bool:
    """Whether a run's picture is there, and was written after the log."""
    log = picture.with_name(PROGRESS)
    return picture.exists() and picture.stat().st_mtime_ns >= log.stat().st_mtime_ns


def draw_trajectories(run: Path, path: Path, rollouts_per_task: int = 20, env_spec: EnvSpec | None = None) -> None:
    """Write a picture of what the policy of a run does, if its family has one and the run a checkpoint.

    A note on stderr says why not, also where the run's environment is not to be found here.
    """
    from mmaml.evaluation.held_out import restore  # loads torch, after the curves are written
    from mmaml.figures.family_pictures import picture_of
    from mmaml.figures.recording import sampled_stages

    try:
        config, state = restore(run, env_spec)
    except UsageError as error:
        print(f"note: no trajectories are drawn: {error}", file=sys.stderr)
        return
    assert config.env_spec is not None
    picture = picture_of(config.env_spec.family)
    if picture is not None:
        title = f"{config.algorithm} on {config.env} after {counted(state['iteration'], 'iteration')}"
        picture(sampled_stages(config, state, rollouts_per_task), path, title)
        print(as_written(path))
