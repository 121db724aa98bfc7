"""The task families by name: a class and its arguments. Modes, goals and sizes are data here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.base import SingleTaskEnv, TaskVectorEnv, close_quietly
from mmaml.envs.check.start import check_attributes, check_start
from mmaml.envs.loading import Source, check_arguments, load
from mmaml.envs.metaworld import BENCHMARKS
from mmaml.envs.process_state import code_settings
from mmaml.envs.spaces import to_environment
from mmaml.envs.spec import NO_WARNINGS, EnvSpec, Warnings, spec_of
from mmaml.errors import ConfigError, Interrupted, described, text_of


class Family(NamedTuple):
    """A registered family: its class as "package.module:ClassName", arguments, usual episode length in steps.

    named: arguments that the name says, so that a configuration may not.
    """

    location: str
    env_kwargs: Mapping[str, Any]
    horizon: int = 100
    named: tuple[str, ...] = ()


def _hexagon(radius: float) -> list[list[float]]:
    return [[radius * math.cos(k * math.pi / 3), radius * math.sin(k * math.pi / 3)] for k in range(6)]


def _corners(side: float) -> list[list[float]]:
    return [[-side, -side], [side, -side], [-side, side], [side, side]]


def _half_circle(modes: int) -> list[list[float]]:
    """Points 4 from the origin, from -x over +y to +x in equal angles; a single one lies at -x."""
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
META_WORLD = "Meta-World/"  # before the name of one of its benchmarks, which are too many for the table
FAMILIES: dict[str, Family] = {
    "MetaPointEnvMomentum": Family(_MOMENTUM, {"centers": _corners(2.0), "reward_type": "sparse"}),
    "MetaPointEnvMomentumSingleMode": Family(_MOMENTUM, {"centers": [[5, 5]]} | _NOISY),
    "MetaPointEnvMomentum2Modes": Family(_MOMENTUM, {"centers": [[-5, -5], [5, 5]]} | _NOISY),
    "MetaPointEnvMomentumModes": Family(_MOMENTUM, {"centers": _corners(5.0)} | _NOISY),
    "MetaPointEnvMomentum6Modes": Family(_MOMENTUM, {"centers": _hexagon(5.0), "deal": "round_robin"} | _NOISY),
    "MetaPointEnvCorner": Family("mmaml.envs.point_mass:CornerPointMass", _CORNER | {"reward_type": "sparse"}),
    "MetaPointEnvWalls": Family("mmaml.envs.point_mass:WallsPointMass", _CORNER | {"reward_type": "dense"}),
    "2DNavigation-v0": Family("mmaml.envs.point_mass:Navigation2D", {}),
    "PointRobot": Family("mmaml.envs.point_mass:PointRobot", {"reward_type": "dense"}),
    "SparsePointRobot": Family("mmaml.envs.point_mass:PointRobot", {"reward_type": "sparse"}),
    "CartPoleMassEnv": Family("mmaml.envs.cartpole:CartPoleMass", {}, 200),
    "BernoulliBandit": Family("mmaml.envs.bandit:BernoulliBandit", {}, 1),
    "GaussianBandit": Family("mmaml.envs.bandit:GaussianBandit", {}, 1),
    "TabularMDP": Family("mmaml.envs.tabular_mdp:TabularMDP", {}, 10),
    "GridNavi": Family("mmaml.envs.grid_navi:GridNavi", {}, 15),
    "KrazyWorld": Family("mmaml.envs.krazy_world:KrazyWorld", {}, 100),
    "MemoryPlanningGame": Family("mmaml.envs.memory_planning:MemoryPlanningGame", {}, 100),
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
    """A block of M tasks with N lanes each, of a family by name, or of what `mmaml.envs.loading.load` finds.

    That is a `TaskVectorEnv`, or a `gymnasium.Env` with `sample_tasks` and `set_task` (`mmaml.envs.adapter`), for
    whose objects the block has copies of env_kwargs, arguments of the class, over those of the registry. Settings of
    the process that its code changes are put back.
    Raises UnknownEnvironment if there is no such thing, ValueError for arguments it refuses: ConfigError for such as it
    does not have.
    """
    with code_settings(name).running():
        return _made(name, num_tasks, rollouts_per_task, env_kwargs)


def _made(name: str, num_tasks: int, rollouts_per_task: int, env_kwargs: Mapping[str, Any]) -> TaskVectorEnv:
    source = source_of(name, env_kwargs)
    counts = num_tasks, rollouts_per_task
    family: TaskVectorEnv = source.build(*counts) if source.is_family else GymTaskAdapter(source, *counts)
    if registered(name) is None:
        family.code_settings = code_settings(name)
    return family


def registered(name: str) -> Family | None:
    """The family of the toolkit that has this name, or this id of Gymnasium's."""
    if f"{name}/".startswith(META_WORLD):  # also without a benchmark, which its class then asks for
        benchmark = name.removeprefix(META_WORLD[:-1]).removeprefix("/")
        return Family("mmaml.envs.metaworld:MetaWorld", {"benchmark": benchmark}, 500, ("benchmark",))
    return FAMILIES.get(name) or _BY_ID.get(name)


