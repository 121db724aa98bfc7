"""The configuration: from files and overrides to a validated `Config`, or one line on what is wrong with it.

What the keys are, and what values they take: `mmaml.config.keys`, and each algorithm's declaration.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmaml.config import memory_check, other_names
from mmaml.config.algorithms import DEFAULT_ALGORITHM
from mmaml.config.declaration import Key
from mmaml.config.declaration_file import declaration_of
from mmaml.config.keys import ALIASES, COMMON_KEYS, LEGACY, Config, built_in_keys
from mmaml.config.other_names import IGNORED, with_our_names
from mmaml.config.shipped import shipped_configs
from mmaml.config.value_types import MAX_NUMBER, PATH, clipped, plain, remedy_for, shown
from mmaml.config.yaml_text import parse_yaml
from mmaml.errors import ConfigError, UsageError
from mmaml.paths import absolute, expanded, located
from mmaml.wording import did_you_mean

if TYPE_CHECKING:
    from mmaml.envs.spec import EnvSpec

EXTENDS = "extends"
YAML_SUFFIXES = (".yml", ".yaml")
MAX_BYTES = 1_000_000  # of a file: those that exist have a few hundred


def load_config(
    path: str | Path | None, overrides: Mapping[str, Any] | None = None, algorithm: str | None = None
) -> Config:
    """Defaults, then the file at `path` (and what it extends), then `overrides`, validated.

    algorithm: what runs if neither names one. Raises ConfigError.
    """
    default = {} if algorithm is None else {"algorithm": algorithm}
    file = {} if path is None else read_config_file(Path(path))
    return build_config({**default, **file, **canonical(overrides or {}, "overrides")})


def build_config(values: Mapping[str, Any], trains: bool = True, env_spec: EnvSpec | None = None) -> Config:
    """A validated Config from keys and values, with what is known of its task family. Raises ConfigError.

    trains: refuse a run that does not fit into memory, for which there are no tasks, or whose environment is not as
    training needs it; false for one that is only looked at. env_spec: that of the task family, where it is known.
    """
    from mmaml.envs.registry import check_family

    config = read_config(values)
    spec = env_spec or check_family(config.env, config.env_kwargs, config.normalization_scale, trains)
    if spec.has_discrete_actions and not config.learn_std:
        raise ConfigError("learn_std", expected="true for discrete actions, which have no log-std", got="false")
    config = dataclasses.replace(config, env_spec=spec)
    if trains:
        _check_splits(config, spec)
        _check_threads(config, spec)
        memory_check.check(memory_check.training(config, spec))
    return config


def known_keys(algorithm: Any) -> dict[str, Key]:
    """The keys that a configuration of an algorithm may hold, those of the toolkit's other algorithms among them.

    Raises ConfigError where there is no such algorithm.
    """
    check_value("algorithm", algorithm)
    declaration = declaration_of(algorithm)
    _check_declared(algorithm, declaration.keys)
    return IGNORED | built_in_keys() | COMMON_KEYS | dict(declaration.keys)


def read_config(values: Mapping[str, Any]) -> Config:
    """A Config from keys and values that fit each other, not compared with its task family. Raises ConfigError.

    A key of another algorithm of the toolkit is checked, and left out.
    """
    values = with_absolute_paths(values)
    algorithm = values.get("algorithm", DEFAULT_ALGORITHM)
    known = known_keys(algorithm)
    declaration = declaration_of(algorithm)
    for name, value in values.items():
        check_value(name, value, keys=known)
    converted = {name: known[name].kind.convert(value) for name, value in values.items()}
    common = {name: value for name, value in converted.items() if name in COMMON_KEYS}
    own = {name: converted.get(name, key.default) for name, key in declaration.keys.items()}
    config = Config(**common, own=own)
    _check_penalties(config)
    _check_sizes(config)
    if config.device.startswith("cuda") and config.meta_gradient == "ranks":
        raise ConfigError(
            "device",
            expected='"auto" or "cpu" with meta_gradient "ranks", which uses no GPU',
            got=f'"{config.device}"',
        )
    for condition in declaration.conditions:
        condition.check(config)
    return config


def with_absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values whose paths are absolute. Nothing in them is expanded: that is done once, by `canonical`."""
    return {name: absolute(v) if _is_path(name) and isinstance(v, str) else v for name, v in values.items()}


def _is_path(name: str) -> bool:
    return name in COMMON_KEYS and COMMON_KEYS[name].kind.is_path


