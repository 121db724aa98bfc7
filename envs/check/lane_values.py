"""The form of what `reset` and `step` of a `gymnasium.Env` return."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs.adapter import is_truth
from mmaml.envs.check.findings import Finding, error, shown, warning

NEW_API = "return what Gymnasium's API says, which differs from old Gym's"
STEP = "(observation, reward, terminated, truncated, info)"
SUM_TOLERANCE = 1e-3  # of the terms' absolute values: rewards are float32


def of_reset(name: str, space: Any, output: Any) -> list[Finding]:
    """name: the environment's class. space: of its observations. output: what its `reset` returned."""
    where = f"{name}.reset"
    if not isinstance(output, tuple | list) or len(output) != 2:
        return [error(where, expected="(observation, info)", got=_form(output), remedy=NEW_API)]
    observation, info = output
    return [*of_observation(where, space, observation), *_of_info(where, info)]


def of_step(name: str, space: Any, output: Any) -> list[Finding]:
    """As `of_reset`, for `step`."""
    where = f"{name}.step"
    expected = f"five values {STEP}"
    if isinstance(output, tuple | list) and len(output) == 4:
        got = "4 values, as in old Gym (observation, reward, done, info)"
        found = error(where, expected=expected, got=got, remedy=NEW_API)
        return [found, *of_step(name, space, (*output[:3], False, output[3]))]
    if not isinstance(output, tuple | list) or len(output) != 5:
        return [error(where, expected=expected, got=_form(output), remedy=NEW_API)]
    observation, reward, terminated, truncated, info = output
    return [
        *of_observation(where, space, observation),
        *_of_reward(where, reward),
        *_of_flag(f"{where}: terminated", terminated),
        *_of_flag(f"{where}: truncated", truncated),
        *_of_info(where, info),
        *(_of_entries(where, reward, info) if isinstance(info, Mapping) else []),
    ]


def of_observation(where: str, space: Any, observation: Any) -> list[Finding]:
    """Shape, dtype, and whether it lies in its space; whether it is finite is for `of_finite`."""
    where = f"{where}: observation"
    array = as_numbers(observation)
    if array is None:
        return [error(where, expected="an array of numbers", got=shown(observation))]
    if not isinstance(space, gym.spaces.Box):
        return []
    if array.shape != space.shape:
        expected = f"shape {space.shape}, as its space says"
        return [error(where, expected=expected, got=f"shape {array.shape}", remedy="return what the space describes")]
    findings = []
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


def is_number(value: Any) -> bool:
    """Whether it is one real number, in Python, NumPy or as an array without dimensions."""
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "biuf"
    if not isinstance(value, numbers.Real | np.bool_):
        return False
    try:
        float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
    return True


def _is_truth(value: Any) -> bool:
    """As `is_truth`, of any object of a user."""
    try:
        return is_truth(value)
    except Exception:  # a user's __eq__ may fail in any way
        return False


def _of_reward(where: str, reward: Any) -> list[Finding]:
    if is_number(reward):
        return []
    return [error(f"{where}: reward", expected="a number", got=shown(reward), remedy="return float(reward)")]


def _of_flag(where: str, flag: Any) -> list[Finding]:
    if _is_truth(flag) and not isinstance(flag, tuple | list):
        return []
    return [error(where, expected="true or false", got=shown(flag), remedy="return a bool")]


def _of_info(where: str, info: Any) -> list[Finding]:
    if isinstance(info, Mapping):
        return []
    return [error(f"{where}: info", expected="a dict", got=shown(info), remedy="return {} for none")]


def _of_entries(where: str, reward: Any, info: Mapping[Any, Any]) -> list[Finding]:
    """The entries of an info that are read: terms of the reward, success; and such as are taken for one."""
    findings = []
    terms = {key: value for key, value in info.items() if isinstance(key, str) and key.startswith("reward_")}
    for key, value in terms.items():
        if not is_number(value):
            remedy = 'return a number, or give it a name that does not begin with "reward_"'
            level = warning if as_numbers(value) is not None else error  # what cannot be converted fails its task
            entry, expected = f"{where}: info['{key}']", "a number, a term of the reward"
            findings.append(level(entry, expected=expected, got=shown(value), remedy=remedy))
    if terms and is_number(reward) and all(map(is_number, terms.values())):
        findings += of_sum(where, reward, list(terms.values()))
    if "success" in info and not _is_truth(info["success"]):
        entry = f"{where}: info['success']"
        findings.append(error(entry, expected="true or false", got=shown(info["success"]), remedy="return a bool"))
    if "is_success" in info and "success" not in info:
        problem = "is not read"
        findings.append(warning(f"{where}: info['is_success']", problem, "name it 'success' to have it reported"))
    if "blow_up" in info:
        problem = "is read from a TaskVectorEnv alone"
        findings.append(warning(f"{where}: info['blow_up']", problem, "report a failed simulation by terminated"))
    return findings


def as_numbers(value: Any) -> np.ndarray | None:
    """It as an array of real numbers; None where it is none."""
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists, or a user's __array__
        return None
    return array if array.dtype.kind in "biuf" else None


def _form(output: Any) -> str:
    if isinstance(output, tuple | list):
        return f"{len(output)} value{'s' if len(output) != 1 else ''}"
    return shown(output)
