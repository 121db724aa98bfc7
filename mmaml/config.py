"""The configuration: every key with its type, range, default and meaning, in one place.

Validation, the command line and the table in docs/configuration.md all come from the fields of `Config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmaml.algorithms import ALGORITHMS
from mmaml.usage import UsageError

BASELINES = ("LinearFeatureBaseline", "LinearTimeBaseline", "ZeroBaseline")


class ConfigError(UsageError):
    """What is wrong with the user's configuration, in one line."""


@dataclass(frozen=True)
class Kind:
    """What values a key takes. expected: in words. accepts: the check. convert: from JSON's value to ours."""

    expected: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return math.isfinite(value) if isinstance(value, float) else _is_int(value) and abs(value) < 2**63


def integer(least: int) -> Kind:
    """A whole number of at least `least`."""
    return Kind(f"a whole number ≥ {least}", lambda v: _is_int(v) and least <= v < 2**63)


def number(low: float = -math.inf, high: float = math.inf, open_low: bool = False) -> Kind:
    """A finite number from `low` (itself excluded with open_low) to `high`."""
    words = "a number" + (f" {'>' if open_low else '≥'} {low:g}" if low > -math.inf else "")
    words += f" and ≤ {high:g}" if high < math.inf else ""
    return Kind(words, lambda v: _is_number(v) and low <= v <= high and not (open_low and v == low), float)


def choice(*options: str) -> Kind:
    """One of some words."""
    return Kind("one of " + ", ".join(f'"{option}"' for option in options), lambda v: v in options)


def optional(kind: Kind) -> Kind:
    """null, or another kind."""
    return Kind(
        f"{kind.expected} or null",
        lambda v: v is None or kind.accepts(v),
        lambda v: None if v is None else kind.convert(v),
    )


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("a non-empty string", lambda v: isinstance(v, str) and bool(v.strip()))
PATH = Kind("a path, as a non-empty string", lambda v: TEXT.accepts(v) and "\0" not in v)
OBJECT = Kind("a JSON object", lambda v: isinstance(v, dict) and all(isinstance(k, str) for k in v))
SIZES = Kind(
    "a list of whole numbers ≥ 1, at least one",
    lambda v: isinstance(v, list | tuple) and len(v) > 0 and all(_is_int(n) and 1 <= n < 2**31 for n in v),
    tuple,
)
SCALE = Kind(
    '"family", a number > 0 or null',
    lambda v: v is None or v == "family" or (_is_number(v) and v > 0),
    lambda v: v if v is None or v == "family" else float(v),
)
DEVICE = Kind(
    '"auto", "cpu", "cuda" or "cuda:0", "cuda:1", …',
    lambda v: (
        isinstance(v, str)
        and (v in ("auto", "cpu", "cuda") or (v.startswith("cuda:") and v[5:].isascii() and v[5:].isdecimal()))
    ),
)


def _key(group: str, default: Any, kind: Kind, text: str, only: str = "", resumable: bool = False) -> Any:
    """A field. only: the algorithm in which alone it has an effect. resumable: may change when a run continues."""
    metadata = {"group": group, "kind": kind, "text": text, "only": only, "resumable": resumable}
    return field(default=default, metadata=metadata)


LEGACY = "legacy"