def check_value(name: str, value: Any, called: str = "", keys: Mapping[str, Key] = COMMON_KEYS) -> None:
    """Raise ConfigError unless `name` is one of `keys` and takes `value`. called: what the error calls the key."""
    if name not in keys:
        own = [key for key in keys if key not in IGNORED]
        hint = did_you_mean(name, [*own, *ALIASES], "see docs/configuration.md for the keys", likeness=0.5)
        raise ConfigError(clipped(name), "unknown key", other_names.remedy(name, keys) or hint)
    kind = keys[name].kind
    if not kind.accepts(value):
        raise ConfigError(
            called or name, expected=f"{kind.expected}{_limit(value)}", got=shown(value), remedy=remedy_for(value)
        )


def _check_declared(algorithm: str, keys: Mapping[str, Key]) -> None:
    """Raise ConfigError where an algorithm's own keys cannot be keys of a configuration."""
    for name, key in keys.items():
        taken = hasattr(Config, name) or name in (*Config.__dataclass_fields__, *ALIASES, EXTENDS)
        if taken or not name.isidentifier() or name.startswith("_"):
            reason = "which means something else already" if taken else "which is not a valid name"
            raise ConfigError("algorithm", f"'{algorithm}' declares a key '{name}', {reason}", "give it another name")
        if not key.kind.accepts(key.default):
            raise ConfigError(
                "algorithm",
                f"'{algorithm}' declares a key '{name}' that does not take its default {shown(key.default)}",
                f"give it {key.kind.expected}",
            )


def read_config_file(path: Path) -> dict[str, Any]:
    """Keys and values of a JSON or YAML file, laid over those of the file that it "extends".

    That is a path from the file's own folder, or the name of a configuration that comes with the package. Raises
    ConfigError.
    """
    values: dict[str, Any] = {}
    seen: set[str] = set()
    while True:
        layer = _read_layer(path)
        seen.add(os.path.realpath(path))
        parent = layer.pop(EXTENDS, None)
        values = layer | values
        if parent is None:
            return values
        if not PATH.accepts(parent):
            raise ConfigError(EXTENDS, expected="the path of a config file", got=f"{shown(parent)} in '{path}'")
        try:
            beside, configs = path.parent / expanded(parent, EXTENDS), shipped_configs()
        except UsageError as error:
            raise ConfigError(EXTENDS, f"{error.problem}, in '{path}'", error.remedy) from error
        path = configs[parent] if parent in configs and not os.path.exists(beside) else beside
        if os.path.realpath(path) in seen:
            raise ConfigError(EXTENDS, f"'{path}' extends itself", "remove the circle of files that extend each other")


def _read_layer(path: Path) -> dict[str, Any]:
    """Keys and values of one file. A YAML file may have those of another program (`mmaml.config.other_names`)."""
    text, source = _read_text(path), f"config_file '{path}'"
    if path.suffix not in YAML_SUFFIXES:
        return parse_object(text, source)
    values = parse_yaml(text, source)
    known = known_keys(values.get("algorithm", DEFAULT_ALGORITHM))
    return canonical(with_our_names(values, {*known, *ALIASES, EXTENDS}, source), source)


