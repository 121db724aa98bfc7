"""The task families by name: a class and its arguments. Modes, goals and sizes are data here."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.base import SingleTaskEnv, TaskVectorEnv, to_environment
from mmaml.envs.check.start import check_start
from mmaml.envs.spec import EnvSpec, spec_of
from mmaml.errors import ConfigError, Interrupted, described, text_of
from mmaml.extras import not_installed


class UnknownEnvironment(ConfigError):
    """A name that is neither a family's nor the place of an environment that can be used."""


class Family(NamedTuple):
    """A registered family: its class as "package.module:ClassName", arguments, usual episode length in steps."""

    place: str
    env_kwargs: Mapping[str, Any]
    horizon: int = 100


def _hexagon(radius: float) -> list[list[float]]:
    return [[radius * math.cos(k * math.pi / 3), radius * math.sin(k * math.pi / 3)] for k in range(6)]


def _corners(side: float) -> list[list[float]]:
    return [[-side, -side], [side, -side], [-side, side], [side, side]]


def _half_circle(modes: int) -> list[list[float]]:
    """Places 4 from the origin, from -x over +y to +x in equal angles; a single one lies at -x."""
    angles = [math.pi * k / max(modes - 1, 1) for k in range(modes)]
    return [[-4 * math.cos(angle), 4 * math.sin(angle)] for angle in angles]


