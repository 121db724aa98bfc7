"""The runs of a sweep as a job array of Slurm's, by submitit."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmaml.config.value_types import Kind, integer, number
from mmaml.envs.shown import shown
from mmaml.errors import UsageError, text_of
from mmaml.sweeps.grid import SweepRun
from mmaml.wording import did_you_mean

CLUSTER = "slurm"
# How often submitit puts a job that has reached its time limit back into the queue. A run whose iterations all take
# longer than the limit does not go on for ever.
MAX_TIMEOUTS = 1000
# Options whose values submitit computes with, or by which Slurm would start every run several times.
_MINUTES = replace(integer(1), expected="minutes, a whole number ≥ 1")
_ONCE = replace(integer(1, 1), expected="1, as each run has one process")
KINDS = {"time": _MINUTES, "timeout_min": _MINUTES, "mem_gb": number(0, open_low=True)}
KINDS |= dict.fromkeys(("nodes", "tasks_per_node", "ntasks_per_node"), _ONCE)
KINDS |= {
    "cpus_per_task": integer(1),
    "additional_parameters": Kind("a mapping", lambda value: isinstance(value, dict)),
}


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
    of what runs them. Raises UsageError where Slurm or an option is not there, with nothing written.
    """
    import submitit

    _check(options, submitit.AutoExecutor._valid_parameters() | submitit.SlurmExecutor._valid_parameters())
    given = {
        f"{CLUSTER}_{name}": KINDS[name].convert(value) if name in KINDS else value for name, value in options.items()
    }
    limits = {} if jobs is None else {f"{CLUSTER}_array_parallelism": jobs}
    files = folder / "slurm"
    try:
        with _removed_if_it_fails(files), redirect_stderr(io.StringIO()):  # submitit prints what its error says, too
            executor = submitit.AutoExecutor(folder=files / "%j", cluster=cluster, slurm_max_num_timeout=MAX_TIMEOUTS)
            executor.update_parameters(name=folder.name, tasks_per_node=1, **limits, **given)
            submitted = executor.map_array(
                lambda job: job(), [RunJob(command(run), folder / f"{run.name}.log") for run in runs]
            )
    except (TypeError, ValueError) as error:
        problem = f"submitit cannot use a value ({text_of(error)})"
        raise UsageError("--slurm", problem, "give the options of sbatch as submitit takes them") from error
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        remedy = "sweep without --slurm on a machine that has no Slurm"
        raise UsageError("--slurm", text_of(error), remedy) from error
    return [job.job_id for job in submitted]


def _check(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise UsageError for an option that is not known to submitit, that a sweep sets itself, or of the wrong kind."""
    if {"time", "timeout_min"} <= options.keys():
        raise UsageError("--slurm time", "is given twice, as timeout_min too", "leave one of them out")
    for name, value in options.items():
        argument = f"--slurm {name}"
        if name not in known:
            otherwise = f"additional_parameters='{{\"{name}\": VALUE}}' passes it on"
            remedy = did_you_mean(name, sorted(known), otherwise)
            raise UsageError(argument, "is no option of sbatch that submitit knows", remedy)
        if name == "array_parallelism":
            raise UsageError(argument, "is how many runs go on at a time", "use --jobs")
        if name in KINDS and not KINDS[name].accepts(value):
            raise UsageError(argument, expected=KINDS[name].expected, got=shown(value))


@contextmanager
def _removed_if_it_fails(files: Path) -> Iterator[None]:
    """Where an error leaves what is done here, remove `files` and the directories above, as far as they are new."""
    new = [path for path in (files, *files.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(files, ignore_errors=True)
        for path in new[1:]:
            with suppress(OSError):  # something else is in it by now
                path.rmdir()
        raise
