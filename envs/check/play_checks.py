"""Checks of what an environment returns while tasks are played with it, and of what one play leaves to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import gymnasium as gym
import numpy as np

from mmaml.envs.answers import SUCCESS, success_at_some_steps
from mmaml.envs.check import block_values, lane_values, scale
from mmaml.envs.check.comparison import copied, same
from mmaml.envs.check.examined import Check, Examined, lanes_of
from mmaml.envs.check.findings import ERROR, Finding, error, of_usage_error, warning
from mmaml.envs.check.lane_values import TERM
from mmaml.envs.check.playing import LANES, Moment
from mmaml.envs.check.process import Failed
from mmaml.envs.spaces import is_flat_box

COPIED = "training copies it, other programs may not: return a copy"


def forms(x: Examined) -> list[Finding]:
    """Shapes, dtypes and values of what `reset` and `step` return."""
    findings = []
    for moment in moments_of(x):
        findings += form(x, moment)
        findings += lane_values.of_finite(x.name, moment.method, moment.kept)
    x.is_well_formed = all(finding.level != ERROR for finding in findings)
    return findings


def form(x: Examined, moment: Moment) -> list[Finding]:
    """Whether what one call returned has the form that training takes."""
    space, _ = x.player.spaces(x.env)
    if x.is_block:
        if not is_flat_box(space):
            return []
        shape = (x.num_tasks * LANES, space.shape[0])
        of_block = block_values.of_reset if moment.method == "reset" else block_values.of_step
        return of_block(x.name, shape, moment.kept)
    of_lane = lane_values.of_reset if moment.method == "reset" else lane_values.of_step
    return of_lane(x.name, space, moment.kept)


def moments_of(x: Examined) -> list[Moment]:
    """All that the first object returned."""
    return [moment for record in x.records for moment in record]


def entries_of_infos(x: Examined) -> list[Finding]:
    """Success, and terms of the reward, are reported at every step or at none."""
    infos = [moment.kept[4] for moment in moments_of(x) if moment.method == "step" and has_five(moment.kept)]
    infos = [info for info in infos if isinstance(info, Mapping)]
    findings = []
    for key in {key for info in infos for key in info if isinstance(key, str)}:
        names = SUCCESS if key in SUCCESS else (key,)
        count = sum(any(name in info for name in names) for info in infos)
        if count == len(infos) or not (key in SUCCESS or key.startswith(TERM)):
            continue
        where, entry, got = f"{x.name}.step", f"info['{key}']", f"at {count} of {len(infos)} steps"
        if key in SUCCESS:
            findings.append(of_usage_error(success_at_some_steps(entry, got).in_method(where)))
        else:
            remedy = "report 0 where there is none"
            findings.append(warning(f"{where}: {entry}", expected="at every step", got=got, remedy=remedy))
    return sorted(findings)


def has_five(output: Any) -> bool:
    """Whether it may be what `step` returns."""
    return isinstance(output, tuple | list) and len(output) == 5


def observed_numbers(x: Examined) -> list[Finding]:
    """What float32 cannot hold of observations, and what is too large for a network."""
    space, _ = x.player.spaces(x.env)
    if not is_flat_box(space):
        return []
    arguments = f"{x.name}: observation", space, [moment.results.get("observation") for moment in x.records[0]]
    return scale.beyond_float32(*arguments) or scale.unless_normalised(*arguments)


def repeated_plays(x: Examined) -> list[Finding]:
    """The same task, seed and actions give the same results with a new object."""
    again = x.play(x.second, x.assignments[0])
    findings = of_repetition(x.name, x.is_block, x.records[0], again)
    x.repeats = not findings
    return findings


def of_repetition(name: str, is_block: bool, one: Sequence[Moment], other: Sequence[Moment]) -> list[Finding]:
    """What says that two plays with the same task, seed and actions are not the same. name: of the class."""
    difference = first_difference(one, other)
    if difference is None:
        return []
    problem = f"gives other results for the same task, seed and actions: {difference} differs"
    remedy = "draw all that is random from self.np_random, which super().reset(seed=seed) seeds"
    if is_block:
        remedy = "draw all that is random from the generator of _reset_lanes, or from self.task_generators"
    return [warning(name, problem, remedy)]


def nothing_left(x: Examined) -> list[Finding]:
    """What a task's results are does not depend on the tasks that the object was given before."""
    if not x.repeats or len(x.assignments) < 2:
        return []
    setter = f"{x.name}.{'set_tasks' if x.is_block else 'set_task'}"
    remedy = "set all that a task or an episode changes, each time"
    env = x.build()
    backwards = [x.play(env, tasks) for tasks in reversed(x.assignments)][::-1]
    for record, again in zip(x.records, backwards, strict=True):
        difference = first_difference(record, again)
        if difference is None:
            continue
        x.repeats = False
        if all(first_difference(backwards[-1], other) is None for other in backwards):
            return [error(setter, "has no effect but the first time: the object keeps its first task", remedy)]
        problem = f"leave something of the task before: {difference} differs for the same task and seed"
        return [error(f"{setter} and reset", problem, remedy)]
    return []


