"""What there is to know of a task family before it is run, read once from one lane of it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from gymnasium.spaces import Box, Discrete

from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.process_state import code_settings


class Warnings(NamedTuple):
    """What a run should warn of: always, and unless it normalises observations."""

    always: tuple[str, ...] = ()
    unless_normalised: tuple[str, ...] = ()

    def of_run(self, normalises: bool) -> tuple[str, ...]:
        """Those of one run."""
        return *self.always, *(() if normalises else self.unless_normalised)


NO_WARNINGS = Warnings()


@dataclass(frozen=True)
class EnvSpec:
    """A task family's spaces, of one lane, and its facts, which `mmaml.envs.base.TaskVectorEnv` explains.

    family: its class; that of the adapter for a user's `gymnasium.Env`. warnings: whole lines. name: as a configuration
    names it.
    """

    family: type[TaskVectorEnv]
    observation_space: Box
    action_space: Box | Discrete
    splits: tuple[str, ...]
    num_modes: int
    normalization_scale: float | None
    finite_horizon: bool
    warnings: Warnings = NO_WARNINGS
    mode_names: tuple[str, ...] = ()
    tasks_per_mode: int | None = None
    name: str = field(default="", compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"family": (self.family.__module__, self.family.__qualname__)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """On another rank, where the class, which may be a user's, is imported now."""
        module, name = state["family"]
        with code_settings(state["name"] or module).running():
            family = attrgetter(name)(importlib.import_module(module))
        vars(self).update(state | {"family": family})

    @property
    def observation_size(self) -> int:
        """O, entries of an observation."""
        return self.observation_space.shape[0]

    @property
    def action_size(self) -> int:
        """A, entries of an action as a policy gives it: one for each of those that are discrete."""
        return int(self.action_space.n) if isinstance(self.action_space, Discrete) else self.action_space.shape[0]

    @property
    def has_discrete_actions(self) -> bool:
        """Whether an action is one of a few."""
        return isinstance(self.action_space, Discrete)

    def action_scale(self, scale: str | float | None) -> float | None:
        """The s of `mmaml.envs.spaces.rescale_actions` that a configuration asks for; "family": the family's own."""
        return self.normalization_scale if isinstance(scale, str) else scale


def spec_of(family: TaskVectorEnv) -> EnvSpec:
    """The spec of a family, from any block of it; its attributes are such as `mmaml.envs.check.spaces` lets through."""
    return EnvSpec(
        type(family),
        family.single_observation_space,  # type: ignore[arg-type]  # such spaces alone are let through by it
        family.single_action_space,  # type: ignore[arg-type]
        tuple(family.splits),
        int(family.num_modes),
        family.normalization_scale,
        family.finite_horizon,
        mode_names=tuple(family.mode_names),
        tasks_per_mode=family.tasks_per_mode,
    )
