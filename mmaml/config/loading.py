"""The configuration: from files and overrides to a validated `Config`, or one line on what is wrong with it.

What the keys are, and what values they take: mmaml/config/keys.py.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmaml.config import memory_check
from mmaml.config.keys import ALIASES, FIELDS, LEGACY, Config
from mmaml.config.value_types import FLAG, LARGEST, PATH, Kind, integer
from mmaml.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from gymnasium import Space

    from mmaml.envs.base import TaskVectorEnv


__all__ = [
    "FIELDS",
    "FLAG",
    "Config",
    "ConfigError",
    "Kind",
    "build_config",
    "canonical",
    "check_value",
    "config_of",
    "frozen_differences",
    "idle_keys",
    "integer",
    "load_config",
    "parse_object",
    "read_config_file",
]
EXTENDS = "extends"
MOST_BYTES = 1_000_000  # of a file: those that exist have a few hundred
MOST_SHOWN = 80  # characters of a value in an error


class ConfigError(UsageError):
    """What is wrong with the user's configuration."""


def load_config(
    path: str | Path | None, overrides: Mapping[str, Any] | None = None, algorithm: str | None = None
) -> Config:
    """Defaults, then the file at `path` (and what it extends), then `overrides`, validated.

    algorithm: what runs if neither names one. Raises ConfigError.
    """
    default = {} if algorithm is None else {"algorithm": algorithm}
    file = {} if path is None else read_config_file(Path(path))
    return build_config({**default, **file, **canonical(overrides or {}, "overrides")})


def build_config(values: Mapping[str, Any], trains: bool = True) -> Config:
    """A validated Config from keys and values. Raises ConfigError.

    trains: refuse a run that does not fit into memory, or for which there are no tasks; false for one that is only
    looked at.
    """
    config = config_of(values)
    _check_penalties(config)
    _check_sizes(config)
    if config.device.startswith("cuda") and config.meta_gradient == "ranks":
        raise ConfigError(
            f'device: expected "auto" or "cpu" with meta_gradient "ranks", which uses no GPU, got "{config.device}"'
        )
    family = _family(config)
    action_size = _action_size(config, family.single_action_space)
    if trains:
        _check_splits(config, family.splits)
        if text := memory_check.shortage(memory_check.training(config, action_size)):
            raise ConfigError(text)
    return config


def config_of(values: Mapping[str, Any]) -> Config:
    """A Config of keys and values that are each valid by themselves: its environment need not be found here.

    Raises ConfigError.
    """
    for name, value in values.items():
        check_value(name, value)
    return Config(**{name: FIELDS[name].metadata["kind"].convert(value) for name, value in values.items()})


def check_value(name: str, value: Any, called: str = "") -> None:
    """Raise ConfigError unless `name` is a key that takes `value`. called: what the error calls the key."""
    if name not in FIELDS:
        raise ConfigError(_unknown_key(name))
    kind: Kind = FIELDS[name].metadata["kind"]
    if not kind.accepts(value):
        raise ConfigError(f"{called or name}: expected {kind.expected}{_limit(value)}, got {_shown(value)}")


def read_config_file(path: Path) -> dict[str, Any]:
    """Keys and values of a JSON file, laid over those of the file it "extends" (a path from its own folder)."""
    values: dict[str, Any] = {}
    seen: set[str] = set()
    while True:
        layer = parse_object(_read_text(path), f"config_file '{path}'")
        seen.add(os.path.realpath(path))
        parent = layer.pop(EXTENDS, None)
        values = layer | values
        if parent is None:
            return values
        if not PATH.accepts(parent):
            raise ConfigError(f"extends: expected the path of a config file, got {_shown(parent)} in '{path}'")
        path = path.parent / parent
        if os.path.realpath(path) in seen:
            raise ConfigError(f"extends: expected no circle, but '{path}' extends itself")


