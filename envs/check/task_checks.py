"""Checks of `sample_tasks` and of the tasks that it returns."""

from __future__ import annotations

import pickle
from typing import Any

from mmaml.envs.adapter import mode_of
from mmaml.envs.base import refused_mode
from mmaml.envs.check.comparison import copied, same
from mmaml.envs.check.examined import Check, Examined
from mmaml.envs.check.findings import Finding, error, of_usage_error, warning
from mmaml.envs.check.spaces import is_count
from mmaml.envs.layers import attribute
from mmaml.envs.ownership import own_task
from mmaml.envs.shown import clipped
from mmaml.errors import described

FROM_RNG = "draw from the generator that it receives, and from nothing else"


def number_of_tasks(x: Examined) -> list[Finding]:
    """n tasks are returned where n are asked for, of every split."""
    for split in x.player.splits(x.env):
        for n in sorted({1, x.num_tasks}):
            drawn = x.draw(x.env, n, split=split)
            if len(drawn) != n:
                got = f'{len(drawn)} for n = {n} and the split "{split}"'
                return [error(f"{x.name}.sample_tasks", expected="n tasks", got=got, remedy="return a list of n tasks")]
    return []


def repeated_draws(x: Examined) -> list[Finding]:
    """Equal generators give equal tasks, from one object and from another; a different one gives others."""
    again = x.draw(x.env)
    x.draws_repeat = same(again, x.tasks)
    if found := of_repeated_draws(x.name, x.tasks, again, x.draw(x.second)):
        return found
    if same(x.draw(x.env, seed=x.seed + 1), x.tasks):
        remedy = f"{FROM_RNG}, unless there is only one task"
        return [warning(f"{x.name}.sample_tasks", "gives the same tasks for a different generator", remedy)]
    return []


def of_repeated_draws(name: str, tasks: list[Any], again: list[Any], of_another: list[Any]) -> list[Finding]:
    """What says that draws from equal generators are not the same: two of one object, and one of another object."""
    where = f"{name}.sample_tasks"
    if not same(again, tasks):
        return [error(where, "gives other tasks for an equal generator", FROM_RNG)]
    if not same(of_another, tasks):
        remedy = "draw nothing that tasks depend on in __init__: every rank has objects of its own"
        return [error(where, "of another object gives other tasks for an equal generator", remedy)]
    return []


def splits(x: Examined) -> list[Finding]:
    """Drawing tasks of one split changes no other."""
    if not x.draws_repeat:
        return []
    for split in x.player.splits(x.env):
        x.draw(x.env, split=split)
        if not same(x.draw(x.env), x.tasks):
            problem = f'gives other tasks for an equal generator once tasks of the split "{split}" were drawn'
            return [error(f"{x.name}.sample_tasks", problem, "keep nothing of a draw in the object")]
    return []


def kept_tasks(x: Examined) -> list[Finding]:
    """Tasks stay as they are while others are drawn."""
    drawn = x.draw(x.env)
    before = copied(drawn)
    x.draw(x.env, seed=x.seed + 1)
    if same(drawn, before):
        return []
    problem = "changes tasks that it returned before, when others are drawn"
    return [error(f"{x.name}.sample_tasks", problem, "return new arrays each time")]


def pickled_tasks(x: Examined) -> list[Finding]:
    """Tasks are copied, and sent to other ranks."""
    where = f"{x.name}.sample_tasks"
    remedy = "make tasks of dicts, numbers, arrays, or objects of classes in a module"
    for task in x.tasks[:1]:
        try:
            own_task(task)
        except ValueError as refused:
            return [error(where, str(refused), remedy)]
        try:
            again = pickle.loads(pickle.dumps(task))
        except Exception as raised:  # a user's __reduce__ may fail in any way
            return [error(where, f"returns tasks that cannot be pickled ({clipped(described(raised))})", remedy)]
        if not same(again, task):
            return [error(where, "returns tasks that are not the same once pickled and unpickled", remedy)]
    return []


def modes(x: Examined) -> list[Finding]:
    """A task's mode, where it has one, is one of `num_modes`."""
    num_modes = attribute(x.env, "num_modes", 1)
    if not is_count(num_modes):  # which is a finding of its own
        return []
    found = (refused_mode(f"{x.name}.sample_tasks", mode_of(task), num_modes) for task in x.tasks)
    return [of_usage_error(refused) for refused in found if refused][:1]


TASK_CHECKS: tuple[Check, ...] = (repeated_draws, splits, number_of_tasks, kept_tasks, pickled_tasks, modes)
