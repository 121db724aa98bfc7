"""Whether the spaces and attributes of an environment or family are such as training takes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs.base import SPLITS, to_environment
from mmaml.envs.check.comparison import same
from mmaml.envs.check.findings import Finding, error, shown, warning
from mmaml.errors import ConfigError

INFINITE = 1e30  # a bound beyond this is meant as none


def of_spaces(name: str, observations: Any, actions: Any) -> list[Finding]:
    """Observations have to be a Box of one dimension, actions such a Box or Discrete. name: of their class."""
    box = "a Box of one dimension"
    findings = []
    if not is_flat_box(observations):
        remedy = "flatten observations within the class" if observations is not None else "set it in __init__"
        findings.append(error(f"{name}.observation_space", expected=box, got=shown(observations), remedy=remedy))
    elif observations.dtype == bool:
        remedy = "make it one of numbers, np.float32"
        findings.append(error(f"{name}.observation_space", expected="a Box of numbers", got="bool", remedy=remedy))
    if is_flat_box(actions):
        findings += _of_box_actions(f"{name}.action_space", actions)
    elif not isinstance(actions, gym.spaces.Discrete):
        remedy = "convert to one of them within the class" if actions is not None else "set it in __init__"
        findings.append(error(f"{name}.action_space", expected=f"{box} or Discrete", got=shown(actions), remedy=remedy))
    return findings


def is_flat_box(space: Any) -> bool:
    """Whether it is a Box of one dimension with at least one entry."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0


def _of_box_actions(where: str, space: gym.spaces.Box) -> list[Finding]:
    if space.dtype == bool:
        remedy = "use Discrete, or a Box of np.float32"
        return [error(where, expected="a Box of numbers", got="bool", remedy=remedy)]
    findings = []
    if np.issubdtype(space.dtype, np.integer):
        remedy = "the policy's actions are cut off towards 0: use Discrete, or round real numbers within the class"
        findings.append(warning(where, expected="a Box of real numbers", got=str(space.dtype), remedy=remedy))
    bounds = np.abs(np.concatenate([space.low, space.high]).astype(np.float64))
    if ((bounds > INFINITE) & np.isfinite(bounds)).any():
        remedy = "use np.inf for no bound"
        findings.append(
            error(where, expected="bounds within ±1e30, or infinite", got=f"{bounds.max():g}", remedy=remedy)
        )
    return findings


def of_attributes(name: str, env: Any, actions: Any, read_from: Any) -> list[Finding]:
    """num_modes, normalization_scale, splits and finite_horizon.

    read_from: the object or class from which training reads all but the last.
    """
    findings = []
    for attribute in ("num_modes", "normalization_scale", "splits"):
        if not same(getattr(env, attribute, None), getattr(read_from, attribute, None)):
            remedy = "set it in the class"
            problem = "is set in __init__, but training reads the class attribute"
            findings.append(error(f"{name}.{attribute}", problem, remedy))
    modes = getattr(read_from, "num_modes", 1)
    if not isinstance(modes, int | np.integer) or isinstance(modes, bool) or modes < 1:
        findings.append(error(f"{name}.num_modes", expected="a whole number of at least 1", got=shown(modes)))
    if not isinstance(horizon := getattr(env, "finite_horizon", False), bool):
        findings.append(error(f"{name}.finite_horizon", expected="True or False", got=shown(horizon)))
    return [*findings, *_of_splits(name, read_from), *_of_scale(name, read_from, actions)]


def _of_splits(name: str, read_from: Any) -> list[Finding]:
    splits = getattr(read_from, "splits", ("train", "test"))
    listed = isinstance(splits, tuple | list)
    if not listed or not splits or not set(map(str, splits)) <= set(SPLITS):
        expected = f"some of {SPLITS}, in a tuple"
        return [error(f"{name}.splits", expected=expected, got=shown(splits))]
    if "train" not in splits:
        return [error(f"{name}.splits", expected='"train" among them', got=shown(splits))]
    if "test" not in splits:
        problem = 'has no "test": evaluations during training and embeddings need tasks that training never sees'
        return [warning(f"{name}.splits", problem, "have sample_tasks draw such tasks")]
    return []


def _of_scale(name: str, read_from: Any, actions: Any) -> list[Finding]:
    where, scale = f"{name}.normalization_scale", getattr(read_from, "normalization_scale", None)
    if scale is None:
        return []
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < INFINITE:
        return [error(where, expected="a number above 0 or None", got=shown(scale))]
    if not is_flat_box(actions) and not isinstance(actions, gym.spaces.Discrete):
        return []
    try:
        to_environment(np.zeros((1, 1), np.float32), actions, scale)
    except ConfigError as refused:
        return [error(where, expected=refused.expected.replace("null", "None"), got=refused.got)]
    return []
