"""Starting a run: what it continues, where it writes, and its directory kept from other processes."""

from __future__ import annotations

import os
import sys
import time
import zipfile
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from mmaml.config.keys import Config
from mmaml.config.loading import build_config, check_value, frozen_differences, idle_keys, read_config
from mmaml.errors import ConfigError, UsageError
from mmaml.storage import layout
from mmaml.storage.compatibility import differences
from mmaml.storage.files import writing
from mmaml.storage.resuming import ended_early, may_start, restored, resumed
from mmaml.storage.run_lock import RunLock
from mmaml.storage.writable import check_file, check_folder
from mmaml.written_paths import as_written

Values = Mapping[str, Any]
DEFAULT_FOLDER = "data"  # of runs whose directory nobody has named


def run_to_continue(values: Values) -> tuple[Config | None, dict[str, Any]]:
    """The configuration of the run that `values` continue, None for a new run, and what "resume" adds to them."""
    check_value("resume", values.get("resume", Config.resume))
    if values.get("resume") == "auto":
        original, restore_path = resumed(values)
        return original, {} if original is None else {"restore_path": restore_path}
    restore_path = values.get("restore_path")
    return (None if restore_path is None else restored(restore_path)), {}


def continued(values: Values, original: Config) -> Config:
    """The configuration of a run, changed by `values` where it may be. Raises ConfigError where it may not."""
    if values.get("algorithm", original.algorithm) == original.algorithm:
        config = build_config(original.to_dict() | dict(values))
        changed = frozen_differences(config, original)
    else:  # which has other keys
        config, changed = read_config(values), ["algorithm"]
    if changed:
        run = original.dump_path or config.restore_path
        raise ConfigError(
            ", ".join(changed),
            f"expected the values of the run that is continued, '{run}': {differences(changed, original, config)}",
            "drop them, or start a new run",
        )
    return config


def settled(values: Values, original: Config | None, data: Path, script: str = "") -> Config:
    """The whole configuration of a run, with the directory it writes.

    original: that of the run that is continued, None for a new one. data, script: as `default_dump_path` takes them.
    Reads, but writes nothing. Raises UsageError.
    """
    config = build_config(values) if original is None else continued(values, original)
    if config.dump_path is None:
        config = config.replace(dump_path=str(default_dump_path(config, data, script)))
    check_outputs(config)
    return config


def default_dump_path(config: Config, data: Path, script: str = "") -> Path:
    """A directory <data>/<script>/<env>-<time> that does not exist; without a script <data>/<algorithm>/…"""
    environment, algorithm = (text.rpartition(":")[2].replace("/", "-") for text in (config.env, config.algorithm))
    name = f"{environment}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = data / (script or algorithm)
    names = chain([name], (f"{name}-{n}" for n in count(2)))
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def locked(config: Config, lock: RunLock, named: bool) -> Config:
    """Keep other processes out of the run's directory: the configuration, with the next name if one took a default one.

    named: whether the user named the directory. Raises UsageError if another process writes it, or has begun a run in
    it since it was looked at.
    """
    new = not continues_in_place(config) and config.resume != "auto"
    while not lock.acquire(Path(str(config.dump_path)), new):
        if named:
            raise _taken(config)
        folder = Path(str(config.dump_path)).parent
        config = config.replace(dump_path=str(default_dump_path(config, folder.parent, folder.name)))
    if not new and not (continues_in_place(config) or may_start(Path(str(config.dump_path)))):
        raise _taken(config)
    return config


def ready(config: Config, lock: RunLock, given: Values) -> Config:
    """The configuration of a run that is about to start, its directory locked; on rank 0, with notices on stderr.

    given: the keys and values that were given for it. Raises UsageError as `locked` does, and where the class of its
    algorithm cannot be loaded.
    """
    from mmaml.algorithms import algorithm_class

    algorithm_class(config.algorithm)
    config = locked(config, lock, named=given.get("dump_path") is not None)
    if idle := idle_keys(config, given):
        print(f"notice: no effect under {config.algorithm}: {', '.join(idle)}", file=sys.stderr)
    for notice in config.declaration.notices:
        if text := notice(config):
            print(f"notice: {text}", file=sys.stderr)
    if config.resume == "auto" and ended_early(Path(str(config.dump_path))):
        print(as_written(f"notice: '{config.dump_path}' has no checkpoint yet; its run starts over"), file=sys.stderr)
    return config


def continues_in_place(config: Config) -> bool:
    """Whether the run goes on in the directory of the run that it continues."""
    return config.restore_path is not None and os.path.realpath(str(config.dump_path)) == os.path.realpath(
        layout.run_directory(config.restore_path)
    )


def _taken(config: Config) -> ConfigError:
    return ConfigError(
        "dump_path",
        f"'{config.dump_path}' already exists",
        f"choose another directory, or continue the run in it with --restore_path {config.dump_path}",
    )


def check_outputs(config: Config) -> None:
    """Raise UsageError if what the run writes cannot be written, or would replace something else."""
    assert config.dump_path is not None
    dump_path = Path(config.dump_path)
    starts_over = config.resume == "auto" and may_start(dump_path)
    if os.path.lexists(dump_path) and not (continues_in_place(config) or starts_over):
        raise _taken(config)
    check_folder("dump_path", dump_path)
    if config.te_save_path is not None:
        check_embeddings(Path(config.te_save_path), continues_in_place(config))
        if Path(os.path.realpath(dump_path)).is_relative_to(os.path.realpath(config.te_save_path)):
            raise ConfigError(
                "te_save_path",
                f"'{config.te_save_path}' will be a directory, since dump_path is '{dump_path}'",
                "choose another file",
            )


def check_embeddings(path: Path, continues: bool) -> None:
    """Raise UsageError unless embeddings can be written at `path`: a new file, or one of the run that continues."""
    check_file("te_save_path", path)
    with writing("te_save_path", path):
        if path.exists() and not (continues and _holds_embeddings(path)):
            other = " and holds no embeddings" if continues else ""
            raise UsageError("te_save_path", f"'{path}' already exists{other}", "choose another file")


def _holds_embeddings(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"embedding.npy", "mode.npy"} <= {*archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # not an archive, or not one of NumPy's
        return False
