"""Which run is continued, from which checkpoint, and whether a directory may be used by a new run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmaml.config.keys import Config
from mmaml.config.loading import check_value, read_config
from mmaml.errors import ConfigError
from mmaml.storage import checkpoint, layout
from mmaml.storage.checkpoint_format import CheckpointError, damage
from mmaml.storage.compatibility import listed
from mmaml.storage.layout import LOCK, PARAMS, PROGRESS
from mmaml.storage.params_file import read_params
from mmaml.storage.progress_file import read_rows
from mmaml.storage.saver import unsaved


def restored(path: Any) -> Config:
    """The configuration of the run at `path`, a run's directory or a checkpoint; its dump_path is that directory.

    dump_path is None for a checkpoint outside a run's directory, where the run must not be continued. Raises
    ConfigError, CheckpointError.
    """
    check_value("restore_path", path)
    restore_path = Path(path)
    if not checkpoint.is_file(restore_path):
        checkpoint.latest(restore_path)  # raises CheckpointError
    directory = layout.run_directory(restore_path)
    has_params = (directory / PARAMS).is_file()
    if has_params:
        remedy = "fix it, or delete it: checkpoints contain the configuration too"
        values = read_params(directory, "restore_path", remedy)
    else:
        values = checkpoint.load(restore_path)["config"]
    is_run = has_params or (directory / layout.FOLDER).is_dir()
    return read_config(values | {"dump_path": str(directory) if is_run else None})


def resumed(values: Mapping[str, Any]) -> tuple[Config | None, str | None]:
    """What "resume": "auto" continues: the configuration of the run in dump_path, and the restore_path that follows.

    values: those given, with dump_path. If the run has no checkpoint yet, it starts over: its configuration, and
    restore_path as given. If there is no run: None (or the configuration of the run at restore_path), and restore_path
    as given. Raises ConfigError, CheckpointError.
    """
    given, dump_path = values.get("restore_path"), values.get("dump_path")
    for name in ("dump_path", "restore_path"):
        check_value(name, values.get(name))
    if dump_path is None:
        raise ConfigError("resume", expected='a dump_path with "auto", to find the run', got="none", remedy="give one")
    if given is not None and Path(given) != Path(dump_path) and _same(layout.run_directory(given), dump_path):
        expected = 'no restore_path within dump_path with "auto", which uses the newest checkpoint there'
        raise ConfigError("resume", expected=expected, got=f"'{given}'", remedy="omit one of the two")
    if sound_checkpoint(Path(dump_path)):
        return restored(dump_path), dump_path
    if ended_early(Path(dump_path)):
        original = read_config(read_params(Path(dump_path)) | {"dump_path": dump_path})
        return (original if given is None else restored(given)), given
    return (None if given is None else restored(given)), given


def sound_checkpoint(run: Path) -> bool:
    """Whether the run in directory `run` has a checkpoint that is not damaged.

    Raises CheckpointError if all of its checkpoints are damaged: training must not be thrown away silently.
    """
    folder = run / layout.FOLDER
    if os.path.lexists(folder) and not folder.is_dir():
        expected, remedy = f"a directory '{folder}'", "check that its disk is mounted"
        raise CheckpointError("dump_path", expected=expected, got="something else", remedy=remedy)
    found = checkpoint.candidates(run, "dump_path")
    if not found:
        return False
    if all(damage(path) for path in found):
        raise CheckpointError(
            "dump_path",
            f"'{found[0]}' cannot be read as a checkpoint ({damage(found[0])}), nor can any before it",
            "restore one of them from a backup, or choose another dump_path",
        )
    return True


def ended_early(run: Path) -> bool:
    """Whether `run` is the directory of a run that ended before its first checkpoint, and so may start over.

    Raises CheckpointError if its checkpoints have disappeared or another program wrote them: starting over would throw
    training away.
    """
    if not (run / PARAMS).is_file() or checkpoint.candidates(run, "dump_path"):
        return False
    folder, config = run / layout.FOLDER, read_config(read_params(run))
    try:
        strays = [path.name for path in folder.iterdir() if not _is_leftover(path)] if folder.is_dir() else []
        iterations = [int(row["Itr"]) for row in read_rows(run / PROGRESS)[1]] if (run / PROGRESS).is_file() else []
        missing = _saves_due(iterations, config) - unsaved(run)
    except OSError as error:
        raise CheckpointError("dump_path", f"'{run}' cannot be read ({error.strerror})", "check the path") from error
    if strays:
        expected = f"checkpoints itr_*.pt in '{folder}'"
        raise CheckpointError("dump_path", expected=expected, got=listed(strays), remedy="choose another dump_path")
    if missing:
        raise CheckpointError(
            "dump_path",
            expected=f"a checkpoint in '{run}', whose {PROGRESS} reaches iteration {iterations[-1]}",
            got="none",
            remedy=f"put its checkpoints back, choose another dump_path, or delete its {PROGRESS} to start over",
        )
    return True


def _saves_due(iterations: list[int], config: Config) -> set[int]:
    """The iterations whose checkpoints a run that has logged `iterations` must have written."""
    *earlier, last = iterations or [-1]  # it may have been killed while it wrote the checkpoint of the last
    due = {iteration + 1 for iteration in earlier if (iteration + 1) % config.save_steps == 0}
    return due | {last + 1} if last + 1 >= config.n_itr else due


def may_start(directory: Path) -> bool:
    """Whether a run may start in an existing directory: an empty one, or that of a run without a checkpoint.

    Raises CheckpointError as `ended_early` does.
    """
    if not directory.is_dir():
        return False
    return ended_early(directory) or all(_is_leftover(path) for path in directory.iterdir())


def _is_leftover(path: Path) -> bool:
    """Whether a file was left behind by a killed process and can be ignored."""
    return path.name == LOCK or path.name.endswith(".unfinished")


def _same(a: str | Path, b: str | Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
