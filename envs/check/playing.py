"""Plays tasks with a user's environment, as the sampler does, and keeps what it returned.

A player hides whether the environment is a `gymnasium.Env`, of which one object is one lane of one task, or a
`TaskVectorEnv`, a block of M tasks with N lanes each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from mmaml.envs.answers import SUCCESS
from mmaml.envs.base import SPLITS, TaskVectorEnv
from mmaml.envs.check import signatures
from mmaml.envs.check.comparison import copied, same
from mmaml.envs.check.findings import warning
from mmaml.envs.check.process import Failed, UserCode
from mmaml.envs.layers import attribute, layer_with
from mmaml.envs.loading import Source
from mmaml.envs.shown import shown
from mmaml.envs.spaces import INFINITE, within

LANES = 2  # rollouts per task of a block that is examined
RESULTS = ("observation", "reward", "terminated", "truncated")  # of a step, in their order


class Moment(NamedTuple):
    """One call of `reset` or `step`. output: what it returned; kept: a copy taken at once.

    mask: which lanes a reset of a block was for, bool [M·N]; None for all, and for a step.
    """

    method: str
    output: Any
    kept: Any
    mask: np.ndarray | None = None

    @property
    def results(self) -> dict[str, Any]:
        """The values that training uses, by name; of an output of another form, all as one."""
        values = self.kept
        size = 2 if self.method == "reset" else 5
        if not isinstance(values, tuple | list) or len(values) != size:
            return {"output": values}
        named = dict(zip(RESULTS, values[: size - 1], strict=False))
        info = values[-1] if isinstance(values[-1], Mapping) else {}
        read = {key: value for key, value in info.items() if key in SUCCESS}
        return named | ({f"info['{key}']": value for key, value in read.items()} if self.method == "step" else {})


class Player(ABC):
    """Builds environments from one source and plays tasks with them.

    source: of what is examined. code: calls it and collects what is found. steps: how many a task is played.
    """

    def __init__(self, source: Source, code: UserCode, steps: int) -> None:
        self.source, self.name, self.code, self.steps = source, source.name, code, steps

    def play(self, env: Any, tasks: Sequence[Any], keys: Sequence[int], **how: Any) -> list[Moment]:
        """Give `env` copies of the tasks, one key each for its seed and its actions, and take `steps` steps.

        What the environment raises is noted, and ends the play. how: options of `moments`.
        """
        played: list[Moment] = []
        try:
            for moment in self.moments(env, copied(list(tasks)), keys, **how):
                played.append(moment)
        except Failed as failed:
            self.code.note(failed.finding)
        return played

    @abstractmethod
    def build(self, num_tasks: int) -> Any:
        """An environment: a block of so many tasks, or an object for a lane. Raises Failed."""

    @abstractmethod
    def draw(self, env: Any, n: int, rng: np.random.Generator, split: str) -> list[Any]:
        """n tasks from its `sample_tasks`. Raises Failed."""

    @abstractmethod
    def splits(self, env: Any) -> tuple[str, ...]:
        """Those that it says it can draw, of those that there are."""

    @abstractmethod
    def spaces(self, env: Any) -> tuple[Any, Any]:
        """Of the observations and actions of one lane."""

    @abstractmethod
    def moments(
        self, env: Any, tasks: Sequence[Any], keys: Sequence[int], *, clip: bool = True, scribble: bool = False
    ) -> Iterator[Moment]:
        """Set the tasks, reset, and step, starting new episodes where some end. Raises Failed.

        Of a block alone: clip actions to their bounds; scribble over every array that was returned, once it is copied.
        """


class _Watched:
    """Calls methods of an environment, and notes it where one changes the tasks that the environment was given."""

    def __init__(self, player: Player, env: Any, tasks: Sequence[Any]) -> None:
        self._player, self._env, self._tasks = player, env, list(tasks)
        self._before = copied(self._tasks)

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What the method returns. Raises Failed."""
        where = f"{self._player.name}.{method}"
        output = self._player.code.call(where, getattr(layer_with(self._env, method), method), *arguments, **named)
        for task, before in zip(self._tasks, self._before, strict=True):
            if not same(task, before):
                got = f"{shown(before)} changed to {shown(task)}"
                remedy = "training gives copies, other programs may not: use copy.deepcopy(task)"
                self._player.code.note(warning(where, expected="the task left as it was given", got=got, remedy=remedy))
                self._before = copied(self._tasks)
                break
        return output


