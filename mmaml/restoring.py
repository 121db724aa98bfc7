"""Which run is to be continued, from which checkpoint, and whether that checkpoint is one of the run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmaml import checkpoint
from mmaml.checkpoint import CheckpointError
from mmaml.claim import LOCK
from mmaml.config import FIELDS, Config, ConfigError, build_config, check_value, frozen_differences
from mmaml.logging import MESSAGES, PARAMS, PROGRESS, read_params
from mmaml.rowfiles import read_rows
from mmaml.saver import not_saved

if TYPE_CHECKING:
    from mmaml.algorithms.base import Algorithm

MOST_NAMED = 4  # differences in an error


def restored(path: Any) -> Config:
    """The configuration of the run at `path`, a directory or a checkpoint, whose directory is its dump_path.

    None is that of a checkpoint kept away from its run: not every folder is one to continue in. Raises ConfigError,
    CheckpointError.
    """
    check_value("restore_path", path)
    restore_path = Path(path)
    if not checkpoint.is_file(restore_path):
        checkpoint.latest(restore_path)  # raises CheckpointError
    directory = checkpoint.run_directory(restore_path)
    has_params = (directory / PARAMS).is_file()
    if has_params:
        remedy = "mend it, or take it away: checkpoints hold the configuration too"
        values = read_params(directory, "restore_path", remedy)
    else:
        values = checkpoint.load(restore_path)["config"]
    is_run = has_params or (directory / checkpoint.FOLDER).is_dir()
    return build_config(values | {"dump_path": str(directory) if is_run else None})


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
    if given is not None and Path(given) != Path(dump_path) and _same(checkpoint.run_directory(given), dump_path):
        raise ConfigError(
            f'resume: expected no restore_path within dump_path with "auto", which takes the newest checkpoint there, '
            f"got '{given}'; leave one of them out"
        )
    if sound_checkpoint(Path(dump_path)):
        return restored(dump_path), dump_path
    if ended_early(Path(dump_path)):
        original = build_config(read_params(Path(dump_path)) | {"dump_path": dump_path})
        return (original if given is None else restored(given)), given
    return (None if given is None else restored(given)), given


def sound_checkpoint(run: Path) -> bool:
    """Whether the run in directory `run` has a checkpoint that is not damaged.

    Raises CheckpointError if all it has are: what they stood for is not to be thrown away unasked.
    """
    folder = run / checkpoint.FOLDER
    if os.path.lexists(folder) and not folder.is_dir():
        raise CheckpointError(f"dump_path: expected a directory '{folder}', got something else; is its disk mounted?")
    found = checkpoint.candidates(run, "dump_path")
    if not found:
        return False
    if all(checkpoint.damage(path) for path in found):
        raise CheckpointError(
            f"dump_path: expected a checkpoint to continue from in '{run}', but '{found[0]}' cannot be read as one "
            f"({checkpoint.damage(found[0])}), nor any before it; put a whole one there, or give another dump_path"
        )
    return True


def ended_early(run: Path) -> bool:
    """Whether `run` is the directory of a run that ended before its first checkpoint, and so may start over.

    Raises CheckpointError if its checkpoints are gone or another program's: what is there would be thrown away.
    """
    if not (run / PARAMS).is_file() or checkpoint.candidates(run, "dump_path"):
        return False
    folder, config = run / checkpoint.FOLDER, build_config(read_params(run))
    try:
        strays = [path.name for path in folder.iterdir() if not _is_leftover(path)] if folder.is_dir() else []
        iterations = [int(row["Itr"]) for row in read_rows(run / PROGRESS)[1]] if (run / PROGRESS).is_file() else []
        messages = (run / MESSAGES).read_text(errors="replace") if (run / MESSAGES).is_file() else ""
    except OSError as error:
        raise CheckpointError(f"dump_path: cannot read '{run}' ({error.strerror}); check the path") from error
    if strays:
        raise CheckpointError(
            f"dump_path: expected itr_*.pt to continue from in '{folder}', got {_listed(strays)}; give another"
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


# The state in a checkpoint.


def check_fits(state: Mapping[str, Any], path: Path, config: Config, algorithm: Algorithm) -> None:
    """Raise CheckpointError, naming what differs, unless the run of `config` can go on from `state`.

    state: as `checkpoint.load` gives it. path: its file. algorithm: a new one of the configuration.
    """
    _check_config(state["config"], path, config)
    check_parameters(state["parameters"], path, algorithm.spec.shapes)
    expected = _grown(algorithm.state_dict(), state["algorithm"], algorithm.spec.total)
    if difference := _difference(expected, state["algorithm"], "algorithm"):
        raise CheckpointError(f"restore_path: '{path}' does not fit algorithm {config.algorithm}: {difference}")


def _check_config(theirs: Mapping[str, Any], path: Path, config: Config) -> None:
    unknown = [name for name in theirs if name not in FIELDS]
    if unknown:
        raise CheckpointError(f"restore_path: '{path}' is of another program: unknown keys {_listed(unknown)}")
    original = Config(**theirs)
    if changed := frozen_differences(original, config):
        raise CheckpointError(
            f"restore_path: '{path}' is of another run than '{config.dump_path}': expected "
            f"{differences(changed, config, original)}; take it away, or start a new run"
        )


def differences(names: Sequence[str], expected: Config, got: Config) -> str:
    """The values of these keys in two configurations, as an error has them."""
    ours, theirs = expected.to_dict(), got.to_dict()
    return _listed(f"{name} {json.dumps(ours[name])}, got {json.dumps(theirs[name])}"[:200] for name in names)


def check_parameters(parameters: Mapping[str, Any], path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError unless tensors have these names and shapes and are finite."""
    wrong = [f"{name} {list(shape)}, got none" for name, shape in shapes.items() if name not in parameters]
    wrong += [f"no {name}, got {list(value.shape)}" for name, value in parameters.items() if name not in shapes]
    for name, shape in shapes.items():
        if name in parameters and tuple(parameters[name].shape) != tuple(shape):
            wrong.append(f"{name} {list(shape)}, got {list(parameters[name].shape)}")
        elif name in parameters and not parameters[name].isfinite().all():
            wrong.append(f"{name} finite, got NaN or infinity")
    if wrong:
        raise CheckpointError(f"restore_path: the parameters in '{path}' do not fit: expected {_listed(wrong)}")