def separate_objects(x: Examined) -> list[Finding]:
    """Two objects that are stepped in turn do not know of each other."""
    if not x.repeats or len(x.assignments) < 2:
        return []
    own, other = x.assignments[0], x.assignments[1]
    alternating = zip_longest(
        x.player.moments(x.env, copied(own), x.keys(own)), x.player.moments(x.second, copied(other), x.keys(other))
    )
    try:
        taken = [moment for moment, _ in alternating if moment is not None]
    except Failed as failed:
        return [failed.finding]
    difference = first_difference(x.records[0], taken)
    if difference is None:
        return []
    problem = f"depends on other objects of its class that are stepped at the same time: {difference} differs"
    return [error(x.name, problem, "keep what changes in self, not in the class or the module")]


def tasks_differ(x: Examined) -> list[Finding]:
    """Different tasks have different results for the same actions."""
    played = [sum(moment.method == "step" for moment in record) for record in x.records]
    alike = len(x.assignments) < 2 or all(same(task, x.tasks[0]) for task in x.tasks)
    if alike or not x.repeats or min(played) < x.player.steps:
        return []
    if any(first_difference(x.records[0], record) for record in x.records[1:]):
        return []
    problem = f"makes no difference in {x.player.steps} steps: all tasks gave the same results for the same actions"
    remedy = "use the task in step or reset; where rewards are rare, try more --steps"
    return [warning(f"{x.name}.{'set_tasks' if x.is_block else 'set_task'}", problem, remedy)]


def first_difference(one: Sequence[Moment], other: Sequence[Moment]) -> str | None:
    """What first differs in two plays, in words; None where nothing does."""
    step = 0
    for ours, theirs in zip(one, other, strict=False):
        when = f"of step {step}" if ours.method == "step" else f"of the reset {'at step ' + str(step) if step else ''}"
        if ours.method != theirs.method:
            return f"the end of an episode at step {step}"
        results = theirs.results
        for name, value in ours.results.items():
            if not same(value, results.get(name)):
                return f"{name} {when.rstrip()}"
        step += ours.method == "step"
    return None if len(one) == len(other) else f"the end of an episode at step {step}"


def independent_tasks(x: Examined) -> list[Finding]:
    """What a task's lanes do is the same whichever other tasks share the block."""
    if not x.is_block or not x.repeats or not x.is_well_formed or x.num_tasks < 2:
        return []
    alone = x.build(1)
    for task in (0, x.num_tasks - 1):
        together = lanes_of(x.records[0], task, x.num_tasks)
        difference = first_difference(together, x.play(alone, [x.tasks[task]]))
        if difference is not None:
            problem = f"depends on the other tasks of the block: {difference} differs for a task by itself"
            remedy = "draw from the task's own generator, and compute each lane from its own values"
            return [error(x.name, problem, remedy)]
    return []


def fresh_arrays(x: Examined) -> list[Finding]:
    """Arrays that were returned are not changed by later calls, and may be changed by who received them."""
    if not x.is_block or not x.is_well_formed:
        return []
    for moment in moments_of(x):
        later = Moment(moment.method, moment.output, moment.output).results
        for name, value in moment.results.items():
            if not later[name].flags.writeable:
                problem = f"returns an array ({name}) that cannot be written to"
                return [warning(f"{x.name}.{moment.method}", problem, COPIED)]
            if not same(value, later[name]):
                problem = f"returns an array ({name}) that a later call changes"
                return [warning(f"{x.name}.{moment.method}", problem, COPIED)]
    if not x.repeats:
        return []
    difference = first_difference(x.records[0], x.play(x.build(), x.assignments[0], scribble=True))
    if difference is None:
        return []
    problem = f"returns arrays that it goes on using: {difference} differs once they are written over"
    return [warning(x.name, problem, COPIED)]


def clipped_actions(x: Examined) -> list[Finding]:
    """A family clips actions to their bounds by itself."""
    actions = x.player.spaces(x.env)[1]
    if not x.is_block or not x.repeats or not x.is_well_formed or not isinstance(actions, gym.spaces.Box):
        return []
    difference = first_difference(x.records[0], x.play(x.build(), x.assignments[0], clip=False))
    if difference is None:
        return []
    problem = f"does not clip actions to their bounds: {difference} differs for actions beyond them"
    return [warning(f"{x.name}.step", problem, "use np.clip(actions, space.low, space.high), as the policy does not")]


def partial_resets(x: Examined) -> list[Finding]:
    """A reset of some lanes leaves the others as they are."""
    if not x.is_block or not x.is_well_formed:
        return []
    env, code, lanes = x.second, x.code, x.num_tasks * LANES
    code.call(f"{x.name}.set_tasks", env.set_tasks, copied(x.tasks))
    before = code.call(f"{x.name}.reset", env.reset, seed=x.keys(x.tasks))[0].copy()
    mask = np.arange(lanes) == 0
    after = code.call(f"{x.name}.reset", env.reset, options={"reset_mask": mask.copy()})[0]
    if same(before[~mask], after[~mask]):
        return []
    problem = 'changes lanes that are not in options["reset_mask"]'
    return [error(f"{x.name}.reset", problem, "start episodes in the lanes that _reset_lanes receives, and no others")]


PLAY_CHECKS: tuple[Check, ...] = (
    forms,
    entries_of_infos,
    observed_numbers,
    repeated_plays,
    nothing_left,
    separate_objects,
    tasks_differ,
    independent_tasks,
    fresh_arrays,
    clipped_actions,
    partial_resets,
)
