"""Steps many lanes of one of Meta-World's environments with one environment object, one model and one data object.

The numbers are those of Meta-World's own `step` and `reset`, to the bit, and the rewards are computed by its own code.
What is left out, or done once, changes none of them:

- The model lacks what only pictures show, half of its geoms and most of its meshes: in each of the 6 passes of a step,
  MuJoCo would place each geom, and clear a flag for each of the 100000 nodes of the meshes' bounding volumes.
- The physics state of a lane is swapped into the shared data object before its step, with what warm-starts the solver.
  Where the hand is dragged is written into the states of all lanes at once.
- A reset depends on the task alone. Meta-World simulates 100 control steps in each; here a task is reset once, and
  every other reset of it starts from the same state.
- The views that Meta-World makes anew at each step (`data.body("hand").xpos`) are made once.
- `numpy.linalg.norm`, `numpy.hstack`, `Rotation.from_matrix` and `reward_utils.tolerance` are replaced by functions for
  one vector, a few numbers, one rotation and one number, which give the same bits without the checks of general ones.
- Contacts are not searched for a grasp, except where success asks for it: that is for "grasp_success" of Meta-World's
  info, which is not used here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from math import sqrt
from types import CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple, cast

import gymnasium as gym
import mujoco
import numpy as np

from mmaml.envs.mujoco.base import silent_warnings

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
FRAME = 18  # entries of one frame of an observation: the hand, the gripper, and 14 of the objects
MOVED = ("body_pos", "site_pos")  # what a reset changes in the model
DRIVEN = (mujoco.mjtState.mjSTATE_MOCAP_POS, mujoco.mjtState.mjSTATE_MOCAP_QUAT, mujoco.mjtState.mjSTATE_CTRL)
QUATERNION_OF_MOCAP = np.array((1.0, 0.0, 1.0, 0.0))  # of the body that drags the hand
OPPOSITE = np.array((1.0, -1.0))  # what closes the gripper moves its two fingers
NEEDS_GRASP = "SawyerStickPushEnvV3"  # the only environment whose success asks for a grasp
FLOAT64, FLOAT64_IN_ROW = np.dtype(np.float64), (8,)  # its strides in a vector whose numbers are next to one another
NUMBERS = frozenset((int, float, np.float64))
VALUE_AT_MARGIN = 0.1  # of Meta-World's sigmoids, by default


class Start(NamedTuple):
    """How episodes of one task begin.

    state [S]: of the physics. observation [39]: the first. space: of observations. attributes: of the environment
    object. moved: the arrays of the model that differ from task to task.
    """

    state: np.ndarray
    observation: np.ndarray
    space: gym.spaces.Box
    attributes: dict[str, Any]
    moved: tuple[np.ndarray, ...]


class Pose(NamedTuple):
    """What is to be seen. model: shared, as it is for this lane until the next call. qpos [nq]. goal [3]: m."""

    model: mujoco.MjModel
    qpos: np.ndarray
    goal: np.ndarray


class Sawyer:
    """One of Meta-World's environment classes, a subclass of its `SawyerXYZEnv`, for any number of lanes and tasks."""

    def __init__(self, environment_class: type) -> None:
        self.environment = _without_scenery(environment_class)()
        self.model, self.data = self.environment.model, self.environment.data
        self.mocap_pos, self.mocap_quat, self.control = (_part_of_state(self.model, part) for part in DRIVEN)
        self._as_built = _attributes(self.environment), _state(self.model, self.data), self._moved()
        self._rewarding = _without_frills(environment_class, self.data)
        self._views = _Views(self.data)
        self._hand, self._right, self._left = (self.data.body(name).xpos for name in ("hand", "rightclaw", "leftclaw"))
        self._hand_space = self.environment._HAND_SPACE
        self._frame_skip = self.environment.frame_skip
        self._starts: dict[tuple[bytes, bool, str], Start] = {}

    def fresh(self, simulates: bool = True) -> Any:
        """The environment object as it was built. simulates: False: without physics, until the next call."""
        attributes, state, moved = self._as_built
        self.environment.__dict__.update(_copied(attributes))
        for name in self.environment.__dict__.keys() - attributes.keys():
            del self.environment.__dict__[name]
        self.move(moved)
        mujoco.mj_setState(self.model, self.data, state, STATE)
        mujoco.mj_forward(self.model, self.data)
        if not simulates:
            self.environment.do_simulation = lambda *_: mujoco.mj_kinematics(self.model, self.data)
        return self.environment

    def start(self, rand_vec: np.ndarray, hides_goal: bool, reward_version: str = "v2") -> Start:
        """How episodes of a task begin.

        rand_vec: where Meta-World puts its objects and its goal. hides_goal: whether observations do not have the goal.
        reward_version: which of Meta-World's two rewards.
        """
        key = rand_vec.tobytes(), hides_goal, reward_version
        if key not in self._starts:
            environment = self.fresh()
            environment._set_task_called, environment._last_rand_vec = True, rand_vec.copy()
            environment._partially_observable = hides_goal
            environment.reward_function_version = reward_version
            environment.__dict__.pop("sawyer_observation_space", None)  # computed anew, with the goal or without
            with silent_warnings():
                observation, _ = environment.reset()
            space = environment.sawyer_observation_space
            attributes = _attributes(environment) | {"data": self._views}
            self._starts[key] = Start(_state(self.model, self.data), observation, space, attributes, self._moved())
        return self._starts[key]

    def move(self, moved: tuple[np.ndarray, ...]) -> None:
        """Put what is fixed where a task has it."""
        for name, values in zip(MOVED, moved, strict=True):
            getattr(self.model, name)[:] = values

    def step(
        self, state: np.ndarray, attributes: dict[str, Any], action: np.ndarray, observation: np.ndarray
    ) -> tuple[float, dict[str, Any]]:
        """One control step of a lane, as `Lanes.step`.

        state [S]: with the controls; becomes that after the step. observation [39]: all but the last frame is written.
        """
        model, data, environment = self.model, self.data, self._rewarding
        mujoco.mj_setState(model, data, state, STATE)
        mujoco.mj_step(model, data, self._frame_skip)
        mujoco.mj_forward(model, data)
        mujoco.mj_getState(model, data, state, STATE)
        environment.__dict__ = attributes
        self._look(environment, observation)
        return environment.evaluate_state(observation, action)

    def pose(self, start: Start, state: np.ndarray) -> Pose:
        """A lane of the task that begins so, in a physics state [S]."""
        self.move(start.moved)
        mujoco.mj_setState(self.model, self.data, state, STATE)
        mujoco.mj_kinematics(self.model, self.data)
        for name, values in zip(MOVED, start.moved, strict=True):
            getattr(self._with_scenery, name)[:] = values
        return Pose(self._with_scenery, self.data.qpos.copy(), start.attributes["_target_pos"].copy())

    @cached_property
    def _with_scenery(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_path(self.environment.fullpath)

    def _moved(self) -> tuple[np.ndarray, ...]:
        return tuple(getattr(self.model, name).copy() for name in MOVED)

    def _look(self, environment: Any, observation: np.ndarray) -> None:
        """Write the present frame and the goal, as Meta-World's `_get_obs` gives them, within their bounds.

        Only those of the hand and the goal are finite. Where there is no object, an observation has 0 since its reset.
        """
        _clip(self._hand, self._hand_space.low, self._hand_space.high, observation[:3])
        between = self._right - self._left
        observation[3] = min(sqrt(between.dot(between)) / 0.1, 1.0)
        positions, quaternions = environment._get_pos_objects(), environment._get_quat_objects()
        observation[4:7], observation[7:11] = positions[:3], quaternions[:4]
        if len(positions) > 3:
            observation[11:14], observation[14:18] = positions[3:], quaternions[4:]
        if not environment._partially_observable:
            space = environment.sawyer_observation_space
            _clip(environment._target_pos, space.low[-3:], space.high[-3:], observation[-3:])


class Lanes:
    """n lanes of one task, with a physics state and attributes of the environment object each."""

    def __init__(self, sawyer: Sawyer, start: Start, n: int) -> None:
        self._sawyer, self._start = sawyer, start
        self._states = np.tile(start.state, (n, 1))
        self._attributes = [_copied(start.attributes) for _ in range(n)]

    def reset(self, lane: int) -> np.ndarray:
        """Begin an episode in a lane. Returns its first observation [39]."""
        self._states[lane], self._attributes[lane] = self._start.state, _copied(self._start.attributes)
        return self._start.observation

    def step(self, actions: np.ndarray, observations: np.ndarray) -> list[tuple[float, dict[str, Any]]]:
        """One control step of all lanes: 5 of the physics.

        actions [n, 4]: float32 within ±1. observations [n, 39]: the last ones; the new ones are written. Returns each
        lane's reward and Meta-World's info, but for "grasp_success".
        """
        sawyer, space = self._sawyer, self._start.space
        sawyer.move(self._start.moved)
        self._drag(actions)
        now, before = slice(FRAME), slice(FRAME, 2 * FRAME)
        _clip(observations[:, now], space.low[now], space.high[now], observations[:, before])
        with silent_warnings():
            return [
                sawyer.step(*lane) for lane in zip(self._states, self._attributes, actions, observations, strict=True)
            ]

    def pose(self, lane: int) -> Pose:
        """A lane as it stands."""
        return self._sawyer.pose(self._start, self._states[lane])

    def _drag(self, actions: np.ndarray) -> None:
        """Write into the states where the hand is dragged and what closes the gripper, as `set_xyz_action` does."""
        sawyer, environment = self._sawyer, self._sawyer.environment
        hand = self._states[:, sawyer.mocap_pos]
        _clip(hand + actions[:, :3] * environment.action_scale, environment.mocap_low, environment.mocap_high, hand)
        self._states[:, sawyer.mocap_quat] = QUATERNION_OF_MOCAP
        self._states[:, sawyer.control] = actions[:, 3:] * OPPOSITE


def _clip(values: np.ndarray, low: np.ndarray, high: np.ndarray, into: np.ndarray) -> None:
    np.minimum(np.maximum(values, low, out=into), high, out=into)


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """`numpy.linalg.norm`, faster for a vector or a number of float64."""
    if ord is None and axis is None and not keepdims:
        if type(x) is np.ndarray and x.dtype is FLOAT64 and x.strides == FLOAT64_IN_ROW:
            return np.float64(sqrt(x.dot(x)))
        if type(x) is np.float64:
            return np.float64(sqrt(x * x))
    return np.linalg.norm(x, ord, axis, keepdims)


def hstack(parts: Any, **named: Any) -> Any:
    """`numpy.hstack`, faster for a tuple of numbers of float64."""
    if named or type(parts) is not tuple or any(type(part) is not np.float64 for part in parts):
        return np.hstack(parts, **named)
    return np.array(parts)


class OneRotation:
    """What Meta-World uses of `scipy.spatial.transform.Rotation`: the quaternion (x, y, z, w) of an orthogonal matrix.

    Markley (2008), with SciPy's order of operations.
    """

    def __init__(self, quaternion: np.ndarray) -> None:
        self._quaternion = quaternion

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> OneRotation:
        """Of a rotation matrix [3, 3]."""
        rows = matrix.tolist()
        (a, b, c), (d, e, f), (g, h, i) = rows
        trace = a + e + i
        if trace > a and trace > e and trace > i:
            q = [h - f, c - g, d - b, 1 + trace]
        else:
            first = max(range(3), key=(a, e, i).__getitem__)
            j, k = (first + 1) % 3, (first + 2) % 3
            q = [0.0] * 4
            q[first] = 1 - trace + 2 * rows[first][first]
            q[j] = rows[j][first] + rows[first][j]
            q[k] = rows[k][first] + rows[first][k]
            q[3] = rows[k][j] - rows[j][k]
        size = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
        return cls(np.array([q[0] / size, q[1] / size, q[2] / size, q[3] / size]))

    def as_quat(self) -> np.ndarray:
        """(x, y, z, w)."""
        return self._quaternion


def _long_tail(x: float) -> float:
    return 1 / ((x * LONG_TAIL) ** 2 + 1)  # `** 2` is not x * x: one of a thousand numbers has other bits


def _gaussian(x: float) -> float:
    return float(np.exp(-0.5 * (x * GAUSSIAN) ** 2))


SIGMOIDS = {"long_tail": _long_tail, "gaussian": _gaussian}
LONG_TAIL, GAUSSIAN = np.sqrt([1 / VALUE_AT_MARGIN - 1, -2 * np.log(VALUE_AT_MARGIN)]).tolist()  # their scales


def tolerance_of_numbers(utils: ModuleType) -> Callable[..., Any]:
    """Meta-World's `reward_utils.tolerance`, faster for one number."""

    def tolerance(
        x: Any, bounds: Any = (0.0, 0.0), margin: Any = 0.0, sigmoid: str = "gaussian", value_at_margin: float = 0.1
    ) -> Any:
        lower, upper = bounds
        if not (type(x) in NUMBERS and type(lower) in NUMBERS and type(upper) in NUMBERS and type(margin) in NUMBERS):
            return utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
        if lower > upper or margin < 0:
            return utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)  # raises
        x = float(x)
        if lower <= x <= upper:
            return 1.0
        if margin == 0:
            return 0.0
        distance = float(lower - x if x < lower else x - upper) / float(margin)
        if value_at_margin == VALUE_AT_MARGIN and sigmoid in SIGMOIDS:
            return SIGMOIDS[sigmoid](distance)
        return float(utils._sigmoids(np.float64(distance), value_at_margin, sigmoid))

    return tolerance


