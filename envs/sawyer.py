"""Steps many lanes of one of Meta-World's environments with one environment object, one model and one data object.

The numbers are those of Meta-World's own `step` and `reset`, to the bit, and the rewards are computed by its own code.
What is left out, or done once, changes none of them:

- The physics state of a lane is swapped into the shared data object before its step, with what warm-starts the solver.
- A reset depends on the task alone. Meta-World simulates 100 control steps in each; here a task is reset once, and
  every other reset of it starts from the same state.
- The views that Meta-World makes anew at each step (`data.body("hand").xpos`) are made once.
- `numpy.linalg.norm`, `Rotation.from_matrix` and `reward_utils.tolerance` are replaced by functions for one vector, one
  rotation and one number, which give the same bits without the general functions' checks.
- Contacts are not searched for a grasp: that is for "grasp_success" of Meta-World's info, which is not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from types import CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple, cast

import mujoco
import numpy as np

from mmaml.envs.mujoco.base import silent_warnings

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
FRAME = 18  # entries of one frame of an observation: the hand, the gripper, and 14 of the objects
MOVED = ("body_pos", "site_pos")  # what a reset changes in the model
QUATERNION_OF_MOCAP = (1, 0, 1, 0)  # of the body that drags the hand


class Start(NamedTuple):
    """How episodes of one task begin.

    state [S]: of the physics. observation [39]: the first. attributes: of the environment object. moved: the arrays of
    the model that differ from task to task.
    """

    state: np.ndarray
    observation: np.ndarray
    attributes: dict[str, Any]
    moved: tuple[np.ndarray, ...]

    def lane(self) -> Lane:
        """A lane at the start of an episode."""
        return Lane(self.state.copy(), self.observation[:FRAME].copy(), _copied(self.attributes))


class Lane(NamedTuple):
    """What steps change. state [S]: of the physics. frame [18]: the last. attributes: of the environment object."""

    state: np.ndarray
    frame: np.ndarray
    attributes: dict[str, Any]


class Pose(NamedTuple):
    """What is to be seen. model: shared, as it is for this lane until the next call. qpos [nq]. goal [3]: m."""

    model: mujoco.MjModel
    qpos: np.ndarray
    goal: np.ndarray


class Sawyer:
    """One of Meta-World's environment classes, a subclass of its `SawyerXYZEnv`, for any number of lanes and tasks."""

    def __init__(self, environment_class: type) -> None:
        self.environment = environment_class()
        self.model, self.data = self.environment.model, self.environment.data
        self.state_size = mujoco.mj_stateSize(self.model, STATE)
        self._as_built = _attributes(self.environment), _state(self.model, self.data), self._moved()
        self._rewarding = _without_frills(environment_class)
        self._views = _Views(self.data)
        self._starts: dict[tuple[bytes, bool, str], Start] = {}

    def fresh(self, simulates: bool = True) -> Any:
        """The environment object as it was built. simulates: False: without physics, until the next call."""
        attributes, state, moved = self._as_built
        self.environment.__dict__.update(_copied(attributes))
        for name in self.environment.__dict__.keys() - attributes.keys():
            del self.environment.__dict__[name]
        self._move(moved)
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
            attributes = _attributes(environment) | {"data": self._views}
            self._starts[key] = Start(_state(self.model, self.data), observation, attributes, self._moved())
        return self._starts[key]

    def step(
        self, start: Start, lanes: Sequence[Lane], actions: np.ndarray, observations: np.ndarray
    ) -> list[tuple[float, dict[str, Any]]]:
        """One control step of n lanes of the task that begins so: 5 of the physics.

        actions [n, 4]: float32 within ±1. observations [n, 39]: are written. Returns each lane's reward and
        Meta-World's info, but for "grasp_success".
        """
        self._move(start.moved)
        self._rewarding.__dict__ = start.attributes
        play = Play(self._rewarding, self.model, self.data)
        with silent_warnings():
            return [play.step(*of_lane) for of_lane in zip(lanes, actions, observations, strict=True)]

    def pose(self, start: Start, lane: Lane) -> Pose:
        """A lane of the task that begins so, as it stands."""
        self._move(start.moved)
        mujoco.mj_setState(self.model, self.data, lane.state, STATE)
        return Pose(self.model, self.data.qpos.copy(), start.attributes["_target_pos"])

    def _moved(self) -> tuple[np.ndarray, ...]:
        return tuple(getattr(self.model, name).copy() for name in MOVED)

    def _move(self, moved: tuple[np.ndarray, ...]) -> None:
        for name, values in zip(MOVED, moved, strict=True):
            getattr(self.model, name)[:] = values


