"""An environment under examination: its objects, its tasks and what it returned, made when a check first needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mmaml.envs.check.comparison import copied, same
from mmaml.envs.check.findings import ERROR, Finding, error
from mmaml.envs.check.playing import LANES, BlockPlayer, LanePlayer, Moment, Player
from mmaml.envs.check.process import Failed
from mmaml.envs.loading import check_new
from mmaml.envs.shown import shown


class Examined:
    """What the checks look at.

    player: builds and plays the environment. num_tasks: how many tasks are drawn. seed: from which tasks, episodes and
    actions follow. draws_repeat, repeats, is_well_formed: whether draws of tasks, and plays, gave the same twice, and
    whether all that was returned has the right form. Checks that build on this set them and look at them.
    """

    def __init__(self, player: Player, num_tasks: int, seed: int) -> None:
        self.player, self.num_tasks, self.seed = player, num_tasks, seed
        self.code = player.code
        self.draws_repeat = self.repeats = self.is_well_formed = True
        self.built: list[Any] = []
        self._seen: set[int] = set()

    @property
    def name(self) -> str:
        """The class."""
        return self.player.name

    @property
    def is_block(self) -> bool:
        """Whether it is a family whose lanes are arrays."""
        return isinstance(self.player, BlockPlayer)

    @cached_property
    def env(self) -> Any:
        """The object that is played first. Raises Failed."""
        return self.build()

    @cached_property
    def second(self) -> Any:
        """Another object. Raises Failed."""
        return self.build()

    def build(self, num_tasks: int | None = None) -> Any:
        """A new object, which is closed at the end. Raises Failed."""
        count = num_tasks or self.num_tasks
        env = self.player.build(count)
        self.code.call(f"{self.name}()", check_new, self.name, env, self._seen)
        self.built.append(env)
        lanes = getattr(env, "num_envs", None)
        if self.is_block and not same(lanes, count * LANES):
            expected, remedy = "num_tasks × rollouts_per_task", "give both to super().__init__ as they come"
            got = f"{shown(lanes)} for {count} × {LANES}"
            raise Failed(error(f"{self.name}.num_envs", expected=expected, got=got, remedy=remedy))
        return env

    def draw(self, env: Any, n: int | None = None, *, seed: int | None = None, split: str = "train") -> list[Any]:
        """Tasks from a generator of its own; of equal seeds, from equal ones. Raises Failed."""
        rng = np.random.default_rng(self.seed if seed is None else seed)
        return self.player.draw(env, self.num_tasks if n is None else n, rng, split)

    @cached_property
    def tasks(self) -> list[Any]:
        """Tasks for training. Raises Failed."""
        drawn = self.draw(self.env)
        if not drawn:
            raise Failed(error(f"{self.name}.sample_tasks", expected="n tasks", got=f"0 for n = {self.num_tasks}"))
        return list(copied(drawn))

    @property
    def assignments(self) -> list[list[Any]]:
        """What is set in turn: each task by itself, or all tasks of a block in one order and in another."""
        if self.is_block:
            return [self.tasks, [*self.tasks[1:], self.tasks[0]]]
        return [[task] for task in self.tasks]

    def play(self, env: Any, tasks: Sequence[Any], **how: Any) -> list[Moment]:
        """As `Player.play`; every task has the same key, so that what differs is the task."""
        return self.player.play(env, tasks, self.keys(tasks), **how)

    def keys(self, tasks: Sequence[Any]) -> list[int]:
        """Of the seeds and actions of tasks."""
        return [self.seed] * max(len(tasks), 1)

    @cached_property
    def records(self) -> list[list[Moment]]:
        """What `env` returned for each assignment, played in turn; without tasks where none can be drawn.

        Raises Failed if it cannot be built, or its class is a family and draws no tasks.
        """
        try:
            assignments = self.assignments
        except Failed:
            if self.is_block:
                raise
            # What it does without a task is not its fault, but the form of what it returns can be seen.
            player = LanePlayer(self.player.source, self.code.apart(), self.player.steps)
            return [player.play(self.env, [], self.keys([]))]
        return [self.play(self.env, tasks) for tasks in assignments]

    @property
    def has_errors(self) -> bool:
        """Whether something was found that training refuses."""
        return any(finding.level == ERROR for finding in self.code.findings)


def lanes_of(moments: Sequence[Moment], task: int, num_tasks: int) -> list[Moment]:
    """What a block of num_tasks tasks returned, for the lanes of one of them."""
    lanes, total = slice(task * LANES, (task + 1) * LANES), num_tasks * LANES

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(entry) for key, entry in value.items()}
        return value[lanes] if isinstance(value, np.ndarray) and value.shape[:1] == (total,) else value

    return [
        moment._replace(kept=tuple(map(cut, moment.kept)) if isinstance(moment.kept, tuple | list) else moment.kept)
        for moment in moments
        if moment.mask is None or moment.mask[lanes].any()
    ]


# Looks at what is examined; raises Failed where a user's code does.
Check = Callable[[Examined], list[Finding]]
