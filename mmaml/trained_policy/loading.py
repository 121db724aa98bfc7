"""`mmaml.load`: from a run, a checkpoint or a saved policy to a policy that acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mmaml.config.keys import Config
from mmaml.config.loading import check_value, read_config
from mmaml.config.value_types import plain
from mmaml.errors import ConfigError, UsageError, described
from mmaml.paths import located
from mmaml.sampling.policy_spaces import PolicySpaces
from mmaml.storage import checkpoint
from mmaml.storage.checkpoint_format import CheckpointError
from mmaml.storage.compatibility import restored_statistics
from mmaml.trained_policy.policy import TrainedPolicy

AS_TRAINED = "family"


def load(
    restore_path: str | Path,
    *,
    seed: int | None = None,
    inner_lr: float | Sequence[float] | None = None,
    horizon: int | None = None,
    action_space: Box | Discrete | None = None,
    normalization_scale: str | float | None = AS_TRAINED,
) -> TrainedPolicy:
    """A trained policy, which acts and adapts in the caller's own loop.

    restore_path: a run's directory, for its newest checkpoint; a checkpoint; or a file of `TrainedPolicy.save`, whose
    policy is adapted as it was. seed: of the actions that are drawn; another each time when None. inner_lr: step size
    of the first, the second, … inner step, the last of all later; that of training when None. horizon: steps after
    which an episode is over; that of training when None. action_space, normalization_scale: of the environment, in
    place of those in the file, and needed for checkpoints of version 0.1 whose task family is not to be found here.

    Raises UsageError if there is no such policy, or if it does not fit what is given.
    """
    if not isinstance(restore_path, str | Path):
        raise UsageError("restore_path", expected="the path of a run, a checkpoint or a policy", got=repr(restore_path))
    check_value("restore_path", str(restore_path))
    if not (seed is None or (isinstance(seed, int | np.integer) and seed >= 0)):
        raise UsageError("seed", expected="a whole number ≥ 0, or None", got=repr(seed))
    path, state = checkpoint.newest(located(restore_path, "restore_path"))
    config = _with_step_sizes(_config(state["config"], path), inner_lr)
    adapted = _adapted(state, path)
    if horizon is None:
        horizon = adapted.get("horizon", config.max_path_length)
    check_value("max_path_length", horizon, called="horizon")
    spaces = _spaces(state, config, path, action_space, normalization_scale)
    statistics = restored_statistics(config, spaces.observation_size, state)
    rng = np.random.default_rng(seed)
    policy = TrainedPolicy(config, spaces, state["parameters"], statistics, rng, horizon, path)
    if adapted:
        _restore(policy, adapted, path)
    return policy


def _with_step_sizes(config: Config, inner_lr: float | Sequence[float] | None) -> Config:
    """The configuration with other step sizes, unless they are None. Raises UsageError where they have no effect."""
    if inner_lr is None:
        return config
    if config.declaration.is_idle("inner_lr"):
        raise UsageError("inner_lr", f"has no effect on a policy of {config.algorithm}", "leave it out")
    return read_config(config.to_dict() | {"inner_lr": plain(inner_lr)})


def _restore(policy: TrainedPolicy, adapted: Mapping[str, Any], path: Path) -> None:
    """Have a policy go on from what the one in the file had adapted to."""
    try:
        policy.restore(adapted)
    except UsageError:
        raise
    except (AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        problem = f"what '{path}' has adapted to cannot be read ({described(error)})"
        raise CheckpointError("restore_path", problem) from error


def _adapted(state: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """What the policy of `TrainedPolicy.save` had adapted to; empty for a checkpoint of a run."""
    adapted = state.get("adapted", {})
    if not isinstance(adapted, dict):
        raise CheckpointError("restore_path", f"what '{path}' has adapted to cannot be read")
    return adapted


def _config(values: Mapping[str, Any], path: Path) -> Config:
    """The configuration in a checkpoint; its task family need not be found here."""
    try:
        return read_config(values)
    except ConfigError as error:
        raise CheckpointError("restore_path", f"the configuration in '{path}' cannot be used here: {error}") from error


def _spaces(
    state: Mapping[str, Any],
    config: Config,
    path: Path,
    action_space: Box | Discrete | None,
    normalization_scale: str | float | None,
) -> PolicySpaces:
    """Those that are given, else those of the checkpoint, of its task family, or that its parameters show."""
    spaces = _recorded_spaces(state, path) or _spaces_of_family(config)
    if spaces is None:
        spaces = _spaces_of_parameters(state["parameters"], config, path, action_space, normalization_scale)
    spaces = replace(spaces, actions=spaces.actions if action_space is None else action_space)
    check_value("normalization_scale", normalization_scale)
    if not isinstance(normalization_scale, str):
        spaces = replace(spaces, scale=normalization_scale)
    try:
        spaces.check()
    except ConfigError as error:
        raise (error.renamed("action_space") if error.argument == "env" else error) from error
    return spaces


def _recorded_spaces(state: Mapping[str, Any], path: Path) -> PolicySpaces | None:
    """Those that the checkpoint records; None for one of version 0.1, which records none."""
    if "environment" not in state:
        return None
    try:
        return PolicySpaces.from_record(state["environment"])
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError("restore_path", f"the action space in '{path}' cannot be read ({error})") from error


def _spaces_of_family(config: Config) -> PolicySpaces | None:
    """Those of the configuration's task family, None where it is not to be found here."""
    from mmaml.envs.registry import check_family  # here: most policies do without

    try:
        spec = check_family(config.env, config.env_kwargs, config.normalization_scale)
    except (Exception, SystemExit):  # a user's module may fail in any way
        return None
    return PolicySpaces.of_spec(spec, config.normalization_scale)


def _spaces_of_parameters(
    parameters: Mapping[str, Tensor],
    config: Config,
    path: Path,
    action_space: Box | Discrete | None,
    normalization_scale: str | float | None,
) -> PolicySpaces:
    """What sizes and units follow from a checkpoint of version 0.1. Raises UsageError where more has to be given."""
    layers = [name for name in parameters if name.startswith("policy.") and name.endswith(".weight")]
    size, actions = parameters[layers[0]].shape[0], parameters[layers[-1]].shape[1]
    if "policy.log_std" not in parameters:
        return PolicySpaces(size, Discrete(actions), None)
    given = normalization_scale if config.normalization_scale == AS_TRAINED else config.normalization_scale
    if isinstance(given, str) or (action_space is None and given is not None):
        raise UsageError(
            "action_space",
            f"'{path}' does not record it, and its environment, '{config.env}', cannot be loaded here",
            "give action_space and normalization_scale",
        )
    return PolicySpaces(size, Box(-np.inf, np.inf, (actions,)), given)