def _read_text(path: Path) -> str:
    """A regular file's text. Pipes and devices, which may never end or never begin, are refused unread."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "not a regular file")
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            content = file.read(MAX_BYTES + 1) or b""
        if len(content) > MAX_BYTES:
            raise OSError(0, f"more than {MAX_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "not a path"  # but with a NUL, say
        reason = str(error.strerror) if isinstance(error, OSError) else reason
        raise ConfigError("config_file", f"cannot read '{path}' ({reason})", "check the path") from error


def parse_object(text: str, source: str) -> dict[str, Any]:
    """A JSON object without repeated keys. source: what to call the text in an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise ConfigError(source, f"key '{clipped(repeated)}' is given twice", "keep one")
        return values

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except ConfigError:
        raise
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(source, f"is not valid JSON ({error.msg} at {where})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested as deeply
        raise ConfigError(source, f"is not JSON of a reasonable size ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(source, expected='a JSON object {"key": value, …}', got=shown(value))
    return canonical(value, source)


def canonical(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Keys and values as a user gives them, `plain`, with `ALIASES` under our names and paths expanded and absolute.

    Raises ConfigError if a key is given under both names, for an invalid value under an alias, and for a path with a
    variable that is not set.
    """
    values = plain(values)
    for alias, name in ALIASES.items():
        if alias in values and name in values:
            raise ConfigError(source, f"'{alias}' and '{name}' are two names of one key", "keep one")
        if alias in values:
            check_value(name, values[alias], called=f"{alias} ({name})")
    return {ALIASES.get(name, name): _located(name, value) for name, value in values.items()}


def _located(name: str, value: Any) -> Any:
    if not _is_path(name) or not isinstance(value, str | os.PathLike):
        return value
    try:
        return located(value, name)
    except UsageError as error:
        raise ConfigError(name, error.problem, error.remedy) from error


def idle_keys(config: Config, given: Mapping[str, Any]) -> list[str]:
    """Keys that were given and do nothing: legacy ones, and those of another algorithm, meta-update or choice."""
    declaration, update = config.declaration, config.chosen_update
    idle = []
    for name in given:
        key = COMMON_KEYS.get(name) or declaration.keys.get(name)
        if (
            key is None
            or key.group == LEGACY
            or declaration.is_idle(name)
            or (key.updates and update and update not in key.updates)
            or not key.has_effect(config)
        ):
            idle.append(name)
    return idle


def step_sizes(config: Config) -> list[str]:
    """The keys of step sizes that have an effect."""
    names = [name for name in config.to_dict() if name == "inner_lr" or name.endswith("learning_rate")]
    idle = {*idle_keys(config, dict.fromkeys(names))}
    return [name for name in names if name not in idle]


def values_with_effect(config: Config) -> dict[str, Any]:
    """The keys and values of a configuration, without keys that have no effect."""
    values = config.to_dict()
    idle = {*idle_keys(config, values)}
    return {name: value for name, value in values.items() if name not in idle}


def frozen_differences(config: Config, original: Config) -> list[str]:
    """Keys in which a continued run may not differ from the run it continues, and does."""
    ours, theirs = config.to_dict(), original.to_dict()
    return [
        name
        for name, key in config.keys().items()
        if name in theirs and not key.resumable and ours[name] != theirs[name]
    ]


def _check_penalties(config: Config) -> None:
    for penalty, adaptive in (("inner", config.adaptive_inner_kl_penalty), ("outer", config.adaptive_outer_kl_penalty)):
        if not adaptive:
            continue
        target, start = f"target_{penalty}_step", f"init_{penalty}_kl_penalty"
        if getattr(config, target) == 0:
            raise ConfigError(target, expected="a number > 0 with an adaptive penalty", got="0")
        if getattr(config, start) == 0:
            expected = f"a number > 0 with adaptive_{penalty}_kl_penalty, since 0 doubled is 0"
            raise ConfigError(start, expected=expected, got="0")


def _check_sizes(config: Config) -> None:
    tasks, rollouts = config.meta_batch_size, config.rollouts_per_meta_task
    if config.num_minibatches > tasks:
        raise ConfigError(
            "num_minibatches",
            expected=f"at most meta_batch_size = {tasks}, since minibatches are of tasks",
            got=str(config.num_minibatches),
        )
    if config.fisher_rollouts is not None and config.fisher_rollouts > rollouts:
        raise ConfigError(
            "fisher_rollouts",
            expected=f"at most rollouts_per_meta_task = {rollouts}",
            got=str(config.fisher_rollouts),
        )


def _check_threads(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError for threads that its family has no use for."""
    if config.physics_threads not in ("auto", 1) and not spec.family.uses_threads:
        raise ConfigError(
            "physics_threads",
            expected=f"\"auto\" or 1 with '{config.env}', whose steps use no threads",
            got=shown(config.physics_threads),
        )


def _check_splits(config: Config, spec: EnvSpec) -> None:
    """Raise ConfigError if a run needs tasks of a split that its family does not have."""
    splits = spec.splits
    embeds = config.te_save_path is not None and config.declaration.embeds
    for name, needed, off in (("eval_interval", config.eval_interval > 0, "0"), ("te_save_path", embeds, "null")):
        if needed and "test" not in splits:
            only = f'which has {", ".join(splits)} and thus no tasks of the split "test"'
            raise ConfigError(
                name,
                expected=f"{off} with '{config.env}', {only}",
                got=shown(getattr(config, name)),
                remedy="leave it out, or have its sample_tasks draw such tasks",
            )


def _limit(value: Any) -> str:
    """The limit of all numbers, if a value exceeds it; else ""."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return " (below 2^63)"
    return f" (at most {MAX_NUMBER:g})" if isinstance(value, float) and MAX_NUMBER < abs(value) < math.inf else ""
