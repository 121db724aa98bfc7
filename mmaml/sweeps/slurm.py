"""The runs of a sweep as a job array of Slurm's, by submitit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmaml.errors import UsageError
from mmaml.sweeps.grid import SweepRun

CLUSTER = "slurm"


class RunJob:
    """One run, as a job has it. command: the words that start it, and continue it after an interruption."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = [*command], log

    def __call__(self) -> None:
        """Run it to its end. Raises CalledProcessError if it fails, so that the job counts as failed."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            subprocess.run(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue before a time limit, or when the job is preempted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    runs: Sequence[SweepRun],
    command: Callable[[SweepRun], list[str]],
    folder: Path,
    jobs: int | None,
    options: Mapping[str, Any],
    cluster: str = CLUSTER,
) -> list[str]:
    """Submit all runs as one array, and do not wait for them; the numbers of their jobs.

    jobs: how many may run at a time, None for all. options: of sbatch, as submitit names them. cluster: submitit's name
    of what runs them. Raises UsageError where Slurm or an option is not there.
    """
    import submitit

    given = {f"{CLUSTER}_{name}": value for name, value in options.items()}
    limits = {} if jobs is None else {f"{CLUSTER}_array_parallelism": jobs}
    try:
        executor = submitit.AutoExecutor(folder=folder / "slurm" / "%j", cluster=cluster)
        executor.update_parameters(name=folder.name, tasks_per_node=1, **limits, **given)
        submitted = executor.map_array(
            lambda job: job(), [RunJob(command(run), folder / f"{run.name}.log") for run in runs]
        )
    except (NameError, TypeError) as error:
        raise UsageError("--slurm", str(error), "give options of sbatch as submitit names them") from error
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise UsageError("--slurm", str(error), "sweep without --slurm on a machine that has no Slurm") from error
    return [job.job_id for job in submitted]