class LanePlayer(Player):
    """Plays objects of a `gymnasium.Env` with `sample_tasks` and `set_task`; one task at a time."""

    def build(self, num_tasks: int = 1) -> Any:
        return self.code.call(f"{self.name}()", self.source.build)

    def draw(self, env: Any, n: int, rng: np.random.Generator, split: str = "train") -> list[Any]:
        where = f"{self.name}.sample_tasks"
        return list(
            self.code.call(where, lambda: list(signatures.call_sample_tasks(env, n, rng, split, examined=True)))
        )

    def splits(self, env: Any) -> tuple[str, ...]:
        default = SPLITS if signatures.takes_split(env) else ("train", "test")
        return _known(attribute(env, "splits", default))

    def spaces(self, env: Any) -> tuple[Any, Any]:
        return getattr(env, "observation_space", None), getattr(env, "action_space", None)

    def moments(
        self, env: Any, tasks: Sequence[Any], keys: Sequence[int], *, clip: bool = True, scribble: bool = False
    ) -> Iterator[Moment]:
        """tasks: one, or none to play without a task."""
        watched = _Watched(self, env, tasks)
        rng = np.random.default_rng(keys[0])
        space = self.spaces(env)[1]

        def reset() -> Moment:
            seed = {"seed": int(rng.integers(2**31))} if signatures.takes_seed(env) else {}
            output = watched.call("reset", **seed)
            return Moment("reset", output, copied(output))

        for task in tasks:
            watched.call("set_task", task)
        yield reset()
        for _ in range(self.steps if isinstance(space, gym.Space) else 0):
            output = watched.call("step", drawn_action(space, rng))
            yield Moment("step", output, copied(output))
            if ended_lanes(output, 1).any():
                yield reset()


class BlockPlayer(Player):
    """Plays blocks of a `TaskVectorEnv`, LANES lanes for each task."""

    def build(self, num_tasks: int) -> TaskVectorEnv:
        return self.code.call(f"{self.name}()", self.source.build, num_tasks, LANES)

    def draw(self, env: Any, n: int, rng: np.random.Generator, split: str = "train") -> list[Any]:
        return list(self.code.call(f"{self.name}.sample_tasks", env.sample_tasks, n, rng, split))

    def splits(self, env: Any) -> tuple[str, ...]:
        return _known(env.splits)

    def spaces(self, env: Any) -> tuple[Any, Any]:
        return getattr(env, "single_observation_space", None), getattr(env, "single_action_space", None)

    def moments(
        self, env: Any, tasks: Sequence[Any], keys: Sequence[int], *, clip: bool = True, scribble: bool = False
    ) -> Iterator[Moment]:
        """tasks: all of the block."""
        watched = _Watched(self, env, tasks)
        generators = [np.random.default_rng(key) for key in keys]
        space, lanes = self.spaces(env)[1], len(tasks) * LANES

        def moment(method: str, output: Any, mask: np.ndarray | None = None) -> Moment:
            kept = copied(output)
            if scribble:
                _scribble(output)
            return Moment(method, output, kept, mask)

        watched.call("set_tasks", tasks)
        yield moment("reset", watched.call("reset", seed=[int(key) for key in keys]))
        for _ in range(self.steps):
            actions = np.stack([drawn_action(space, rng, clip) for rng in generators for _ in range(LANES)])
            given = actions.copy()
            taken = moment("step", watched.call("step", actions))
            if not same(actions, given):
                problem = "changes the array of actions that it was given"
                remedy = "training gives a copy, other programs may not: work on a copy of it"
                self.code.note(warning(f"{self.name}.step", problem, remedy))
            yield taken
            ended = ended_lanes(taken.kept, lanes)
            if ended.any():
                yield moment("reset", watched.call("reset", options={"reset_mask": ended.copy()}), ended)


def _known(splits: Any) -> tuple[str, ...]:
    """The splits that there are among them."""
    listed = splits if isinstance(splits, tuple | list) else ()
    return tuple(split for split in listed if isinstance(split, str) and split in SPLITS)


def player_of(source: Source, code: UserCode, steps: int) -> Player:
    """The player of a `TaskVectorEnv`, or of a `gymnasium.Env` with tasks."""
    return (BlockPlayer if source.is_family else LanePlayer)(source, code, steps)


def drawn_action(space: Any, rng: np.random.Generator, clip: bool = True) -> Any:
    """An action of one lane, now and then at a bound, as the policy's reach the environment.

    clip: of a Box with bounds; without, some are beyond them.
    """
    if isinstance(space, gym.spaces.Discrete):
        return space.dtype.type(space.start + rng.integers(space.n))
    if not isinstance(space, gym.spaces.Box):
        space.seed(int(rng.integers(2**31)))
        return space.sample()
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (np.abs(low) < INFINITE) & (np.abs(high) < INFINITE)
    low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
    actions = (low + high) / 2 + rng.uniform(-1.3, 1.3, space.shape) * (high - low) / 2
    return within(actions, space) if clip else actions.astype(space.dtype)


def ended_lanes(output: Any, lanes: int) -> np.ndarray:
    """Of what `step` returned, old Gym's too, which lanes ended, bool [lanes]; none where its form does not say."""
    ended = np.zeros(lanes, bool)
    if isinstance(output, tuple | list) and len(output) in (4, 5):
        for flags in output[2 : len(output) - 1]:
            if isinstance(flags, np.ndarray | np.generic | bool | int | float) and np.size(flags) == lanes:
                ended |= np.reshape(flags, lanes).astype(bool)
    return ended


def _scribble(output: Any) -> None:
    """Write over the arrays of an output."""
    for value in output if isinstance(output, tuple | list) else (output,):
        for array in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(array, np.ndarray) and array.flags.writeable and array.dtype.kind in "biuf":
                array[...] = True if array.dtype == bool else 77