_MOMENTUM = "mmaml.envs.point_mass:MomentumPointMass"
_NOISY = {"noise": 1.0, "reward_type": "dense"}
_CORNER = {"centers": _corners(2.0), "action_limit": 0.2, "radius": 0.5}
_HALF_CHEETAH = "mmaml.envs.mujoco.half_cheetah:HalfCheetah"
_WALKER = "mmaml.envs.mujoco.walker:Walker2D"
_CHEETAH_STEP = {"frame_skip": 5, "control_cost": 0.05}
_WALKER_STEP = {"frame_skip": 8, "control_cost": 1e-3, "alive_bonus": 1}
_EITHER_WAY = {"reward_type": "direction", "goals": [[-1, -1], [1, 1]]}
_FORWARDS = {"reward_type": "direction", "goals": [[1, 1]]}
_ANY_DYNAMICS = _WALKER_STEP | _FORWARDS | {"frame_skip": 4, "dynamics_range": 3}
_ANT_GOAL = "mmaml.envs.mujoco.ant:AntGoal"
_ANT_MODES = {"noise": 0.8, "goal_height": 0.03, "frame_skip": 2}
_IN_TURN = {"deal": "round_robin"}
_REACHER = "mmaml.envs.mujoco.reacher:Reacher"
_THREE_LINKS = {"noise": 0.1, "goal_height": 0.03, "reach": 0.3, "distance": "l1", "control_cost": 0.1}
_TWO_LINKS = {"links": 2, "noise": 0.025, "goal_height": None, "reach": 0.25, "distance": "l2", "control_cost": 1.0}
_TWO_LINKS |= {"reward_before_step": True}
_ARRIVAL = "mmaml.envs.mujoco.tesp:Arrival"
_LINE = {"directions": [[-1, 0], [1, 0]]}
FAMILIES: dict[str, Family] = {
    "MetaPointEnvMomentum": Family(_MOMENTUM, {"centers": _corners(2.0), "reward_type": "sparse"}),
    "MetaPointEnvMomentumSingleMode": Family(_MOMENTUM, {"centers": [[5, 5]]} | _NOISY),
    "MetaPointEnvMomentum2Modes": Family(_MOMENTUM, {"centers": [[-5, -5], [5, 5]]} | _NOISY),
    "MetaPointEnvMomentumModes": Family(_MOMENTUM, {"centers": _corners(5.0)} | _NOISY),
    "MetaPointEnvMomentum6Modes": Family(_MOMENTUM, {"centers": _hexagon(5.0), "deal": "round_robin"} | _NOISY),
    "MetaPointEnvCorner": Family("mmaml.envs.point_mass:CornerPointMass", _CORNER | {"reward_type": "sparse"}),
    "MetaPointEnvWalls": Family("mmaml.envs.point_mass:WallsPointMass", _CORNER | {"reward_type": "dense"}),
    "2DNavigation-v0": Family("mmaml.envs.point_mass:Navigation2D", {}),
    "CartPoleMassEnv": Family("mmaml.envs.cartpole:CartPoleMass", {}, 200),
    "BernoulliBandit": Family("mmaml.envs.bandit:BernoulliBandit", {}, 1),
    "GaussianBandit": Family("mmaml.envs.bandit:GaussianBandit", {}, 1),
    "TabularMDP": Family("mmaml.envs.tabular_mdp:TabularMDP", {}, 10),
    "GridNavi": Family("mmaml.envs.grid_navi:GridNavi", {}, 15),
    "DiscountingChain": Family("mmaml.envs.discounting_chain:DiscountingChain", {}, 100),
    "Reacher3Link1ModeEnv": Family(_REACHER, {"centers": [[0.225, 0.225]]} | _THREE_LINKS, 50),
    "Reacher3Link2ModeEnv": Family(_REACHER, {"centers": [[-0.225, -0.225], [0.225, 0.225]]} | _THREE_LINKS, 50),
    "Reacher3LinkEnv": Family(_REACHER, {"centers": _corners(0.225)} | _THREE_LINKS, 50),
    "Reacher3Link6ModeEnv": Family(_REACHER, {"centers": _hexagon(0.225 * math.sqrt(2))} | _THREE_LINKS, 50),
    "Reacher1ModeEnv": Family(_REACHER, {"centers": [[0.125, 0.125]]} | _TWO_LINKS, 50),
    "Reacher2ModeEnv": Family(_REACHER, {"centers": [[-0.125, -0.125], [0.125, 0.125]]} | _TWO_LINKS, 50),
    "ReacherEnv": Family(_REACHER, {"centers": _corners(0.125)} | _TWO_LINKS, 50),
    "Reacher6ModeEnv": Family(_REACHER, {"centers": _hexagon(1.2 * 0.125 * math.sqrt(2))} | _TWO_LINKS, 50),
    "HalfCheetahRandDirecEnv": Family(_HALF_CHEETAH, _CHEETAH_STEP | _EITHER_WAY),
    "HalfCheetahRandVelEnv": Family(_HALF_CHEETAH, _CHEETAH_STEP | {"reward_type": "velocity", "goals": [[0, 3]]}),
    "HalfCheetahTargetSpeedEnv": Family(
        _HALF_CHEETAH, _CHEETAH_STEP | {"reward_type": "velocity", "goals": [[-3, -1], [1, 3]]}
    ),
    "HalfCheetahTargetLocationEnv": Family(
        _HALF_CHEETAH, _CHEETAH_STEP | {"reward_type": "location", "goals": [[-5, -1], [1, 5]]}
    ),
    "Walker2DRandDirecEnv": Family(_WALKER, _WALKER_STEP | _EITHER_WAY, 200),
    "Walker2DRandVelEnv": Family(
        _WALKER, _WALKER_STEP | {"reward_type": "velocity", "goals": [[0, 10]], "alive_bonus": 15}, 200
    ),
    "Walker2DTargetLocation": Family(
        _WALKER, _WALKER_STEP | {"reward_type": "location", "goals": [[-3, -1], [1, 3]], "alive_bonus": 5}, 200
    ),
    "Walker2DRandParamsEnv": Family(_WALKER, _ANY_DYNAMICS, 200),
    "HopperRandParamsEnv": Family("mmaml.envs.mujoco.hopper:Hopper", _ANY_DYNAMICS, 200),
    "SwimmerRandVelEnv": Family("mmaml.envs.mujoco.swimmer:SwimmerVelocity", {}, 200),
    "SwimmerReach2ModesEnv": Family("mmaml.envs.mujoco.swimmer:SwimmerReach", {"centers": [[-1, -1], [1, 1]]}, 200),
    "SwimmerReach4ModesEnv": Family("mmaml.envs.mujoco.swimmer:SwimmerReach", {"centers": _corners(1.0)}, 200),
    "AntRandGoalEnv": Family(_ANT_GOAL, {"centers": [[0, 0]], "radius": 3}, 200),
    "AntRandGoalMode1ModesEnv": Family(_ANT_GOAL, {"centers": _half_circle(1)} | _ANT_MODES | _IN_TURN, 250),
    "AntRandGoalMode2ModesEnv": Family(_ANT_GOAL, {"centers": _half_circle(2)} | _ANT_MODES, 250),
    "AntRandGoalModeEnv": Family(_ANT_GOAL, {"centers": _half_circle(4)} | _ANT_MODES | _IN_TURN, 250),
    "AntRandGoalMode6ModesEnv": Family(_ANT_GOAL, {"centers": _half_circle(6)} | _ANT_MODES | _IN_TURN, 250),
    "AntRandDirecEnv": Family("mmaml.envs.mujoco.ant:AntDirection", _LINE, 200),
    "AntRandDirec2DEnv": Family("mmaml.envs.mujoco.ant:AntDirection", {"directions": None}, 200),
    "AntRandVelEnv": Family("mmaml.envs.mujoco.ant:AntVelocity", {"goals": [[0, 3]]}, 200),
    "HumanoidRandDirecEnv": Family("mmaml.envs.mujoco.humanoid:HumanoidDirection", _LINE, 200),
    "HumanoidRandDirec2DEnv": Family("mmaml.envs.mujoco.humanoid:HumanoidDirection", {"directions": None}, 200),
    "TESPWheeledEnv": Family(_ARRIVAL, {"body": "car", "arrival": 0.02}, 200),
    "TESPAntEnv": Family(_ARRIVAL, {"body": "ant", "arrival": 0.03}, 200),
    "TESPReacher2LinkEnv": Family(_ARRIVAL, {"body": "arm_2", "arrival": 0.06}, 200),
    "TESPReacher4LinkEnv": Family(_ARRIVAL, {"body": "arm_4", "arrival": 0.11, "goal_spacing": 0.11}, 200),
}


