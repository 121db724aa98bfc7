"""What the master carries from iteration to iteration: parameters, counters, the log, checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from torch import Tensor

from mmaml.config.keys import Config
from mmaml.config.loading import step_sizes
from mmaml.errors import Failure, Interrupted, NotFinite, RunStopped, disk_reason
from mmaml.meta_batch import Master, placement
from mmaml.parallel.ranks import Ranks
from mmaml.parallel.shutdown import shutdown
from mmaml.reporting.run_logger import RunLogger
from mmaml.sampling.environment_failures import Tracebacks
from mmaml.sampling.policy_spaces import PolicySpaces
from mmaml.sampling.statistics import too_large_to_read
from mmaml.seeding import generator
from mmaml.storage import checkpoint, layout
from mmaml.storage.bad_update_file import write_dump
from mmaml.storage.saver import NotSaved, Saver
from mmaml.wording import counted
from mmaml.worker import Worker


class Run:
    """What the master carries from iteration to iteration, and where it goes: log and checkpoints.

    state: all that the next iteration depends on, as of the last that was finished; what a checkpoint holds.
    counts: columns of the log, what went wrong so far.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        worker: Worker,
        state: dict[str, Any] | None,
        device: str = "cpu",
        stream: TextIO | None = None,
    ) -> None:
        assert config.dump_path is not None
        self.config, self.algorithm = config, worker.algorithm
        self._config = config.to_dict()
        self._environment = PolicySpaces.of_spec(worker.spec, config.normalization_scale).record()
        self.dump_path = Path(config.dump_path)
        self.iteration = self.env_steps = self.bad_in_a_row = 0
        self.seconds = 0.0
        self.counts = {"FailedTasks": 0, "BadUpdates": 0}
        spec = self.algorithm.spec
        if state is None:
            self.parameters = spec.flatten(self.algorithm.init(generator(config.seed, "parameters")))
        else:
            self.parameters = spec.flatten(state["parameters"])
            self.algorithm.load_state_dict(state["algorithm"])
            self.iteration, self.env_steps = state["iteration"], state["env_steps"]
            self.seconds = state["seconds"]
            self.counts |= state.get("counts", {})
            self.bad_in_a_row = state.get("bad_in_a_row", 0)
        self._clock = time.perf_counter() - self.seconds
        restored = config.restore_path and layout.run_directory(config.restore_path)
        # With "resume", the run that is there, if any, goes on or starts over.
        continues = config.resume == "auto" or (restored and Path(restored).resolve() == self.dump_path.resolve())
        first = self.iteration if continues else None
        self.logger = RunLogger(config, self.dump_path, first, stream, placement(config, ranks, device))
        self.saver = Saver(
            self.dump_path / layout.FOLDER,
            keep=config.max_checkpoints_to_keep,
            keep_every_hours=config.keep_checkpoint_every_n_hours,
            max_failed_saves=config.max_failed_saves,
            warn=self.logger.warn,
        )
        # The iteration of the newest checkpoint, if it is of this run.
        self._saved = self.iteration if state is not None and self._is_newest(self.iteration) else None
        self._tracebacks = Tracebacks()
        for warning in worker.spec.warnings.of_run(config.normalize_observations):
            self.warn(f"warning: {warning}")
        self._watches_rewards = config.declaration.reads_rewards(config)
        self.master = Master(config, ranks, worker, self, state, device)
        self.state = self._state()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Within this context, whatever ends the run leaves a checkpoint of the last finished iteration."""
        with shutdown.finishing(self.config.shutdown_seconds):
            try:
                yield
            except BaseException as reason:
                try:
                    self.save(last=True)
                except NotSaved as unsaved:
                    if not isinstance(reason, NotSaved):
                        self.warn(str(unsaved))
                if isinstance(reason, Interrupted | RunStopped):
                    again = f"continue with --restore_path {self.dump_path}"
                    trace = reason.trace if isinstance(reason, RunStopped) else ""
                    self.warn(f"{reason} (after {counted(self.iteration, 'iteration')}; {again})\n{trace}".rstrip())
                if isinstance(reason, Interrupted):
                    reason.reported = True
                with suppress(Exception):  # what ends the run is the reason
                    self.close()
                raise

    def watch_rewards(self, sampled: Mapping[str, np.ndarray]) -> None:
        """Warn, once, of rewards that are too large for a policy that reads them."""
        if self._watches_rewards and (problem := too_large_to_read(sampled)):
            self._watches_rewards = False
            self.warn(f"warning: env: '{self.config.env}' reward: {problem}; rescale it within the class")

    def accept(self, parameters: Tensor, sampled: Mapping[str, np.ndarray]) -> None:
        """Continue from new meta-parameters, and add the iteration's samples to the running statistics."""
        self.parameters, self.bad_in_a_row = parameters, 0
        self.master.statistics.update(sampled)

    def skip_update(self, finding: NotFinite, iteration: int) -> None:
        """Continue from where the iteration began. Raises RunStopped after too many skipped updates in a row."""
        self.algorithm.load_state_dict(copy.deepcopy(self.state["algorithm"]))
        self.counts["BadUpdates"] += 1
        self.bad_in_a_row += 1
        allowed = self.config.max_bad_updates
        count = f"{self.bad_in_a_row} in a row, {allowed} end the run"
        self.warn(f"warning: iteration {iteration}: {finding}; its update is skipped ({count})")
        if self.bad_in_a_row >= allowed:
            updates = "an update" if allowed == 1 else f"{allowed} updates in a row"
            raise RunStopped(
                f"{updates} met numbers that are not finite; {self._write_bad_update(finding, iteration)}; "
                f"fix the environment, or start a new run with a lower {' or '.join(step_sizes(self.config))}"
            )

    def _write_bad_update(self, finding: NotFinite, iteration: int) -> str:
        """Write the file from which `mmaml replay` repeats an iteration; returns what a message says about it."""
        path = self.dump_path / f"bad_update_{iteration:06d}.pt"
        failed = self.counts["FailedTasks"] - self.state["counts"]["FailedTasks"]
        rollouts = None
        if self.master.task_indices and len(self.master.task_indices) + failed == self.config.meta_batch_size:
            with suppress(Exception):  # ranks may be lost now, and with tasks that are dealt again anything may happen
                rollouts = [collection.fields() for collection in self.master.rollouts()]
        try:
            write_dump(path, self.state, str(finding), rollouts)
        except OSError as error:
            return f"the last could not be saved for mmaml replay ({disk_reason(error)})"
        return f"repeat the last with mmaml replay {path}"

    def warn(self, text: str) -> None:
        """Report a problem, in the log and on the display."""
        self.logger.warn(text)

    def task_failed(self, index: int, failure: Failure) -> None:
        """Count a task that was left out of an iteration. Raises RunStopped if there were too many."""
        self.counts["FailedTasks"] += 1
        failed, allowed = self.counts["FailedTasks"], self.config.max_failed_tasks
        self.warn(
            f"warning: iteration {self.iteration}: the environment of task {index} failed ({failure.error}); the "
            f"others go on without it ({failed} so far, {allowed} end the run){self._tracebacks.new(failure)}"
        )
        if failed >= allowed:
            environments = "the environment of a task" if failed == 1 else f"the environments of {failed} tasks"
            raise RunStopped(f"{environments} failed; fix it, or raise max_failed_tasks")

    def finish_iteration(self, iteration: int, row: dict[str, float]) -> dict[str, float]:
        """Log the iteration and, when it is due, write a checkpoint. The row as it was logged."""
        self.iteration = iteration + 1
        self.seconds = time.perf_counter() - self._clock
        self.state = self._state()
        row = row | {"Time": self.seconds}
        self.logger.log(row)
        last = self.iteration == self.config.n_itr
        if last or self.iteration % self.config.save_steps == 0:
            self.save(last)
        return row

    def save(self, last: bool = False) -> None:
        """Write a checkpoint of the last finished iteration, unless there is one. last: none will follow."""
        if self._saved == self.iteration:
            return
        self.logger.sync()
        if self.saver.save(self.iteration, self.state, last):
            self._saved = self.iteration

    def _is_newest(self, iteration: int) -> bool:
        """Whether the newest checkpoint in the run's directory is that of `iteration`."""
        directory = self.dump_path / layout.FOLDER
        there = checkpoint.by_iteration(directory) if directory.is_dir() else []
        return bool(there) and there[-1][0] == iteration

    def close(self) -> None:
        """Close the log. The environments are their worker's, which whoever made it closes."""
        self.logger.close()

    def _state(self) -> dict[str, Any]:
        algorithm, statistics = self.algorithm, self.master.statistics.state_dict()
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "parameters": {name: value.clone() for name, value in algorithm.spec.unflatten(self.parameters).items()},
            "algorithm": copy.deepcopy(algorithm.state_dict()),
            **({"statistics": statistics} if statistics else {}),
            "counts": dict(self.counts),
            "bad_in_a_row": self.bad_in_a_row,
            "config": self._config,
            "environment": self._environment,
            "rng": {"seed": self.config.seed, "iteration": self.iteration},
        }
