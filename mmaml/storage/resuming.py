"""Which run is to be continued, from which checkpoint, and whether that checkpoint is one of the run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmaml.config.keys import Config
from mmaml.config.loading import ConfigError, check_value, read_config
from mmaml.storage import checkpoint, layout
from mmaml.storage.checkpoint_format import CheckpointError, damage
from mmaml.storage.layout import LOCK, MESSAGES, PARAMS, PROGRESS
from mmaml.storage.params_file import read_params
from mmaml.storage.progress_file import read_rows
from mmaml.storage.saver import not_saved

if TYPE_CHECKING:
    pass

from mmaml.storage.compatibility import listed


def restored(path: Any) -> Config:
    """The configuration of the run at `path`, a directory or a checkpoint, whose directory is its dump_path.

    None is that of a checkpoint kept away from its run: not every folder is one to continue in. Raises ConfigError,
    CheckpointError.
    """
    check_value("restore_path", path)
    restore_path = Path(path)
    if not checkpoint.is_file(restore_path):
        checkpoint.latest(restore_path)  # raises CheckpointError
    directory = layout.run_directory(restore_path)
    has_params = (directory / PARAMS).is_file()
    if has_params:
        remedy = "mend it, or take it away: checkpoints hold the configuration too"
        values = read_params(directory, "restore_path", remedy)
    else:
        values = checkpoint.load(restore_path)["config"]
    is_run = has_params or (directory / layout.FOLDER).is_dir()
    return read_config(values | {"dump_path": str(directory) if is_run else None})


def resumed(values: Mapping[str, Any]) -> tuple[Config | None, str | None]:
    """What `values` with "resume": "auto" continue: the run in their dump_path, and the restore_path they amount to.

    A run that ended before its first checkpoint starts over: its configuration, and the restore_path as given. Where
    no run is: None, and the restore_path as given. Raises ConfigError, CheckpointError.
    """
    given, dump_path = values.get("restore_path"), values.get("dump_path")
    for name in ("dump_path", "restore_path"):
        check_value(name, values.get(name))
    if dump_path is None:
        raise ConfigError('resume: expected a dump_path with "auto", where the run is found again, got none; give one')
    if given is not None and Path(given) != Path(dump_path) and _same(layout.run_directory(given), dump_path):
        raise ConfigError(
            f'resume: expected no restore_path within dump_path with "auto", which takes the newest checkpoint there, '
            f"got '{given}'; leave one of them out"
        )
    if sound_checkpoint(Path(dump_path)):
        return restored(dump_path), dump_path
    if ended_early(Path(dump_path)):
        original = read_config(read_params(Path(dump_path)) | {"dump_path": dump_path})
        return (original if given is None else restored(given)), given
    return (None if given is None else restored(given)), given


def sound_checkpoint(run: Path) -> bool:
    """Whether the run in directory `run` has a checkpoint that is not damaged.

    Raises CheckpointError if all it has are: what they stood for is not to be thrown away unasked.
    """
    folder = run / layout.FOLDER
    if os.path.lexists(folder) and not folder.is_dir():
        raise CheckpointError(f"dump_path: expected a directory '{folder}', got something else; is its disk mounted?")
    found = checkpoint.candidates(run, "dump_path")
    if not found:
        return False
    if all(damage(path) for path in found):
        raise CheckpointError(
            f"dump_path: expected a checkpoint to continue from in '{run}', but '{found[0]}' cannot be read as one "
            f"({damage(found[0])}), nor any before it; put a whole one there, or give another dump_path"
        )
    return True


def ended_early(run: Path) -> bool:
    """Whether `run` is the directory of a run that ended before its first checkpoint, and so may start over.

    Raises CheckpointError if its checkpoints are gone or another program's: what is there would be thrown away.
    """
    if not (run / PARAMS).is_file() or checkpoint.candidates(run, "dump_path"):
        return False
    folder, config = run / layout.FOLDER, read_config(read_params(run))
    try:
        strays = [path.name for path in folder.iterdir() if not _is_leftover(path)] if folder.is_dir() else []
        iterations = [int(row["Itr"]) for row in read_rows(run / PROGRESS)[1]] if (run / PROGRESS).is_file() else []
        messages = (run / MESSAGES).read_text(errors="replace") if (run / MESSAGES).is_file() else ""
    except OSError as error:
        raise CheckpointError(f"dump_path: cannot read '{run}' ({error.strerror}); check the path") from error
    if strays:
        raise CheckpointError(
            f"dump_path: expected itr_*.pt to continue from in '{folder}', got {listed(strays)}; give another"
        )
    if _saves_due(iterations, config) - not_saved(messages):
        raise CheckpointError(
            f"dump_path: expected a checkpoint to continue from in '{run}', whose {PROGRESS} goes on to iteration "
            f"{iterations[-1]}, got none; put the run's checkpoints back, or give another dump_path"
        )
    return True


def _saves_due(iterations: list[int], config: Config) -> set[int]:
    """After how many iterations a run that has logged these wrote checkpoints, if the disk let it."""
    *earlier, last = iterations or [-1]  # after the last it may have been killed while it wrote
    due = {iteration + 1 for iteration in earlier if (iteration + 1) % config.save_steps == 0}
    return due | {last + 1} if last + 1 >= config.n_itr else due


def may_start(directory: Path) -> bool:
    """Whether a run may start where something is: in an empty directory, or that of a run without a checkpoint.

    Raises CheckpointError as `ended_early` does.
    """
    if not directory.is_dir():
        return False
    return ended_early(directory) or all(_is_leftover(path) for path in directory.iterdir())


def _is_leftover(path: Path) -> bool:
    """Whether a file is of a process that was killed, and means nothing now."""
    return path.name == LOCK or path.name.endswith(".unfinished")


def _same(a: str | Path, b: str | Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