def make_family(name: str, num_tasks: int = 1, rollouts_per_task: int = 1, /, **env_kwargs: Any) -> TaskVectorEnv:
    """A block of M tasks with N lanes each, of a family by name or of a class at "package.module:ClassName".

    The class is a `TaskVectorEnv`, or a `gymnasium.Env` with `sample_tasks` and `set_task`
    (`mmaml.envs.adapter`). env_kwargs: arguments of the class, over those of the registry.
    Raises UnknownEnvironment if there is no such class, ValueError for arguments it refuses: ConfigError for such as it
    does not have.
    """
    family = FAMILIES.get(name) or Family(name, {})
    cls = load_class(family.place)
    check_arguments(name, cls, env_kwargs)
    if issubclass(cls, TaskVectorEnv):
        return cls(num_tasks, rollouts_per_task, **{**family.env_kwargs, **env_kwargs})
    return GymTaskAdapter(cls, num_tasks, rollouts_per_task, **env_kwargs)


def check_family(
    name: str,
    env_kwargs: Mapping[str, Any],
    normalization_scale: str | float | None = "family",
    trains: bool = False,
) -> EnvSpec:
    """What there is to know of a family, from one lane of it, which is built and closed.

    normalization_scale: by which actions are to be rescaled; "family": by the family's own. trains: examine one reset
    and one step of it too. Raises ConfigError, of "env", "env_kwargs" or "normalization_scale", where the lane cannot
    be built, is not as training needs it, or its actions cannot be rescaled.
    """
    try:
        family = make_family(name, 1, 1, **env_kwargs)
    except (KeyboardInterrupt, Interrupted, ConfigError):
        raise
    except ValueError as error:  # from the arguments' own checks
        raise ConfigError("env_kwargs", text_of(error) or described(error)) from error
    except Exception as error:  # a user's constructor may fail in any way
        reason = described(error)
        raise ConfigError("env_kwargs", f"'{name}' cannot be built with {dict(env_kwargs)} ({reason})") from error
    except BaseException as error:  # it, or its module, may even call sys.exit
        raise ConfigError("env", f"'{name}' cannot be loaded ({described(error)})", "fix its module") from error
    if trains:
        check_start(name, env_kwargs, family)
    with suppress(Exception, SystemExit):  # as in a run, what closing raises concerns nobody
        family.close()
    spec = spec_of(family)
    to_environment(np.zeros((1, 1), np.float32), spec.action_space, spec.action_scale(normalization_scale))
    return spec


