"""Whether the spaces and attributes of an environment or family are such as training takes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs.base import SPLITS
from mmaml.envs.check.findings import Finding, error, of_usage_error, warning
from mmaml.envs.layers import attribute
from mmaml.envs.shown import shown
from mmaml.envs.spaces import INFINITE, is_flat_box, refused_spaces, to_environment
from mmaml.errors import ConfigError


def of_spaces(name: str, observations: Any, actions: Any) -> list[Finding]:
    """What `refused_spaces` finds. name: of their class."""
    return [of_usage_error(refused) for refused in refused_spaces(name, observations, actions)]


def of_attributes(name: str, env: Any, actions: Any, uses_scale: bool = True, trains: bool = True) -> list[Finding]:
    """num_modes, tasks_per_mode, splits, finite_horizon and, if it is used, normalization_scale.

    env: an object, also one that wraps what has them.
    trains: whether tasks to train on are needed.
    """
    findings = []
    modes = attribute(env, "num_modes", 1)
    if not is_count(modes):
        findings.append(error(f"{name}.num_modes", expected="a whole number of at least 1", got=shown(modes)))
    tasks = attribute(env, "tasks_per_mode", None)
    if tasks is not None and not is_count(tasks):
        expected = "a whole number of at least 1, or None"
        findings.append(error(f"{name}.tasks_per_mode", expected=expected, got=shown(tasks)))
    if not isinstance(horizon := attribute(env, "finite_horizon", False), bool):
        findings.append(error(f"{name}.finite_horizon", expected="True or False", got=shown(horizon)))
    return [*findings, *_of_splits(name, env, trains), *(_of_scale(name, env, actions) if uses_scale else [])]


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _of_splits(name: str, env: Any, trains: bool) -> list[Finding]:
    splits = attribute(env, "splits", ("train", "test"))
    listed = isinstance(splits, tuple | list)
    if not listed or not splits or not set(map(str, splits)) <= set(SPLITS):
        expected = f"some of {SPLITS}, in a tuple"
        return [error(f"{name}.splits", expected=expected, got=shown(splits))]
    if trains and "train" not in splits:
        return [error(f"{name}.splits", expected='"train" among them', got=shown(splits))]
    if "test" not in splits:
        problem = 'has no "test": evaluations during training and embeddings need tasks that training never sees'
        return [warning(f"{name}.splits", problem, "have sample_tasks draw such tasks")]
    return []


def _of_scale(name: str, env: Any, actions: Any) -> list[Finding]:
    where, scale = f"{name}.normalization_scale", attribute(env, "normalization_scale", None)
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