class Play:
    """Steps lanes of one task, one after another."""

    def __init__(self, environment: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._environment, self._model, self._data = environment, model, data
        self._frame_skip, self._action_scale = environment.frame_skip, environment.action_scale
        self._low, self._high = environment.mocap_low, environment.mocap_high
        self._control, self._mocap = data.ctrl, data.mocap_pos
        body = environment.data.body
        self._hand, self._fingers = body("hand").xpos, (body("rightclaw").xpos, body("leftclaw").xpos)
        space = environment.sawyer_observation_space
        self._lowest, self._highest = space.low, space.high
        self._goal = np.zeros(3) if environment._partially_observable else environment._target_pos

    def step(self, lane: Lane, action: np.ndarray, observation: np.ndarray) -> tuple[float, dict[str, Any]]:
        """One control step of a lane, as `Sawyer.step`."""
        model, data, frame = self._model, self._data, lane.frame
        mujoco.mj_setState(model, data, lane.state, STATE)
        target = self._mocap + action[:3] * self._action_scale
        _clip(target, self._low, self._high, self._mocap)
        data.mocap_quat[0] = QUATERNION_OF_MOCAP
        self._control[0], self._control[1] = action[3], -action[3]
        mujoco.mj_step(model, data, self._frame_skip)
        mujoco.mj_forward(model, data)
        mujoco.mj_getState(model, data, lane.state, STATE)
        self._environment.__dict__ = lane.attributes
        observation[FRAME : 2 * FRAME] = frame
        self._look(frame)
        observation[:FRAME] = frame
        observation[2 * FRAME :] = self._goal
        _clip(observation, self._lowest, self._highest, observation)
        return self._environment.evaluate_state(observation, action)

    def _look(self, frame: np.ndarray) -> None:
        """Write the present frame, as Meta-World's `_get_curr_obs_combined_no_goal` gives it."""
        environment = self._environment
        frame[:3] = self._hand
        apart = norm(self._fingers[0] - self._fingers[1]) / 0.1
        frame[3] = 0.0 if apart < 0.0 else 1.0 if apart > 1.0 else apart
        positions, quaternions = environment._get_pos_objects(), environment._get_quat_objects()
        frame[4:] = 0
        for first in range(len(positions) // 3):
            frame[4 + 7 * first : 7 + 7 * first] = positions[3 * first : 3 * first + 3]
            frame[7 + 7 * first : 11 + 7 * first] = quaternions[4 * first : 4 * first + 4]


def _clip(values: np.ndarray, low: np.ndarray, high: np.ndarray, into: np.ndarray) -> None:
    np.minimum(np.maximum(values, low, out=into), high, out=into)


def norm(x: Any, *others: Any, **named: Any) -> Any:
    """`numpy.linalg.norm`, faster for a vector of float64."""
    if others or named or type(x) is not np.ndarray or x.ndim != 1 or x.dtype != np.float64 or not x.flags.c_contiguous:
        return np.linalg.norm(x, *others, **named)
    return np.float64(sqrt(x.dot(x)))


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
        diagonal = [rows[0][0], rows[1][1], rows[2][2]]
        trace = diagonal[0] + diagonal[1] + diagonal[2]
        i = max(range(3), key=diagonal.__getitem__)
        q = [0.0] * 4
        if diagonal[i] >= trace:
            j, k = (i + 1) % 3, (i + 2) % 3
            q[i] = 1 - trace + 2 * rows[i][i]
            q[j] = rows[j][i] + rows[i][j]
            q[k] = rows[k][i] + rows[i][k]
            q[3] = rows[k][j] - rows[j][k]
        else:
            q = [rows[2][1] - rows[1][2], rows[0][2] - rows[2][0], rows[1][0] - rows[0][1], 1 + trace]
        size = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
        return cls(np.array([q[0] / size, q[1] / size, q[2] / size, q[3] / size]))

    def as_quat(self) -> np.ndarray:
        """(x, y, z, w)."""
        return self._quaternion


def tolerance_of_numbers(utils: ModuleType) -> Callable[..., Any]:
    """Meta-World's `reward_utils.tolerance`, faster for one number."""

    def tolerance(
        x: Any, bounds: Any = (0.0, 0.0), margin: Any = 0.0, sigmoid: str = "gaussian", value_at_margin: float = 0.1
    ) -> Any:
        lower, upper = bounds
        if type(x) not in (float, np.float64) or lower > upper or margin < 0:
            return utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
        if lower <= x <= upper:
            return 1.0
        if margin == 0:
            return 0.0
        distance = np.float64(lower - x if x < lower else x - upper) / margin
        return float(utils._sigmoids(distance, value_at_margin, sigmoid))

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
        self.body, self.geom = self._lookup(data.body), self._lookup(data.geom)
        self.site, self.joint = self._lookup(data.site), self._lookup(data.joint)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    @staticmethod
    def _lookup(make: Callable[[str], Any]) -> Callable[[str], Any]:
        known: dict[str, _Named] = {}

        def view(name: str) -> _Named:
            if name not in known:
                known[name] = _Named(make(name))
            return known[name]

        return view


def _without_frills(environment_class: type) -> Any:
    """An empty object of the class, whose code uses the faster functions of this module. Its attributes are to be set.

    Functions are made anew from their code, with other globals: nothing of Meta-World is changed.
    """
    namespace: dict[str, Any] = {}
    for layer in reversed(environment_class.__mro__):
        if layer.__module__.partition(".")[0] == "metaworld":
            namespace |= {name: _rebound(value) for name, value in vars(layer).items() if _is_code(value)}
    namespace["touching_main_object"] = False
    namespace["tcp_center"] = property(_center_of_fingers)
    faster = type(environment_class.__name__, (environment_class,), namespace)
    return object.__new__(faster)


def _center_of_fingers(environment: Any) -> np.ndarray:
    sites = environment.data.site
    return (sites("rightEndEffector").xpos + sites("leftEndEffector").xpos) / 2.0


def _is_code(value: Any) -> bool:
    return isinstance(value, FunctionType | property)


def _rebound(value: Any) -> Any:
    if isinstance(value, property):
        return property(_rebound(value.fget))
    if value.__code__.co_freevars == ("func",):  # the check that a task is set, about a method
        value = cast(tuple[CellType, ...], value.__closure__)[0].cell_contents
    names: dict[str, Any] = dict(value.__globals__)
    if "reward_utils" in names:
        utils = names["reward_utils"]
        names["reward_utils"] = SimpleNamespace(**{**vars(utils), "tolerance": tolerance_of_numbers(utils)})
    names |= {name: faster for name, faster in (("np", _NUMPY), ("Rotation", OneRotation)) if name in names}
    return FunctionType(value.__code__, names, value.__name__, value.__defaults__, value.__closure__)


_NUMPY = SimpleNamespace(**{**vars(np), "linalg": SimpleNamespace(**{**vars(np.linalg), "norm": norm})})


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