def _read_text(path: Path) -> str:
    """A regular file's text. Pipes and devices, which may never end or never begin, are refused unread."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "not a regular file")
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            content = file.read(MOST_BYTES + 1) or b""
        if len(content) > MOST_BYTES:
            raise OSError(0, f"more than {MOST_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "not a path"  # but with a NUL, say
        reason = str(error.strerror) if isinstance(error, OSError) else reason
        raise ConfigError(f"config_file: cannot read '{path}' ({reason}); check the path") from error


def parse_object(text: str, source: str) -> dict[str, Any]:
    """A JSON object without repeated keys. source: what to call the text in an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise ConfigError(f"{source}: key '{_clipped(repeated)}' is given twice; keep one")
        return values

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except ConfigError:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{source}: expected JSON, got a text that is none ({error.msg} at {place})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested as deeply
        raise ConfigError(f"{source}: expected JSON of a reasonable size ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f'{source}: expected a JSON object {{"key": value, …}}, got {_shown(value)}')
    return canonical(value, source)


def canonical(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Keys and values with `ALIASES` under our names.

    Raises ConfigError where a key is given under both, or a value that it does not take under its alias.
    """
    for alias, name in ALIASES.items():
        if alias in values and name in values:
            raise ConfigError(f"{source}: '{alias}' and '{name}' are one key; keep one")
        if alias in values:
            check_value(name, values[alias], called=f"{alias} ({name})")
    return {ALIASES.get(name, name): value for name, value in values.items()}


def idle_keys(config: Config, given: Mapping[str, Any], default_update: str) -> list[str]:
    """Keys that were given and do nothing: legacy ones, and those of another algorithm, meta-update or memory.

    default_update: the meta-update of the algorithm unless the configuration names one; "" for one without.
    """
    update = default_update if config.meta_update == "auto" else config.meta_update
    idle = []
    for name in given:
        metadata = FIELDS[name].metadata
        elsewhere = metadata["only"] and config.algorithm not in metadata["only"]
        elsewhere = elsewhere or config.algorithm in metadata["without"]
        other_update = metadata["updates"] and default_update and update not in metadata["updates"]
        no_buffer = name == "buffer_size" and config.episodes_kept != "episode_buffer"
        if metadata["group"] == LEGACY or elsewhere or other_update or no_buffer:
            idle.append(name)
    return idle


def frozen_differences(config: Config, original: Config) -> list[str]:
    """Keys in which a continued run may not differ from the run it continues, and does."""
    ours, theirs = config.to_dict(), original.to_dict()
    return [name for name, f in FIELDS.items() if not f.metadata["resumable"] and ours[name] != theirs[name]]


def _check_penalties(config: Config) -> None:
    for penalty, adaptive in (("inner", config.adaptive_inner_kl_penalty), ("outer", config.adaptive_outer_kl_penalty)):
        if not adaptive:
            continue
        target, start = f"target_{penalty}_step", f"init_{penalty}_kl_penalty"
        if getattr(config, target) == 0:
            raise ConfigError(f"{target}: expected a number > 0 with an adaptive penalty, got 0")
        if getattr(config, start) == 0:
            raise ConfigError(
                f"{start}: expected a number > 0 with adaptive_{penalty}_kl_penalty, since 0 doubled is 0, got 0"
            )


def _check_sizes(config: Config) -> None:
    tasks, rollouts = config.meta_batch_size, config.rollouts_per_meta_task
    if config.num_minibatches > tasks:
        raise ConfigError(
            f"num_minibatches: expected at most meta_batch_size = {tasks}, since minibatches are of tasks, got "
            f"{config.num_minibatches}"
        )
    if config.algorithm == "maesn" and config.num_train_tasks is None:
        raise ConfigError(
            'num_train_tasks: expected a whole number ≥ 1 with algorithm "maesn", which learns a latent for each '
            "training task, got null; set it, for example to 100"
        )
    if config.algorithm == "tesp" and config.num_inner_grad_steps == 1:
        raise ConfigError(
            'num_inner_grad_steps: expected a whole number ≥ 2 with algorithm "tesp", whose first step only fills the '
            "memory and adapts nothing, got 1"
        )
    if config.algorithm == "e_maml" and tasks == 1:
        raise ConfigError(
            'meta_batch_size: expected a whole number ≥ 2 with algorithm "e_maml", which credits a task by comparison '
            "with others, got 1"
        )
    if config.fisher_rollouts is not None and config.fisher_rollouts > rollouts:
        raise ConfigError(
            f"fisher_rollouts: expected at most rollouts_per_meta_task = {rollouts}, got {config.fisher_rollouts}"
        )


def _family(config: Config) -> TaskVectorEnv:
    """A lane of the family, closed. Raises ConfigError where it cannot be built."""
    from mmaml.envs.registry import check_family

    try:
        return check_family(config.env, config.env_kwargs, config.normalization_scale)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        names_its_key = text.startswith(("env:", "env_kwargs:", "normalization_scale:"))
        raise ConfigError(text if names_its_key else f"env_kwargs: {text}") from error
    except (KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # a user's module may even call sys.exit
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"env: '{config.env}' cannot be loaded ({reason}); put its module right") from error


def _action_size(config: Config, actions: Space) -> int:
    """Entries of actions of this space. Raises ConfigError where the configuration does not fit them."""
    from gymnasium.spaces import Discrete

    if isinstance(actions, Discrete):
        if not config.learn_std:
            raise ConfigError("learn_std: expected true for discrete actions, which have no log-std, got false")
        return int(actions.n)
    assert actions.shape is not None  # of a Box
    return actions.shape[0]


def _check_splits(config: Config, splits: Collection[str]) -> None:
    """Raise ConfigError if a run needs tasks of a split that its family does not have."""
    if "train" not in splits:
        raise ConfigError(f"env: expected tasks of the split \"train\", got '{config.env}', which has {splits}")
    embeds = config.te_save_path is not None and config.algorithm in FIELDS["te_save_path"].metadata["only"]
    for name, needed, off in (("eval_interval", config.eval_interval > 0, "0"), ("te_save_path", embeds, "null")):
        if needed and "test" not in splits:
            raise ConfigError(
                f"{name}: expected {off} with '{config.env}', which has {splits} and thus no tasks of the split "
                f'"test", got {_shown(getattr(config, name))}; leave it out, or have its sample_tasks draw such tasks'
            )


def _unknown_key(name: str) -> str:
    near = difflib.get_close_matches(name, [*FIELDS, *ALIASES], n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else "see docs/configuration.md for the keys"
    return f"{_clipped(name)}: unknown key; {hint}"


def _limit(value: Any) -> str:
    """What every number keeps below, where a value does not."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return " (below 2^63)"
    return f" (at most {LARGEST:g})" if isinstance(value, float) and LARGEST < abs(value) < math.inf else ""


def _shown(value: Any) -> str:
    try:
        return _clipped(json.dumps(value, default=repr))
    except (ValueError, TypeError, RecursionError):  # what JSON cannot hold, and only a caller in Python can give
        return f"a {type(value).__name__}"


def _clipped(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