@dataclass(frozen=True)
class Config:
    """A run's whole configuration. See the metadata of each field, or docs/configuration.md."""

    algorithm: str = _key("Experiment", "mmaml", choice(*ALGORITHMS), "what trains; by default the run script's own")
    env: str = _key(
        "Experiment",
        "MetaPointEnvMomentumModes",
        TEXT,
        'the task family: a registered name, or "package.module:ClassName" of your own environment',
    )
    env_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "group": "Experiment",
            "kind": OBJECT,
            "text": "arguments of the family's constructor, such as centers, noise, reward_type",
            "only": "",
            "resumable": False,
        },
    )
    seed: int = _key("Experiment", 1, integer(0), "root of every random number of the run")
    n_itr: int = _key("Experiment", 1001, integer(1), "iterations of meta-training", resumable=True)

    meta_batch_size: int = _key("Sampling", 40, integer(1), "M, tasks an iteration")
    rollouts_per_meta_task: int = _key("Sampling", 20, integer(1), "N, rollouts (lanes) of a task a collection")
    max_path_length: int = _key("Sampling", 100, integer(1), "T, horizon of an episode in time steps")
    collect: str = _key(
        "Sampling",
        "lanes",
        choice("lanes", "episodes"),
        '"lanes": an episode that terminates is followed by another in its lane, N·T real steps; '
        '"episodes": exactly N episodes, the rest of a lane is padding',
    )
    normalization_scale: str | float | None = _key(
        "Sampling",
        "family",
        SCALE,
        "s: actions in [-s, s] are rescaled to the environment's bounds; null: clipped only; "
        '"family": the scale of the family\'s published experiments',
    )
    parallel: bool = _key(
        "Sampling", True, FLAG, "relaunch under mpirun on all cores; false: one process", resumable=True
    )
    master_samples: bool = _key(
        "Sampling",
        True,
        FLAG,
        "rank 0 samples a share of the tasks too; false: it only updates",
        resumable=True,
    )

    baseline: str = _key("Advantages", "LinearFeatureBaseline", choice(*BASELINES), "value baseline, fitted per task")
    discount: float = _key("Advantages", 0.99, number(0, 1), "γ")
    gae_lambda: float = _key("Advantages", 1.0, number(0, 1), "λ of generalised advantage estimation")
    normalize_adv: bool = _key("Advantages", True, FLAG, "advantages to mean 0, standard deviation 1 per task")
    positive_adv: bool = _key("Advantages", False, FLAG, "shift advantages to be positive, after normalising")

    hidden_sizes: tuple[int, ...] = _key("Policy", (64, 64), SIZES, "units of the policy's hidden layers")
    hidden_nonlinearity: str = _key("Policy", "tanh", choice("tanh", "relu"), "nonlinearity of the hidden layers")
    learn_std: bool = _key(
        "Policy", True, FLAG, "adapt and meta-learn the log-std; false: it stays 0 (std 1); discrete actions have none"
    )

    num_inner_grad_steps: int = _key("Adaptation", 1, integer(1), "K, inner steps")
    inner_lr: float = _key("Adaptation", 0.1, number(0, open_low=True), "α, step size of an inner step")

    learning_rate: float = _key("Meta-update", 1e-3, number(0, open_low=True), "Adam's step size")
    learning_rate_anneal: float = _key(
        "Meta-update", 1.0, number(0, 1, open_low=True), "the step size is multiplied by learning_rate_anneal^iteration"
    )
    num_promp_steps: int = _key("Meta-update", 5, integer(1), "E, epochs on the data of an iteration")
    num_minibatches: int = _key("Meta-update", 1, integer(1), "minibatches (of tasks) an epoch")
    clip_eps: float = _key("Meta-update", 0.3, number(0, open_low=True), "ε of the clipped likelihood ratio")
    clip_outer: bool = _key("Meta-update", True, FLAG, "clip the ratio of the meta-objective; false: plain surrogate")
    anneal_factor: float = _key(
        "Meta-update", 1.0, number(0, 1, open_low=True), "ε is multiplied by anneal_factor^iteration"
    )
    init_inner_kl_penalty: float = _key("Meta-update", 5e-4, number(0), "η_k at the start: weight of KL(π_old,k ‖ π_k)")
    adaptive_inner_kl_penalty: bool = _key(
        "Meta-update", False, FLAG, "halve or double each η_k once an iteration, towards target_inner_step"
    )
    target_inner_step: float = _key("Meta-update", 0.01, number(0), "target of the adaptive inner KL")
    init_outer_kl_penalty: float = _key(
        "Meta-update", 0.0, number(0), "η_out at the start: weight of KL(π_old,K ‖ π_K)"
    )
    adaptive_outer_kl_penalty: bool = _key("Meta-update", False, FLAG, "adapt η_out by the same rule")
    target_outer_step: float = _key("Meta-update", 0.01, number(0), "target of the adaptive outer KL")
    meta_gradient: str = _key(
        "Meta-update",
        "auto",
        choice("auto", "master", "ranks"),
        'where the meta-gradient is computed; "auto": on the master if it has a GPU, else on the ranks',
        resumable=True,
    )
    device: str = _key(
        "Meta-update", "auto", DEVICE, 'the master\'s device; "auto": a GPU if there is one', resumable=True
    )

    cell_size: int = _key("Task encoder", 64, integer(1), "units of the GRU and of the encoder's MLPs", "mmaml")
    use_betas: bool = _key("Task encoder", False, FLAG, "shift the hidden layers as well as scale them", "mmaml")
    shift_gammas: bool = _key("Task encoder", True, FLAG, "scale by γ + 1 instead of γ", "mmaml")
    mlp_after_gru: bool = _key("Task encoder", True, FLAG, "MLP on each episode's final state", "mmaml")
    mlp_after_pool: bool = _key("Task encoder", True, FLAG, "MLP on the mean over episodes", "mmaml")
    encoder_input: str = _key(
        "Task encoder",
        "full",
        choice("full", "published"),
        'what the GRU reads: "full" rollouts, or the 5·N steps that the published code gave it',
        "mmaml",
    )

    eval_interval: int = _key(
        "Evaluation",
        0,
        integer(0),
        "evaluate on held-out tasks every so many iterations; 0: never",
        resumable=True,
    )
    eval_num_tasks: int = _key("Evaluation", 40, integer(1), "held-out tasks of such an evaluation", resumable=True)

    dump_path: str | None = _key(
        "Output",
        None,
        optional(PATH),
        "directory of the run; null: a new one in data/, named by script, env and time",
        resumable=True,
    )
    restore_path: str | None = _key(
        "Output", None, optional(PATH), "checkpoint, or directory of a run, to continue from", resumable=True
    )
    save_steps: int = _key("Output", 50, integer(1), "write a checkpoint every so many iterations", resumable=True)
    max_checkpoints_to_keep: int = _key("Output", 20, integer(1), "newest checkpoints kept", resumable=True)
    keep_checkpoint_every_n_hours: float = _key(
        "Output",
        1.0,
        number(0),
        "beyond those, keep one checkpoint every so many hours; 0: none",
        resumable=True,
    )
    log_grad_norm: bool = _key("Output", False, FLAG, "log the norm of the meta-gradient and its parts", resumable=True)
    te_save_path: str | None = _key(
        "Output",
        None,
        optional(PATH),
        "file (.npz) for task embeddings at the end of the run",
        "mmaml",
        resumable=True,
    )
    num_embeddings: int = _key("Output", 100, integer(1), "tasks whose embeddings are written", "mmaml", resumable=True)

    step_size: float | None = _key(LEGACY, None, optional(number()), "accepted for older files; has no effect")
    exploration: bool | None = _key(LEGACY, None, optional(FLAG), "accepted for older files; has no effect")

    def to_dict(self) -> dict[str, Any]:
        """The keys and values as a JSON object would hold them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


FIELDS = {f.name: f for f in dataclasses.fields(Config)}
EXTENDS = "extends"


def load_config(
    path: str | Path | None, overrides: Mapping[str, Any] | None = None, algorithm: str | None = None
) -> Config:
    """Defaults, then the file at `path` (and what it extends), then `overrides`, validated.

    algorithm: what runs if neither names one. Raises ConfigError.
    """
    default = {} if algorithm is None else {"algorithm": algorithm}
    file = {} if path is None else read_config_file(Path(path))
    return build_config({**default, **file, **(overrides or {})})


def build_config(values: Mapping[str, Any]) -> Config:
    """A validated Config from keys and values. Raises ConfigError."""
    for name, value in values.items():
        if name not in FIELDS:
            raise ConfigError(_unknown_key(name))
        kind: Kind = FIELDS[name].metadata["kind"]
        if not kind.accepts(value):
            raise ConfigError(f"{name}: expected {kind.expected}, got {_shown(value)}")
    config = Config(**{name: FIELDS[name].metadata["kind"].convert(value) for name, value in values.items()})
    _check_together(config)
    return config


def read_config_file(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Keys and values of a JSON file, laid over those of the file it "extends" (a path from its own folder)."""
    if path.resolve() in seen:
        raise ConfigError(f"extends: expected no circle, but '{path}' extends itself")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"config_file: cannot read '{path}' ({reason}); check the path") from error
    values = parse_object(text, f"config_file '{path}'")
    parent = values.pop(EXTENDS, None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ConfigError(f"extends: expected the path of a config file, got {_shown(parent)} in '{path}'")
    return read_config_file(path.parent / parent, (*seen, path.resolve())) | values


def parse_object(text: str, source: str) -> dict[str, Any]:
    """A JSON object without repeated keys. source: what to call the text in an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ConfigError(f"{source}: key '{repeated}' is given twice; keep one")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except ConfigError:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{source}: expected JSON, got a text that is none ({error.msg} at {place})") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, brackets nested as deeply
        raise ConfigError(f"{source}: expected JSON of a reasonable size ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f'{source}: expected a JSON object {{"key": value, …}}, got {_shown(value)}')
    return value


def idle_keys(config: Config, given: Mapping[str, Any]) -> list[str]:
    """Keys that were given and do nothing: legacy ones, and those of another algorithm."""
    idle = []
    for name in given:
        metadata = FIELDS[name].metadata
        if metadata["group"] == LEGACY or metadata["only"] not in ("", config.algorithm):
            idle.append(name)
    return idle


def frozen_differences(config: Config, original: Config) -> list[str]:
    """Keys in which a continued run may not differ from the run it continues, and does."""
    ours, theirs = config.to_dict(), original.to_dict()
    return [name for name, f in FIELDS.items() if not f.metadata["resumable"] and ours[name] != theirs[name]]


def _check_together(config: Config) -> None:
    if config.num_minibatches > config.meta_batch_size:
        raise ConfigError(
            f"num_minibatches: expected at most meta_batch_size = {config.meta_batch_size}, since minibatches are of "
            f"tasks, got {config.num_minibatches}"
        )
    for target, adaptive in (
        ("target_inner_step", config.adaptive_inner_kl_penalty),
        ("target_outer_step", config.adaptive_outer_kl_penalty),
    ):
        if adaptive and getattr(config, target) == 0:
            raise ConfigError(f"{target}: expected a number > 0 with an adaptive penalty, got 0")
    if config.adaptive_outer_kl_penalty and config.init_outer_kl_penalty == 0:
        raise ConfigError(
            "init_outer_kl_penalty: expected a number > 0 with adaptive_outer_kl_penalty, since 0 doubled is 0, got 0"
        )
    if config.adaptive_inner_kl_penalty and config.init_inner_kl_penalty == 0:
        raise ConfigError(
            "init_inner_kl_penalty: expected a number > 0 with adaptive_inner_kl_penalty, since 0 doubled is 0, got 0"
        )
    if config.device.startswith("cuda") and config.meta_gradient == "ranks":
        raise ConfigError(
            f'device: expected "auto" or "cpu" with meta_gradient "ranks", which uses no GPU, got "{config.device}"'
        )
    _check_environment(config)


def _check_environment(config: Config) -> None:
    from gymnasium.spaces import Discrete

    from envs.registry import check_family

    try:
        actions = check_family(config.env, config.env_kwargs, config.normalization_scale)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        names_its_key = text.startswith(("env:", "env_kwargs:", "normalization_scale:"))
        raise ConfigError(text if names_its_key else f"env_kwargs: {text}") from error
    if isinstance(actions, Discrete) and not config.learn_std:
        raise ConfigError("learn_std: expected true for discrete actions, which have no log-std, got false")


def _unknown_key(name: str) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else "see docs/configuration.md for the keys"
    return f"{name}: unknown key; {hint}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