def _grown(fresh: Any, theirs: Any, size: int) -> Any:
    """A new algorithm's state as it is after updates: Adam has moments [P] of each of the `size` parameters."""
    import torch

    if not isinstance(fresh, dict) or not isinstance(theirs, dict):
        return fresh
    if set(fresh) == {"state", "param_groups"} and "betas" in fresh["param_groups"][0] and theirs.get("state"):
        moments = {"step": torch.zeros(()), "exp_avg": torch.zeros(size), "exp_avg_sq": torch.zeros(size)}
        return fresh | {"state": {0: moments}}
    return {name: _grown(value, theirs.get(name), size) for name, value in fresh.items()}


def _difference(expected: Any, got: Any, place: str) -> str:
    """Where the form of `got` is not that of `expected`, and how; "" if it is. What is empty may grow."""
    import torch

    if expected is None or (isinstance(expected, dict | list) and not expected and type(got) is type(expected)):
        return ""
    if isinstance(expected, dict) and isinstance(got, dict):
        if set(expected) != set(got):
            return f"{place}: expected {_listed(map(str, expected))}, got {_listed(map(str, got))}"
        return next(filter(None, (_difference(expected[key], got[key], f"{place}.{key}") for key in expected)), "")
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return next(filter(None, (_difference(a, b, f"{place}[{index}]") for index, (a, b) in pairs)), "")
    if isinstance(expected, torch.Tensor) and isinstance(got, torch.Tensor):
        fits = expected.shape == got.shape and expected.dtype == got.dtype and bool(got.isfinite().all())
    elif isinstance(expected, int | float) and isinstance(got, int | float):
        fits = isinstance(expected, bool) == isinstance(got, bool) and math.isfinite(got)
    else:
        fits = isinstance(expected, str) and isinstance(got, str)
    return "" if fits else f"{place}: expected {_kind(expected)}, got {_kind(got)}"


def _kind(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        finite = "" if value.isfinite().all() else " with NaN or infinity"
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}{finite}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, bool | str | dict) or value is None:
        return {bool: "true or false", str: "text", dict: "a dictionary"}.get(type(value), "nothing")
    return "a finite number" if math.isfinite(value) else str(value)


def _listed(names: Any) -> str:
    names = list(names)
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) or "nothing") + more
