"""The cheap part of the examination, at the start of every run: the form of one reset and one step of one lane."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np

from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.check import block_values, lane_values, signatures
from mmaml.envs.check.findings import ERROR, Finding
from mmaml.envs.check.playing import drawn_action
from mmaml.envs.layers import class_name, layer_with
from mmaml.envs.process_state import generators_kept, settings_kept
from mmaml.envs.spec import spec_of
from mmaml.errors import ConfigError


def check_start(name: str, env_kwargs: Mapping[str, Any], family: TaskVectorEnv) -> None:
    """Raise ConfigError for the first thing that has a form which sampling cannot take.

    family: one lane of the family `name`, built with env_kwargs; it is set a task, reset and stepped once. What it
    raises is left to sampling, which tries again and names the task. The process, its random generators too, is left
    as it was.
    """
    silent = io.StringIO()
    with generators_kept(), settings_kept(), redirect_stdout(silent), redirect_stderr(silent):
        found = next((finding for finding in _findings(family) if finding.level == ERROR), None)
    if found is not None:
        command = ["mmaml", "check-env", name]
        if env_kwargs:
            command += ["--env_kwargs", json.dumps(env_kwargs, default=repr)]
        raise ConfigError("env", str(found), f"`{shlex.join(command)}` lists all that is wrong")


def _findings(family: TaskVectorEnv) -> Iterator[Finding]:
    rng = np.random.default_rng(0)
    if isinstance(family, GymTaskAdapter):
        return _of_lane(family.example, rng)
    return _of_block(family, rng)


def _of_lane(env: Any, rng: np.random.Generator) -> Iterator[Finding]:
    name, space = class_name(env), env.observation_space
    yield from signatures.of_environment(env)
    try:
        tasks = list(signatures.call_sample_tasks(env, 1, rng, "train"))
        layer_with(env, "set_task").set_task(tasks[0])
        output = env.reset(seed=0)
    except (Exception, SystemExit):
        return
    yield from lane_values.of_reset(name, space, output)
    try:
        output = env.step(drawn_action(env.action_space, rng))
    except (Exception, SystemExit):
        return
    yield from lane_values.of_step(name, space, output)


def _of_block(family: TaskVectorEnv, rng: np.random.Generator) -> Iterator[Finding]:
    name, shape = type(family).__name__, (1, spec_of(family).observation_size)
    try:
        family.set_tasks(family.sample_tasks(1, rng))
        output: Any = family.reset(seed=[0])
    except (Exception, SystemExit):
        return
    yield from block_values.of_reset(name, shape, output)
    try:
        output = family.step(drawn_action(family.single_action_space, rng)[None])
    except (Exception, SystemExit):
        return
    yield from block_values.of_step(name, shape, output)
