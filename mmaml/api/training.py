"""`mmaml.train`: meta-training from a Python program, in its own process or on several ranks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmaml.config.keys import Config
from mmaml.config.loading import canonical, idle_keys, read_config_file, with_absolute_paths
from mmaml.config.shipped import find_config
from mmaml.config.value_types import integer, plain
from mmaml.errors import Interrupted, UsageError
from mmaml.paths import absolute, working_directory
from mmaml.storage import checkpoint
from mmaml.storage.layout import PROGRESS
from mmaml.storage.progress_file import read_numbers
from mmaml.storage.starting import DEFAULT_FOLDER, ready, run_to_continue, settled

Row = Mapping[str, float]
Callback = Callable[[Row], object]


class StopTraining(Exception):
    """For a callback to raise: training ends in order after this iteration, and `train` returns."""


@dataclass(frozen=True)
class TrainedRun:
    """What a run has left.

    folder: its directory, an absolute path. checkpoint: its newest file; where no iteration was left to do in a new
    directory, the one that it was to continue from. last: the last iteration's row; empty where the directory has none.
    """

    folder: Path
    checkpoint: Path
    last: Row

    def rows(self) -> list[Row]:
        """The rows of all iterations, as in progress.csv: column -> number, NaN where nothing was measured.

        Raises UsageError, which names the line and the column, if the file holds something else.
        """
        return read_numbers(self.folder / PROGRESS)


def train(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    *,
    ranks: int = 1,
    callbacks: Sequence[Callback] = (),
    show: bool = True,
    **keys: Any,
) -> TrainedRun:
    """Meta-train, and return when the run has ended.

    config: a JSON or YAML file, the name of a configuration that comes with the package, keys and values, or a Config.
    keys: further keys of the configuration, which win over it, such as n_itr=100, dump_path="out/run1", or restore_path
    or resume to continue a run, for which config may be left out. The keys: docs/configuration.md.

    Without dump_path a new run is written into data/<algorithm>/<env>-<time>.

    ranks: 1 to train in this process; more to start that many under mpirun. callbacks: each is called, in this process,
    with the row of every iteration, column -> number. With one rank that is before the next iteration begins; with more
    the run goes on meanwhile. show: show the run on standard output.

    A callback that raises ends the run in order, with a checkpoint of the last iteration; what it raised is raised
    here, unless it is StopTraining. So do SIGINT (KeyboardInterrupt) and SIGTERM.

    Raises UsageError for what the caller can put right, before anything is written, and RunStopped where too much went
    wrong on the way; in this process, whatever else fails; on several ranks, RuntimeError if they failed.
    """
    if not integer(1).accepts(ranks := plain(ranks)):
        raise UsageError("ranks", expected=integer(1).expected, got=repr(ranks))
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise UsageError("callbacks", expected="functions of a row, in a list", got=repr(callbacks))
    with _same_directory_afterwards() as directory:
        values = _values(config, keys)
        complete = configured(values)
        if ranks == 1:
            complete = _train_here(complete, values, callbacks, show)
        else:
            from mmaml.api.ranks import train_on_ranks

            train_on_ranks(complete, values, int(ranks), directory, callbacks, show)
    return _trained(complete)


def _trained(config: Config) -> TrainedRun:
    """What a run has left in its directory. Where there was nothing to do, its checkpoint is the one it began with."""
    folder = Path(str(config.dump_path))
    path = folder if config.restore_path is None or checkpoint.candidates(folder) else Path(config.restore_path)
    newest = path if checkpoint.is_file(path) else checkpoint.latest(path)
    return TrainedRun(folder, newest, (read_numbers(folder / PROGRESS, last=True) or [{}])[0])


@contextmanager
def _same_directory_afterwards() -> Iterator[str]:
    """The working directory, to which the process returns in the end: an environment may have changed it."""
    directory = working_directory()
    try:
        yield directory
    finally:
        with suppress(OSError):  # it is gone
            os.chdir(directory)


def _values(config: str | Path | Mapping[str, Any] | Config | None, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values of the configuration, as they are given. Raises ConfigError."""
    keys = canonical(keys, "keys")
    if config is None:
        if keys.get("restore_path") is None and keys.get("resume") != "auto":
            raise UsageError(
                "config", expected="a file, a name, keys and values or a Config", got="none", remedy="give one"
            )
        return keys
    if isinstance(config, Config):
        given = with_absolute_paths(plain(_effective(config)))
    elif isinstance(config, Mapping):
        given = canonical(config, "config")
    elif isinstance(config, str | Path):
        given = read_config_file(find_config("config", str(config)))
    else:
        raise UsageError("config", expected="a file, a name, keys and values or a Config", got=repr(config))
    return given | keys


def _effective(config: Config) -> dict[str, Any]:
    """Keys and values of a configuration, but for defaults of keys that have no effect under it."""
    values, keys = config.to_dict(), config.keys()
    idle = {name for name in idle_keys(config, values) if values[name] == keys[name].default}
    return {name: value for name, value in values.items() if name not in idle}


def configured(values: Mapping[str, Any]) -> Config:
    """The whole configuration of a run, new or continued, by the keys and values that are given. Raises UsageError."""
    data = Path(absolute(DEFAULT_FOLDER))  # before a user's code, which may change the working directory
    original, automatic = run_to_continue(values)
    return settled({**values, **automatic}, original, data)


def _train_here(config: Config, values: Mapping[str, Any], callbacks: Sequence[Callback], show: bool) -> Config:
    """Train in this process; the configuration, whose directory is another one if somebody took it meanwhile."""
    from mmaml.envs.process_state import CodeSettings, code_settings, standard_settings
    from mmaml.parallel.shutdown import shutdown
    from mmaml.process_settings import prepared_process

    host = CodeSettings()

    def report(row: Row) -> None:
        for callback in callbacks:
            with host.running():
                callback(plain_row(row))

    try:
        with (
            prepared_process(),
            standard_settings(host, code_settings(config.env), code_settings(config.algorithm)),
            shutdown.handling_signals_as_guest(),
        ):
            return _train_alone(config, values, report, show)
    except Interrupted as interrupted:
        # To whatever handles the signal in this program: for SIGINT, as a rule, by KeyboardInterrupt.
        signal.raise_signal(interrupted.exit_code - 128)
        raise


def _train_alone(config: Config, values: Mapping[str, Any], report: Callback, show: bool) -> Config:
    """The only rank's part."""
    from mmaml.parallel.ranks import connect
    from mmaml.storage.run_lock import RunLock
    from mmaml.trainer import train as train_on

    with ExitStack() as stack:
        stream = None if show else stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        ranks, lock = stack.enter_context(connect(parallel=False)), stack.enter_context(RunLock())
        config = ready(config, lock, values)
        with suppress(StopTraining):
            train_on(config, ranks, report, stream)
    return config


def plain_row(row: Row) -> dict[str, float]:
    """A row of Python's own numbers, which NumPy's are not."""
    return {name: value if isinstance(value, int) else float(value) for name, value in row.items()}
