"""The form of what a block of a `TaskVectorEnv` returns: arrays of all its lanes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmaml.envs import block_answers
from mmaml.envs.answers import Refused
from mmaml.envs.check.findings import Finding, of_usage_error, warning
from mmaml.envs.check.lane_values import TERM, findings_of, of_sum
from mmaml.envs.shown import shown


def of_reset(name: str, shape: tuple[int, int], output: Any) -> list[Finding]:
    """name: the family's class. shape: [M·N, O] of observations. output: what its `reset` returned."""
    where = f"{name}.reset"
    try:
        observations, infos = block_answers.parts_of_reset(output)
    except Refused as refused:
        return [of_usage_error(refused.in_method(where))]
    return [
        *findings_of(where, block_answers.array, "observations", observations, shape, *block_answers.OBSERVED),
        *findings_of(where, block_answers.mapping, infos),
    ]


def of_step(name: str, shape: tuple[int, int], output: Any) -> list[Finding]:
    """As `of_reset`, for `step`."""
    where, lanes = f"{name}.step", shape[:1]
    try:
        observations, rewards, terminated, truncated, infos = block_answers.parts_of_step(output)
    except Refused as refused:
        return [of_usage_error(refused.in_method(where))]
    findings = [
        *findings_of(where, block_answers.array, "observations", observations, shape, *block_answers.OBSERVED),
        *findings_of(where, block_answers.array, "rewards", rewards, lanes, np.float32),
        *findings_of(where, block_answers.array, "terminated", terminated, lanes, np.bool_),
        *findings_of(where, block_answers.array, "truncated", truncated, lanes, np.bool_),
        *findings_of(where, block_answers.mapping, infos),
    ]
    if isinstance(infos, Mapping):
        findings += findings_of(where, block_answers.read_infos, infos, lanes)
        findings += _of_terms(where, lanes, rewards, infos)
    return findings


def _of_terms(where: str, lanes: tuple[int, ...], rewards: Any, infos: Mapping[Any, Any]) -> list[Finding]:
    """The terms "reward_…" are numbers of all lanes and sum to the rewards."""
    terms = {key: value for key, value in infos.items() if isinstance(key, str) and key.startswith(TERM)}
    findings = []
    for key, value in terms.items():
        if not isinstance(value, np.ndarray) or value.shape != lanes or value.dtype.kind not in "biuf":
            entry, expected = f"{where}: infos['{key}']", f"an array of numbers of shape {lanes}"
            remedy = 'report the term of each lane, or use a name that does not begin with "reward_"'
            findings.append(warning(entry, expected=expected, got=shown(value), remedy=remedy))
    if findings or not terms or not isinstance(rewards, np.ndarray) or rewards.shape != lanes:
        return findings
    return of_sum(where, rewards, list(terms.values()))