def gym_id(name: str) -> str:
    """Under which id `gymnasium.make` knows a family: its name, with "-v0" behind it if it has no version."""
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


def make_single(family: str, **env_kwargs: Any) -> SingleTaskEnv:
    """A family as an ordinary environment; what `gymnasium.make` calls."""
    return SingleTaskEnv(make_family(family, **env_kwargs))


def register_all() -> None:
    """Register every family with `gymnasium.make`; a time limit ends an episode at the family's horizon."""
    for name, family in FAMILIES.items():
        if gym_id(name) not in gym.registry:
            gym.register(
                gym_id(name),
                entry_point="mmaml.envs.registry:make_single",
                max_episode_steps=family.horizon,
                kwargs={"family": name},
            )


def load_class(place: str) -> type[gym.Env] | type[TaskVectorEnv]:
    """The class at "package.module:ClassName". Raises UnknownEnvironment if it cannot be used."""
    module_name, _, class_name = place.partition(":")
    if not module_name or not class_name:
        near = difflib.get_close_matches(place, FAMILIES, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known families: {', '.join(FAMILIES)}"
        expected = "a task family or 'package.module:ClassName'"
        raise UnknownEnvironment("env", expected=expected, got=f"'{place}'", remedy=hint)
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # a user's module may fail in any way
        if isinstance(error, ImportError) and (missing := not_installed(error)):
            raise UnknownEnvironment("env", f"'{place}' cannot be loaded: {missing}") from error
        remedy = "check the name, and that its package is installed or its folder on PYTHONPATH"
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "envs":
            remedy += " (the toolkit's own families are imported as mmaml.envs)"
        raise UnknownEnvironment("env", f"'{place}' cannot be loaded ({described(error)})", remedy) from error
    if isinstance(cls, type) and issubclass(cls, TaskVectorEnv):
        return cls
    lacks = [name for name in ("sample_tasks", "set_task") if not callable(getattr(cls, name, None))]
    if not isinstance(cls, type) or not issubclass(cls, gym.Env) or lacks:
        reason = f"a class without {' and '.join(lacks)}" if isinstance(cls, type) and lacks else repr(cls)
        raise UnknownEnvironment(
            "env",
            expected=f"at '{place}' a gymnasium.Env with sample_tasks(n, rng) and set_task(task), or a TaskVectorEnv",
            got=reason,
            remedy="see docs/environments.md",
        )
    return cls


def check_arguments(name: str, cls: type, env_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument that the constructor of `cls` does not have."""
    parameters = inspect.signature(cls).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    accepted = [parameter.name for parameter in parameters]
    if issubclass(cls, TaskVectorEnv):
        accepted = [key for key in accepted if key not in ("num_tasks", "rollouts_per_task")]
    for key in env_kwargs:
        if key not in accepted:
            known = f"takes {', '.join(accepted)}" if accepted else "takes no arguments"
            raise ConfigError("env_kwargs", f"'{name}' {known}, got '{key}'")


register_all()
