"""What a trained run is worth: returns after 0 … K adaptation steps on held-out tasks, and how it moves."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mmaml.config import memory_check
from mmaml.config.keys import Config
from mmaml.config.loading import build_config, check_value
from mmaml.envs.base import Task
from mmaml.envs.spec import EnvSpec
from mmaml.errors import ConfigError, Failure, NotFinite, RunStopped, TasksFailed, UsageError
from mmaml.evaluation.summary import summarise
from mmaml.meta_batch import Master
from mmaml.parallel.ranks import Ranks
from mmaml.sampling.environment_failures import Tracebacks
from mmaml.storage import checkpoint
from mmaml.storage.compatibility import check_parameters
from mmaml.worker import Worker

# Keys the tasks and randomness of an evaluation in place of an iteration that training could reach.
FRESH = 1 << 30


def restore(path: str | Path, env_spec: EnvSpec | None = None) -> tuple[Config, dict[str, Any]]:
    """The configuration and state in a checkpoint, or in the newest one of a run's directory.

    env_spec: that of its task family, where it is known already.
    Raises UsageError if there is no checkpoint, if its environment cannot be found here, or if its parameters do not
    fit its configuration.
    """
    check_value("restore_path", str(path))
    state = checkpoint.load(path)
    try:
        config = build_config(state["config"], trains=False, env_spec=env_spec)
    except ConfigError as error:
        raise UsageError("restore_path", f"the configuration in '{path}' cannot be used here: {error}") from error
    with closing(Worker(config)) as worker:
        check_parameters(state["parameters"], path, worker.algorithm.spec.shapes)
    return config, state


def check_split(config: Config, split: str) -> None:
    """Raise UsageError if the configuration's family has no such tasks."""
    assert config.env_spec is not None
    if split not in config.env_spec.splits:
        expected = f"a split of '{config.env}', which has {', '.join(config.env_spec.splits)}"
        remedy = f"give --split {config.env_spec.splits[0]}"
        raise UsageError("--split", expected=expected, got=f"'{split}'", remedy=remedy)


def check_memory(config: Config, num_tasks: int, adapt_steps: int, keys: Sequence[str]) -> None:
    """Raise UsageError, naming the keys, if the rollouts of an evaluation, N of each task, cannot fit into memory."""
    assert config.env_spec is not None
    memory_check.check([memory_check.rollouts(config, num_tasks, adapt_steps + 1, config.env_spec, keys)])


@contextmanager
def in_a_line(argument: str = "restore_path") -> Iterator[None]:
    """Turn the errors that prevent an evaluation, bad numbers and environments that fail, into UsageError.

    argument: the one that gave the policy. If a user's `sample_tasks` fails, its traceback is printed on stderr.
    """
    try:
        yield
    except NotFinite as finding:
        raise _of_policy(finding, argument) from finding
    except TasksFailed as error:
        index, text, _ = error.failures[0]
        raise UsageError("env", f"the environment of task {index} failed ({text})", "fix it") from error
    except RunStopped as stop:
        if stop.trace:
            print(stop.trace, file=sys.stderr)
        raise UsageError("env", stop.reason) from stop


def _of_policy(finding: NotFinite, argument: str = "restore_path") -> UsageError:
    """The error for a number of a policy that is not finite."""
    remedy = "lower inner_lr where there are inner steps, or take an earlier checkpoint"
    return UsageError(argument, str(finding), f"{remedy}; correct the environment if it returned this number")


def evaluate(
    ranks: Ranks,
    worker: Worker,
    state: Mapping[str, Any],
    num_tasks: int,
    adapt_steps: int,
    split: str = "test",
) -> dict[str, Any]:
    """Adapt to `num_tasks` fresh tasks and summarise their returns; on rank 0, while the others serve.

    There are adapt_steps + 1 stages. An algorithm with inner steps samples a task once for each stage, with an inner
    step in between, as in training; for one with a memory, the stages are the episodes of a trial. The return of a task
    at a stage is the mean undiscounted return of its whole episodes there. split: "test" (tasks like those of training,
    from a random stream that training never uses), "ood" where the family has it, or "train": drawn as training draws
    them, from its finite set if it has one, in new episodes.
    Returns the result of `summarise`. A task whose environment fails is reported on stderr and left out, and tasks that
    repeat others are reported. Raises RunStopped if the environments of all tasks fail, and UsageError if a number is
    not finite.
    """
    log = _Log()
    master = Master(worker.config, ranks, worker, log, state)
    tasks = master.sample_tasks(num_tasks, FRESH, split)
    if notice := repeated(worker.spec, tasks):
        log.warn(notice)
    parameters = worker.algorithm.spec.flatten(state["parameters"])
    try:
        result = master.collect(parameters, tasks, FRESH, purpose=split, stages=adapt_steps + 1)
    except NotFinite as finding:  # ranks that serve are released, not ended
        raise _of_policy(finding) from finding
    by_episode = worker.algorithm.credit == "trial"
    names = worker.spec.mode_names
    return summarise(result["return"], result["mode"], result["success"], by_episode, names)


def repeated(spec: EnvSpec, tasks: Sequence[Task]) -> str:
    """What to report of tasks that repeat others, for lack of more; "" if none does."""
    if spec.tasks_per_mode is None:
        return ""
    counts = Counter(task.mode for task in tasks).values()
    different = sum(min(count, spec.tasks_per_mode) for count in counts)
    if different == len(tasks):
        return ""
    return (
        f"notice: '{spec.name}' has {spec.tasks_per_mode} tasks of a mode, so that {len(tasks) - different} of the "
        f"{len(tasks)} repeat others; intervals count each as one of its own and are too narrow (with --num_tasks "
        f"{spec.tasks_per_mode * len(counts)} none is repeated)"
    )


class _Log:
    """Reports on stderr the tasks that an evaluation goes on without."""

    def __init__(self) -> None:
        self._tracebacks = Tracebacks()

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def task_failed(self, index: int, failure: Failure) -> None:
        self.warn(
            f"warning: the environment of task {index} failed ({failure.error}); the others go on without it"
            + self._tracebacks.new(failure)
        )
