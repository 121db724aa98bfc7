"""Whether a checkpoint belongs to the run that is to continue from it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmaml.config.keys import Config
from mmaml.config.loading import frozen_differences, read_config
from mmaml.errors import ConfigError
from mmaml.storage.checkpoint_format import CheckpointError

if TYPE_CHECKING:
    from mmaml.algorithms.base import Algorithm
    from mmaml.sampling.normalisation import RunningStatistics


MAX_LISTED = 4  # differences in an error


def check_fits(
    state: Mapping[str, Any], path: Path, config: Config, algorithm: Algorithm, key: str = "restore_path"
) -> None:
    """Raise CheckpointError, naming what differs, unless the run of `config` can continue from `state`.

    state: as `checkpoint.load` returns it. path: its file. algorithm: a new one of the configuration. key: the argument
    that errors name.
    """
    _check_config(state["config"], path, config, key)
    check_parameters(state["parameters"], path, algorithm.spec.shapes, key)
    difference = _difference(_grown(algorithm.state_dict(), state["algorithm"]), state["algorithm"], "algorithm")
    try:
        if not difference:
            copy.deepcopy(algorithm).load_state_dict(state["algorithm"])
    except ValueError as error:  # what the form does not show
        difference = str(error)
    if difference:
        problem = f"'{path}' does not fit algorithm {config.algorithm}: {difference}"
        raise CheckpointError(key, problem, "use a checkpoint of this run")


def _check_config(theirs: Mapping[str, Any], path: Path, config: Config, key: str) -> None:
    try:
        original = read_config(theirs)
    except ConfigError as error:
        raise CheckpointError(key, f"the configuration in '{path}' cannot be used here: {error}") from error
    if changed := frozen_differences(original, config):
        expected = differences(changed, config, original)
        problem = f"'{path}' belongs to another run than '{config.dump_path}': expected {expected}"
        raise CheckpointError(key, problem, "remove it, or start a new run")


def differences(names: Sequence[str], expected: Config, got: Config) -> str:
    """The values of these keys in two configurations, for an error: "key a, got b"."""
    ours, theirs = expected.to_dict(), got.to_dict()
    return listed(f"{name} {json.dumps(ours[name])}, got {json.dumps(theirs[name])}"[:200] for name in names)


def restored_statistics(config: Config, observation_size: int, state: Mapping[str, Any] | None) -> RunningStatistics:
    """The running statistics that the configuration asks for, new or as a checkpoint's state holds them.

    Raises CheckpointError where it holds others.
    """
    from mmaml.sampling.normalisation import RunningStatistics  # loads torch

    found = RunningStatistics(config.normalize_observations, config.normalize_rewards, observation_size)
    if state is None:
        return found
    try:
        found.load_state_dict(state.get("statistics", {}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"the running statistics of the checkpoint do not fit ({error})"
        raise CheckpointError("restore_path", problem, "take another checkpoint") from error
    return found


def check_parameters(
    parameters: Mapping[str, Any],
    path: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    key: str = "restore_path",
) -> None:
    """Raise CheckpointError, naming the argument `key`, unless tensors have these names and shapes and are finite."""
    wrong = [f"{name} {list(shape)}, got none" for name, shape in shapes.items() if name not in parameters]
    wrong += [f"no {name}, got {list(value.shape)}" for name, value in parameters.items() if name not in shapes]
    for name, shape in shapes.items():
        if name in parameters and tuple(parameters[name].shape) != tuple(shape):
            wrong.append(f"{name} {list(shape)}, got {list(parameters[name].shape)}")
        elif name in parameters and not parameters[name].isfinite().all():
            wrong.append(f"{name} finite, got NaN or infinity")
    if wrong:
        problem = f"the parameters in '{path}' do not fit: expected {listed(wrong)}"
        raise CheckpointError(key, problem, "use a checkpoint of this run")


def _grown(fresh: Any, theirs: Any) -> Any:
    """The state of a new algorithm with the form it has after updates: each Adam has moments, whose size it checks."""
    import torch

    if isinstance(fresh, list) and isinstance(theirs, list) and len(fresh) == len(theirs):
        return [_grown(ours, other) for ours, other in zip(fresh, theirs, strict=True)]
    if not isinstance(fresh, dict) or not isinstance(theirs, dict):
        return fresh
    if set(fresh) == {"state", "param_groups"} and "betas" in fresh["param_groups"][0] and theirs.get("state"):
        got = theirs["state"].get(0) if isinstance(theirs["state"], dict) else None
        moments = {"step": torch.zeros(())}
        for name in ("exp_avg", "exp_avg_sq"):
            value = got.get(name) if isinstance(got, dict) else None
            moments[name] = torch.zeros(value.numel() if isinstance(value, torch.Tensor) else 0)
        return fresh | {"state": {0: moments}}
    return {name: _grown(value, theirs.get(name)) for name, value in fresh.items()}


def _difference(expected: Any, got: Any, name: str) -> str:
    """The first difference in form between `expected` and `got`, "" if there is none. Empty containers may grow."""
    import torch

    if expected is None or (isinstance(expected, dict | list) and not expected and type(got) is type(expected)):
        return ""
    if isinstance(expected, dict) and isinstance(got, dict):
        if set(expected) != set(got):
            return f"{name}: expected {listed(map(str, expected))}, got {listed(map(str, got))}"
        return next(filter(None, (_difference(expected[key], got[key], f"{name}.{key}") for key in expected)), "")
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return next(filter(None, (_difference(a, b, f"{name}[{index}]") for index, (a, b) in pairs)), "")
    if isinstance(expected, torch.Tensor) and isinstance(got, torch.Tensor):
        fits = expected.shape == got.shape and expected.dtype == got.dtype and bool(got.isfinite().all())
    elif isinstance(expected, int | float) and isinstance(got, int | float):
        fits = isinstance(expected, bool) == isinstance(got, bool) and math.isfinite(got)
    else:
        fits = isinstance(expected, str) and isinstance(got, str)
    return "" if fits else f"{name}: expected {_kind(expected)}, got {_kind(got)}"


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


def listed(names: Any) -> str:
    """The first names, separated by commas, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "nothing") + more