def source_of(name: str, env_kwargs: Mapping[str, Any]) -> Source:
    """What builds the environments of that name, with a copy of these arguments over those of the registry.

    Raises UnknownEnvironment, and ConfigError for an argument that it does not take.
    """
    family = registered(name)
    known = (*FAMILIES, *(META_WORLD + text for text in BENCHMARKS), *_of_meta_world(name))
    source = load(family.location if family else name, known)
    check_arguments(name, source, env_kwargs, family.named if family else ())
    return source.with_arguments({**(family.env_kwargs if family else {}), **env_kwargs})


def _of_meta_world(name: str) -> list[str]:
    """What to suggest in place of a name that is one of Meta-World's benchmarks' but for what stands before it."""
    return [META_WORLD + name] if re.match(r"M[LT]\d", name) else []


def import_environment(name: str) -> None:
    """Import the module of a user's environment, before anything of it arrives from another rank.

    Nothing is raised where that fails, as what needs the environment will do.
    """
    if registered(name) is None:
        with suppress(Exception, SystemExit), code_settings(name).running():
            source_of(name, {})


def check_family(
    name: str,
    env_kwargs: Mapping[str, Any],
    normalization_scale: str | float | None = "family",
    trains: bool = False,
) -> EnvSpec:
    """What there is to know of a family, from one lane of it, which is built and closed.

    normalization_scale: by which actions are to be rescaled; "family": by the family's own. trains: require tasks
    to train on, and examine a little of what it does too, with a second lane. Settings of the process that building it
    changes are put back, and the spec holds a warning of each. Raises ConfigError, of "env", "env_kwargs" or
    "normalization_scale", where a lane cannot be built, is not as is needed, or its actions cannot be rescaled.
    """
    with code_settings(name).running() as changes:
        family = _one_lane(name, env_kwargs)
    try:
        check_attributes(family, normalization_scale == "family", trains)
        found = check_start(name, env_kwargs, family, lambda: _one_lane(name, env_kwargs)) if trains else NO_WARNINGS
        spec = spec_of(family)
        to_environment(np.zeros((1, 1), np.float32), spec.action_space, spec.action_scale(normalization_scale))
    finally:
        close_quietly(family)
    found = found._replace(always=(*(f"{change}; {change.remedy}" for change in changes), *found.always))
    lines = (tuple(dict.fromkeys(f"env: '{name}' {warning}" for warning in some)) for some in found)
    return dataclasses.replace(spec, warnings=Warnings(*lines), name=name)


def _one_lane(name: str, env_kwargs: Mapping[str, Any]) -> TaskVectorEnv:
    """Raises ConfigError."""
    try:
        return _made(name, 1, 1, env_kwargs)
    except (KeyboardInterrupt, Interrupted, ConfigError):
        raise
    except ValueError as error:  # from the arguments' own checks
        raise ConfigError("env_kwargs", text_of(error) or described(error)) from error
    except Exception as error:  # a user's constructor may fail in any way
        reason = described(error)
        raise ConfigError("env_kwargs", f"'{name}' cannot be built with {dict(env_kwargs)} ({reason})") from error
    except BaseException as error:  # it, or its module, may even call sys.exit
        raise ConfigError("env", f"'{name}' cannot be loaded ({described(error)})", "fix its module") from error


def gym_id(name: str) -> str:
    """Under which id `gymnasium.make` knows a family: its name, with "-v0" behind it if it has no version."""
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


def make_single(family: str, **env_kwargs: Any) -> SingleTaskEnv:
    """A family as an ordinary environment; what `gymnasium.make` calls."""
    return SingleTaskEnv(make_family(family, **env_kwargs))


_BY_ID = {gym_id(name): family for name, family in FAMILIES.items()}


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


register_all()
