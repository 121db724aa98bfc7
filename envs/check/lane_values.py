"""The form of what `reset` and `step` of a `gymnasium.Env` return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs import answers
from mmaml.envs.answers import Refused, as_numbers
from mmaml.envs.check.findings import Finding, error, of_usage_error, warning
from mmaml.envs.shown import shown

TERM = "reward_"  # how names of terms of the reward begin
SUM_TOLERANCE = 1e-3  # of the terms' absolute values: rewards are float32


def of_reset(name: str, space: Any, output: Any) -> list[Finding]:
    """name: the environment's class. space: of its observations. output: what its `reset` returned."""
    where = f"{name}.reset"
    try:
        observation, info = answers.of_reset(output)
    except Refused as refused:
        return [of_usage_error(refused.in_method(where))]
    return [*of_observation(where, space, observation), *findings_of(where, answers.mapping, info)]


def of_step(name: str, space: Any, output: Any) -> list[Finding]:
    """As `of_reset`, for `step`."""
    where = f"{name}.step"
    try:
        observation, reward, terminated, truncated, info = answers.of_step(output)
    except Refused as refused:
        found = [of_usage_error(refused.in_method(where))]
        is_old = isinstance(output, tuple | list) and len(output) == 4
        return found + (of_step(name, space, (*output[:3], False, output[3])) if is_old else [])
    return [
        *of_observation(where, space, observation),
        *findings_of(where, answers.reward, reward),
        *findings_of(where, answers.truth, "terminated", terminated),
        *findings_of(where, answers.truth, "truncated", truncated),
        *findings_of(where, answers.mapping, info),
        *(_of_entries(where, reward, info) if isinstance(info, Mapping) else []),
    ]


def findings_of(where: str, take: Callable[..., Any], /, *arguments: Any) -> list[Finding]:
    """The refusal of `take`, a function of `mmaml.envs.answers`, as a finding; none where it takes the arguments."""
    try:
        take(*arguments)
    except Refused as refused:
        return [of_usage_error(refused.in_method(where))]
    return []


def of_observation(where: str, space: Any, observation: Any) -> list[Finding]:
    """Shape, dtype, and whether it lies in its space; whether it is finite is for `of_finite`."""
    array = as_numbers(observation)
    is_box = isinstance(space, gym.spaces.Box)
    shape = space.shape if is_box else getattr(array, "shape", ())
    if refused := findings_of(where, answers.observation, observation, shape):
        return refused
    if array is None or not is_box:
        return []
    where, findings = f"{where}: observation", []
    if not isinstance(observation, np.ndarray) or array.dtype != space.dtype:
        got = str(array.dtype) if isinstance(observation, np.ndarray) else f"a {type(observation).__name__}"
        expected = f"a {space.dtype} array, as its space says"
        findings.append(warning(where, expected=expected, got=got, remedy="it is converted to float32"))
    outside = np.flatnonzero((array < space.low) | (array > space.high))
    if len(outside):
        entry = outside[0]
        expected = f"entry {entry} from {space.low[entry]:g} to {space.high[entry]:g}, as its space says"
        remedy = "correct the bounds of observation_space"
        findings.append(warning(where, expected=expected, got=f"{array[entry]:g}", remedy=remedy))
    return findings


def of_finite(name: str, method: str, output: Any) -> list[Finding]:
    """NaN and infinity in observations or rewards, of one lane or a block."""
    findings = []
    values = output if isinstance(output, tuple | list) else (output,)
    parts = ("observation",) if method == "reset" else ("observation", "reward")
    for part, value in zip(parts, values, strict=False):
        array = as_numbers(value)
        if array is not None and not np.isfinite(array).all():
            got = f"{array[~np.isfinite(array)].flat[0]}" if array.ndim else f"{array}"
            remedy = "training stops after a few updates with such numbers"
            findings.append(error(f"{name}.{method}: {part}", expected="finite numbers", got=got, remedy=remedy))
    return findings


def of_sum(where: str, reward: Any, terms: list[Any]) -> list[Finding]:
    """Terms "reward_…" that do not sum to the reward; numbers, or arrays of them, one for each lane."""
    values, rewards = np.atleast_2d(np.array(terms, np.float64).T).T, np.atleast_1d(np.asarray(reward, np.float64))
    wrong = np.abs(values.sum(0) - rewards) > SUM_TOLERANCE * (1 + np.abs(values).sum(0))
    if not wrong.any():
        return []
    lane = np.flatnonzero(wrong)[0]
    expected, got = "terms that sum to the reward", f"{values.sum(0)[lane]:g} for {rewards[lane]:g}"
    remedy = 'report every term, or use names that do not begin with "reward_"'
    return [warning(f"{where}: info['reward_…']", expected=expected, got=got, remedy=remedy)]


def _of_entries(where: str, reward: Any, info: Mapping[Any, Any]) -> list[Finding]:
    """Of an info: terms of the reward, which are numbers and sum to it; success; and what is not read of it."""
    findings, terms = [], []
    for key, value in info.items():
        if not isinstance(key, str) or not key.startswith(TERM):
            continue
        if (term := answers.one_number(value)) is not None:
            terms.append(term)
            continue
        remedy = 'return a number, or give it a name that does not begin with "reward_"'
        entry, expected = f"{where}: info['{key}']", "a number, a term of the reward"
        findings.append(warning(entry, expected=expected, got=shown(value), remedy=remedy))
    number = answers.one_number(reward)
    if terms and number is not None:
        findings += of_sum(where, number, terms)
    findings += findings_of(where, answers.success, info)
    if "blow_up" in info:
        problem = "is read from a TaskVectorEnv alone"
        findings.append(warning(f"{where}: info['blow_up']", problem, "report a failed simulation by terminated"))
    return findings
