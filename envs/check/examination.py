"""Everything that is wrong with an environment or task family, and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmaml.envs.answers import as_numbers
from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.check import signatures
from mmaml.envs.check.examined import Check, Examined
from mmaml.envs.check.findings import ERROR, WARNING, Finding, error
from mmaml.envs.check.play_checks import PLAY_CHECKS, has_five, moments_of
from mmaml.envs.check.playing import LANES, ended_lanes, player_of
from mmaml.envs.check.process import Failed, UserCode
from mmaml.envs.check.spaces import of_attributes, of_spaces
from mmaml.envs.check.task_checks import TASK_CHECKS
from mmaml.envs.layers import attribute
from mmaml.envs.process_state import code_settings, generators_kept
from mmaml.envs.registry import check_family, source_of
from mmaml.envs.shown import shown

FINITE, ENDLESS = "finite: no value after a truncation", "none: the value goes on after a truncation"


class Report(NamedTuple):
    """What an examination found. facts: by name, what was seen of the environment, in words."""

    findings: list[Finding]
    facts: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether nothing was found that training refuses, or that makes its results wrong."""
        return not any(finding.level == ERROR for finding in self.findings)


def examine(
    name: str, env_kwargs: Mapping[str, Any] | None = None, *, steps: int = 100, tasks: int = 4, seed: int = 0
) -> Report:
    """Examine a family by name, or what `mmaml.envs.loading.load` finds, and find everything that is wrong with it.

    env_kwargs: its arguments. steps: how many each task is played. tasks: how many are drawn. seed: from which
    tasks, episodes and actions follow. Nothing is raised for what a user's code does; the process is left as it was.
    """
    code, facts, given = UserCode(code_settings(name)), {}, dict(env_kwargs or {})
    with generators_kept():
        try:
            facts = _examined(name, given, code, steps, tasks, seed)
        except Failed as failed:
            code.note(failed.finding)
    return Report(sorted(code.findings, key=lambda finding: finding.level == WARNING), facts)


def _examined(
    name: str, env_kwargs: dict[str, Any], code: UserCode, steps: int, tasks: int, seed: int
) -> dict[str, str]:
    """Note what is found; the facts. Raises Failed where nothing more can be seen."""
    source = code.call(f"module {name.partition(':')[0]}", source_of, name, env_kwargs)
    x = Examined(player_of(source, code, steps), tasks, seed)
    code.note_signatures(*(signatures.of_family(source.make) if x.is_block else signatures.of_environment(x.env)))
    if x.is_block and x.has_errors:
        return {}
    try:
        for check in (of_object, *TASK_CHECKS, *PLAY_CHECKS):
            _run(check, x)
        if not x.has_errors:
            code.call(x.name, check_family, name, env_kwargs, trains=True)
        return _facts(x) if "records" in vars(x) else {}
    finally:
        _close(x)


def _run(check: Check, x: Examined) -> None:
    try:
        x.code.note(*check(x))
    except Failed as failed:
        x.code.note(failed.finding)


def of_object(x: Examined) -> list[Finding]:
    """Spaces and attributes of an object."""
    observations, actions = x.player.spaces(x.env)
    findings = [*of_spaces(x.name, observations, actions), *of_attributes(x.name, x.env, actions)]
    return findings + (_of_block(x) if x.is_block else [])


def _of_block(x: Examined) -> list[Finding]:
    """That lanes which ended wait to be reset."""
    key = "autoreset_mode"
    expected, got = TaskVectorEnv.metadata[key], x.env.metadata.get(key)
    if got is expected:
        return []
    where = f"{x.name}.metadata['{key}']"
    return [error(where, expected=str(expected), got=str(got), remedy="leave resets to the sampler")]


def _close(x: Examined) -> None:
    """Close what was built. What closing raises is only a warning: a run goes on."""
    for env in x.built:
        try:
            x.code.call(f"{x.name}.close", env.close)
        except Failed as failed:
            x.code.note(failed.finding._replace(level=WARNING))


def _facts(x: Examined) -> dict[str, str]:
    observations, actions = x.player.spaces(x.env)
    facts = {
        "observations": shown(observations),
        "actions": shown(actions),
        "splits": ", ".join(x.player.splits(x.env)),
        "modes": shown(attribute(x.env, "num_modes", 1)),
        "horizon": FINITE if attribute(x.env, "finite_horizon", False) is True else ENDLESS,
    }
    if "tasks" in vars(x) and x.tasks:
        facts["tasks"] = f"{len(x.tasks)} drawn, the first: {shown(x.tasks[0])}"
    rewards = [moment.kept[1] for moment in moments_of(x) if moment.method == "step" and has_five(moment.kept)]
    return facts | _reward_facts(rewards) | _episode_facts(x)


def _reward_facts(rewards: list[Any]) -> dict[str, str]:
    arrays = [as_numbers(reward) for reward in rewards]
    values = np.concatenate([np.zeros(0), *(array.ravel() for array in arrays if array is not None)])
    if not values.size:
        return {}
    return {"rewards": f"{values.min():.4g} to {values.max():.4g} a step"}


def _episode_facts(x: Examined) -> dict[str, str]:
    """How long episodes were, in steps, from those that ended within a play."""
    lanes = x.num_tasks * LANES if x.is_block else 1
    lengths: list[int] = []
    for record in x.records:
        age = np.zeros(lanes, int)
        for moment in record:
            if moment.method != "step":
                continue
            age += 1
            ended = ended_lanes(moment.kept, lanes)
            lengths += age[ended].tolist()
            age[ended] = 0
    if not lengths:
        return {"episodes": f"none ended within {x.player.steps} steps; max_path_length ends them"}
    return {"episodes": f"{len(lengths)} ended, after {min(lengths)} to {max(lengths)} steps"}
