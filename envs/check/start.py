"""The cheap part of the examination, at the start of every run: one reset and one step of one lane, twice."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any, NamedTuple

import numpy as np

from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.check import block_values, lane_values, scale, signatures
from mmaml.envs.check.comparison import copied
from mmaml.envs.check.findings import ERROR, Finding
from mmaml.envs.check.play_checks import of_repetition
from mmaml.envs.check.playing import Moment, drawn_action
from mmaml.envs.check.process import drawn_globally
from mmaml.envs.layers import class_name, layer_with
from mmaml.envs.process_state import GENERATORS, generators_kept, read, running
from mmaml.envs.spec import spec_of
from mmaml.errors import ConfigError


class Warned(NamedTuple):
    """What a run should warn of, in words that follow a name: always, and unless it normalises observations."""

    always: list[str]
    unless_normalised: list[str]


def check_start(name: str, env_kwargs: Mapping[str, Any], family: TaskVectorEnv) -> Warned:
    """What a run should warn of; ConfigError for what sampling cannot take.

    family: one lane of the family `name`, built with env_kwargs; it is set a task, reset and stepped once, twice with
    the same task, seed and action. What it raises is left to sampling, which tries again and names the task. The
    process, its random generators too, is left as it was.
    """
    silent = io.StringIO()
    with generators_kept(), running(family.code_settings) as changes, redirect_stdout(silent), redirect_stderr(silent):
        wrong, found, of_scale = _examined(family)
    if wrong is not None:
        command = ["mmaml", "check-env", name]
        if env_kwargs:
            command += ["--env_kwargs", json.dumps(env_kwargs, default=repr)]
        raise ConfigError("env", str(wrong), f"`{shlex.join(command)}` lists all that is wrong")
    always = [_in_words(finding) for finding in found] + [f"{c}; {c.remedy}" for c in changes]
    return Warned(always, [_in_words(finding) for finding in of_scale])


class _Lane(NamedTuple):
    """One lane of a family. play: set a task, reset and step, with the same task, seed and action each time."""

    play: Callable[[], Iterator[Moment]]
    of_reset: Callable[[Any], list[Finding]]
    of_step: Callable[[Any], list[Finding]]


def _examined(family: TaskVectorEnv) -> tuple[Finding | None, list[Finding], list[Finding]]:
    """The first error; where there is none, what says that results would not be the same again, or that float32 is too
    coarse; and what does unless observations are normalised.
    """
    if isinstance(family, GymTaskAdapter):
        errors = [finding for finding in signatures.of_environment(family.example) if finding.level == ERROR]
        if errors:
            return errors[0], [], []
    lane = _lane_of(family)
    if lane is None:
        return None, [], []
    generators = read(GENERATORS)
    played = _played(lane)
    for moment in played:
        for finding in (lane.of_reset if moment.method == "reset" else lane.of_step)(moment.kept):
            if finding.level == ERROR:
                return finding, [], []
    shared = drawn_globally("", generators)
    again = _played(lane)
    is_block = not isinstance(family, GymTaskAdapter)
    differing = of_repetition("", is_block, played, again) if len(played) == len(again) else []
    observed = "observation", family.single_observation_space, [moment.results.get("observation") for moment in played]
    too_coarse = scale.beyond_float32(*observed)
    of_scale = [] if too_coarse else scale.unless_normalised(*observed)
    return None, [*(differing or shared)[:1], *too_coarse], of_scale


def _played(lane: _Lane) -> list[Moment]:
    """As far as it goes without an error."""
    moments = []
    with suppress(Exception, SystemExit):
        for moment in lane.play():
            moments.append(moment)
    return moments


def _lane_of(family: TaskVectorEnv) -> _Lane | None:
    """None where it draws no task."""
    rng = np.random.default_rng(0)
    try:
        if isinstance(family, GymTaskAdapter):
            env = family.example
            task = next(iter(signatures.call_sample_tasks(env, 1, rng, "train")))
            return _lane_of_object(env, task, drawn_action(env.action_space, rng))
        return _lane_of_block(family, family.sample_tasks(1, rng), drawn_action(family.single_action_space, rng)[None])
    except (Exception, SystemExit):
        return None


def _lane_of_object(env: Any, task: Any, action: Any) -> _Lane:
    def play() -> Iterator[Moment]:
        layer_with(env, "set_task").set_task(copied(task))
        yield _moment("reset", env.reset(seed=0))
        yield _moment("step", env.step(copied(action)))

    name, space = class_name(env), env.observation_space
    return _Lane(
        play,
        lambda output: lane_values.of_reset(name, space, output),
        lambda output: lane_values.of_step(name, space, output),
    )


def _lane_of_block(family: TaskVectorEnv, tasks: list[Any], actions: np.ndarray) -> _Lane:
    def play() -> Iterator[Moment]:
        family.set_tasks(copied(tasks))
        yield _moment("reset", family.reset(seed=[0]))
        yield _moment("step", family.step(actions.copy()))

    name, shape = type(family).__name__, (1, spec_of(family).observation_size)
    return _Lane(
        play,
        lambda output: block_values.of_reset(name, shape, output),
        lambda output: block_values.of_step(name, shape, output),
    )


def _in_words(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"{where}{finding.problem}; {finding.remedy}"


def _moment(method: str, output: Any) -> Moment:
    return Moment(method, output, copied(output))