class _Named:
    """One of MuJoCo's named views, whose arrays are looked up once: they are of the data object's own memory."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._view, name)
        self.__dict__[name] = value
        return value


class _Views:
    """A data object as Meta-World's code reads it, whose named views are made once."""

    def __init__(self, data: mujoco.MjData) -> None:
        self._data = data
        self.body, self.geom = _Made(data.body).__getitem__, _Made(data.geom).__getitem__
        self.site, self.joint = _Made(data.site).__getitem__, _Made(data.joint).__getitem__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


class _Made(dict[str, _Named]):
    """Named views by their names, made when they are first asked for."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> _Named:
        view = self[name] = _Named(self._make(name))
        return view


def _without_scenery(environment_class: type) -> type:
    """The class, with a model of what moves or touches something or has a name, by which rewards may look for it."""

    def _initialize_simulation(environment: Any) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(environment.fullpath)
        for geom in spec.geoms:
            if not (geom.contype or geom.conaffinity or geom.name):
                geom.delete()
        shapes = {geom.meshname for geom in spec.geoms}
        for part in (*(mesh for mesh in spec.meshes if mesh.name not in shapes), *spec.cameras, *spec.lights):
            part.delete()
        model = spec.compile()
        return model, mujoco.MjData(model)

    return type(
        environment_class.__name__, (environment_class,), {_initialize_simulation.__name__: _initialize_simulation}
    )


def _without_frills(environment_class: type, data: mujoco.MjData) -> Any:
    """An empty object of the class, whose code uses the faster functions of this module. Its attributes are to be set.

    Functions are made anew from their code, with other globals: nothing of Meta-World is changed.
    """
    right, left = (data.site(name).xpos for name in ("rightEndEffector", "leftEndEffector"))
    namespace: dict[str, Any] = {}
    globals_of: dict[str, dict[str, Any]] = {}  # by the module that they are of
    for layer in reversed(environment_class.__mro__):
        if layer.__module__.partition(".")[0] == "metaworld":
            names = globals_of.setdefault(layer.__module__, _faster(vars(sys.modules[layer.__module__])))
            namespace |= {name: _rebound(value, names) for name, value in vars(layer).items() if _is_code(value)}
    if environment_class.__name__ != NEEDS_GRASP:
        namespace["touching_main_object"] = False
    namespace["tcp_center"] = property(lambda _: (right + left) / 2.0)
    faster = type(environment_class.__name__, (environment_class,), namespace)
    globals_of[environment_class.__module__][environment_class.__name__] = faster  # that calls functions by its name
    return object.__new__(faster)


def _is_code(value: Any) -> bool:
    return isinstance(value, FunctionType | property | staticmethod)


def _rebound(value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, property):
        return property(_rebound(value.fget, names))
    if isinstance(value, staticmethod):
        return staticmethod(_rebound(value.__func__, names))
    if value.__code__.co_freevars == ("func",):  # the check that a task is set, about a method
        value = cast(tuple[CellType, ...], value.__closure__)[0].cell_contents
    return FunctionType(value.__code__, names, value.__name__, value.__defaults__, value.__closure__)


def _faster(names: Mapping[str, Any]) -> dict[str, Any]:
    """The globals of a module, with faster functions."""
    faster: dict[str, Any] = {"np": _NUMPY, "Rotation": OneRotation}
    if utils := names.get("reward_utils"):
        faster["reward_utils"] = SimpleNamespace(**{**vars(utils), "tolerance": tolerance_of_numbers(utils)})
    return {name: faster.get(name, value) for name, value in names.items()}


_NUMPY = SimpleNamespace(
    **{**vars(np), "linalg": SimpleNamespace(**{**vars(np.linalg), "norm": norm}), "hstack": hstack}
)


def _part_of_state(model: mujoco.MjModel, part: mujoco.mjtState) -> slice:
    """Where a part is in a physics state: MuJoCo keeps them in the order of their bits."""
    first = mujoco.mj_stateSize(model, int(STATE) & (int(part) - 1))
    return slice(first, first + mujoco.mj_stateSize(model, int(part)))


def _state(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    state = np.zeros(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)
    return state


def _attributes(environment: Any) -> dict[str, Any]:
    return _copied(environment.__dict__)


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes, with arrays copied that are not views of what MuJoCo holds."""
    return {name: value.copy() if _is_own(value) else value for name, value in attributes.items()}


def _is_own(value: Any) -> bool:
    while isinstance(value, np.ndarray):
        if value.base is None:
            return True
        value = value.base
    return False
