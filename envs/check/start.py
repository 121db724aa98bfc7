"""The cheap part of the examination, at the start of every run: one reset and one step of two objects."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, NamedTuple

import numpy as np

from mmaml.envs.adapter import GymTaskAdapter, UserTask
from mmaml.envs.base import Task, TaskVectorEnv, close_quietly, drawn_tasks
from mmaml.envs.check import block_values, lane_values, scale, signatures, spaces
from mmaml.envs.check.comparison import copied
from mmaml.envs.check.findings import ERROR, Finding
from mmaml.envs.check.play_checks import of_repetition
from mmaml.envs.check.playing import Moment, drawn_action
from mmaml.envs.check.process import SHOWN_WHERE, Failed, called, drawn_globally
from mmaml.envs.check.task_checks import of_repeated_draws
from mmaml.envs.layers import class_name, layer_with
from mmaml.envs.loading import check_new
from mmaml.envs.process_state import GENERATORS, generators_kept, read, running
from mmaml.envs.spec import Warnings, spec_of
from mmaml.errors import ConfigError


def check_attributes(family: TaskVectorEnv, uses_own_scale: bool, trains: bool) -> None:
    """Raise ConfigError for the first attribute of a family that the program cannot take.

    uses_own_scale: whether actions are rescaled by its `normalization_scale`, which is examined only then. trains:
    whether it needs tasks to train on.
    """
    name, actions = _name_of(family), family.single_action_space
    for finding in spaces.of_attributes(name, family, actions, uses_own_scale, trains):
        if finding.level == ERROR:
            raise ConfigError("env", str(finding), "correct it in the class")


def check_start(
    name: str, env_kwargs: Mapping[str, Any], family: TaskVectorEnv, build: Callable[[], TaskVectorEnv]
) -> Warnings:
    """What a run should warn of, in words that follow a name; ConfigError for what it cannot go on with.

    family: one lane of the family `name`, built with env_kwargs. build: another such lane, which is closed here. Both
    are set the same task, reset with the same seed and stepped once with the same action. What that raises is left to
    sampling, which tries again and names the task. The process, its random generators too, is left as it was.
    """
    silent = io.StringIO()
    with generators_kept(), running(family.code_settings) as changes, redirect_stdout(silent), redirect_stderr(silent):
        try:
            found, of_scale = _examined(family, build)
        except Failed as failed:
            command = ["mmaml", "check-env", name]
            if env_kwargs:
                command += ["--env_kwargs", json.dumps(env_kwargs, default=repr)]
            finding = failed.finding
            line = str(finding._replace(remedy="") if finding.remedy == SHOWN_WHERE else finding)
            raise ConfigError("env", line, f"`{shlex.join(command)}` lists all that is wrong") from failed
    always, unless_normalised = (tuple(map(_in_words, findings)) for findings in (found, of_scale))
    return Warnings((*always, *(f"{change}; {change.remedy}" for change in changes)), unless_normalised)


class _Lane(NamedTuple):
    """One lane of a family. play: set a task, reset and step, with the same task, seed and action each time."""

    play: Callable[[], Iterator[Moment]]
    of_reset: Callable[[Any], list[Finding]]
    of_step: Callable[[Any], list[Finding]]


def _examined(family: TaskVectorEnv, build: Callable[[], TaskVectorEnv]) -> tuple[list[Finding], list[Finding]]:
    """What says that results would not be the same again, or that float32 is too coarse; and what does unless
    observations are normalised. Raises Failed for the first error, and what `build` raises.
    """
    name, of_signatures = _name_of(family), []
    if isinstance(family, GymTaskAdapter):
        _raise_first(signatures.of_environment(family.example))
        of_signatures = signatures.of_sample_tasks(family.example, name)
    of_draws: list[Finding] = []  # draws from generators that all lanes share: those of sample_tasks
    of_plays: list[Finding] = []  # and all others
    with _shared_draws(f"{name}.sample_tasks", of_draws):
        tasks, again = _drawn_tasks(family), _drawn_tasks(family)
    lane = _lane_of(family, tasks)
    with _shared_draws("", of_plays):
        played = _played(lane)
    for moment in played:
        _raise_first((lane.of_reset if moment.method == "reset" else lane.of_step)(moment.kept))

    with _shared_draws(f"{name}()", of_plays):
        second = build()
    try:
        _check_separate(family, second)
        with _shared_draws(f"{name}.sample_tasks", of_draws):
            of_another = _drawn_tasks(second)
        with _shared_draws("", of_plays):
            repeated = _played(_lane_of(second, tasks))
    finally:
        close_quietly(second)

    of_tasks = of_repeated_draws(name, tasks, again, of_another) or of_draws
    is_block = not isinstance(family, GymTaskAdapter)
    differing = of_repetition("", is_block, played, repeated) if len(played) == len(repeated) else []
    observed = "observation", family.single_observation_space, [moment.results.get("observation") for moment in played]
    too_coarse = scale.beyond_float32(*observed)
    of_scale = [] if too_coarse else scale.unless_normalised(*observed)
    return [*of_signatures, *of_tasks[:1], *(differing or of_plays)[:1], *too_coarse], of_scale


def _raise_first(findings: list[Finding]) -> None:
    """Raise Failed for the first error."""
    for finding in findings:
        if finding.level == ERROR:
            raise Failed(finding)


@contextmanager
def _shared_draws(where: str, found: list[Finding]) -> Iterator[None]:
    """Note in `found` which of the process's random generators the body draws from."""
    before = read(GENERATORS)
    yield
    found += drawn_globally(where, before)


def _check_separate(family: TaskVectorEnv, second: TaskVectorEnv) -> None:
    """Raise ConfigError if what builds them gave the same object twice."""
    seen: set[int] = set()
    for one in (family, second):
        if isinstance(one, GymTaskAdapter):
            check_new(one.source.name, one.example, seen)
        else:
            check_new(type(one).__name__, one, seen)


def _name_of(family: TaskVectorEnv) -> str:
    """The class, as findings call it."""
    return class_name(family.example if isinstance(family, GymTaskAdapter) else family)


def _drawn_tasks(family: TaskVectorEnv) -> list[Task]:
    """A task for training, from the same generator each time. Raises Failed."""
    rng = np.random.default_rng(0)
    return called(f"{_name_of(family)}.sample_tasks", lambda: drawn_tasks(family, 1, rng))


def _played(lane: _Lane) -> list[Moment]:
    """As far as it goes without an error."""
    moments = []
    with suppress(Exception, SystemExit):
        for moment in lane.play():
            moments.append(moment)
    return moments


def _lane_of(family: TaskVectorEnv, tasks: list[Task]) -> _Lane:
    rng = np.random.default_rng(1)
    if isinstance(family, GymTaskAdapter):
        (task,) = tasks
        assert isinstance(task, UserTask)
        return _lane_of_object(family.example, task.user_task, drawn_action(family.example.action_space, rng))
    return _lane_of_block(family, tasks, drawn_action(family.single_action_space, rng)[None])


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
