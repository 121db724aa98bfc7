"""The base of all MuJoCo families: a block of lanes, stepped by one call of `mujoco.rollout` per time step.

Physics states are arrays with one row per lane. Observations, rewards and terminations are computed from them. The
sensors of `mujoco.rollout` are not used, because they lag behind the state by one physics step. The solver starts
cold at each control step, so that a lane depends on its state and action alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.rollout import Rollout

from mmaml.envs.base import StepResult, Task, TaskVectorEnv

ASSETS = Path(gym.__file__).parent / "envs" / "mujoco" / "assets"
# A position or velocity beyond this is a blow-up of the physics; MuJoCo itself only detects those beyond 1e10.
BLOWN_UP = 1e4
# The largest `frame_skip`, physics steps per time step: a time step is then a few seconds.
MAX_FRAME_SKIP = 1000
# The clock at the start of a control step, s. MuJoCo sets the clock to 0 at a blow-up; a start at 0 would hide that.
BEGIN = 1.0


class State(NamedTuple):
    """Physics states: qpos [lanes, nq], qvel [lanes, nv]; float64, in m, rad, m/s and rad/s."""

    qpos: np.ndarray
    qvel: np.ndarray


class Outcome(NamedTuple):
    """The outcome of a step. rewards: the terms of the reward by name, float [M·N]. terminated, success: bool [M·N].

    terminated: None if the family never ends an episode. success: None if it does not define success.
    """

    rewards: dict[str, np.ndarray]
    terminated: np.ndarray | None = None
    success: np.ndarray | None = None


def load_spec(name: str) -> mujoco.MjSpec:
    """The model file `name` of the gymnasium package, to be edited and compiled."""
    return mujoco.MjSpec.from_file(str(ASSETS / name))


def removed(spec: mujoco.MjSpec, body: str) -> mujoco.MjSpec:
    """The spec without a body."""
    remove = spec.delete if hasattr(spec, "delete") else spec.detach_body  # the latter before MuJoCo 3.3.1
    remove(spec.body(body))
    return spec


def compiled(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """The model that a spec describes."""
    # Done here: from MuJoCo 4 on, the compiler warns when it scales to a total mass.
    total_mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


class MujocoFamily(TaskVectorEnv):
    """M·N lanes of one model, or of one model per task (`_use_models`).

    Actions are the controls, clipped to their ranges. A lane whose physics blows up (MuJoCo then resets it, and its
    clock does not advance) is set to its rest position, gets no reward and is terminated; infos["blow_up"] bool [M·N]
    reports it. With `use_threads`, each thread steps some of the lanes; what is not physics is computed by one.

    A family implements the abstract methods. model: the compiled model. frame_skip: physics steps per time step.
    """

    normalization_scale: float | None = 10.0
    finite_horizon = True
    uses_threads = True

    def __init__(
        self,
        num_tasks: int,
        rollouts_per_task: int,
        *,
        model: mujoco.MjModel,
        frame_skip: int,
        observation_size: int,
    ) -> None:
        self.model, self.frame_skip = model, frame_skip
        self.dt = frame_skip * model.opt.timestep
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        observation_space = gym.spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observation_space, gym.spaces.Box(low, high, dtype=np.float32))
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        # A row is a lane's whole physics state: time, positions, velocities, activations.
        self._physics = np.zeros((self.num_envs, size))
        self._trajectory = np.zeros((self.num_envs, frame_skip, size))
        self._controls = np.zeros((self.num_envs, frame_skip, model.nu))
        self._sensors = np.zeros((self.num_envs, frame_skip, model.nsensordata))
        self.qpos = self._physics[:, 1 : 1 + model.nq]
        self.qvel = self._physics[:, 1 + model.nq : 1 + model.nq + model.nv]
        self._models = [model] * self.num_envs
        self._data = mujoco.MjData(model)
        self._rollout, self._data_of_threads = Rollout(nthread=0), [self._data]

    def use_threads(self, threads: int) -> None:
        self._rollout.close()
        threads = min(threads, self.num_envs)
        self._rollout = Rollout(nthread=threads if threads > 1 else 0)
        self._data_of_threads = [self._data, *(mujoco.MjData(self.model) for _ in range(1, threads))]

    def step(self, actions: np.ndarray) -> StepResult:
        self._check_started()
        bounds = cast(gym.spaces.Box, self.single_action_space)
        controls = np.clip(actions, bounds.low, bounds.high).astype(np.float64)
        before = State(self.qpos.copy(), self.qvel.copy())
        blow_up = self._advance(controls)
        if blow_up.any():
            for state in (before, State(self.qpos, self.qvel)):
                state.qpos[blow_up], state.qvel[blow_up] = self.model.qpos0, 0
        outcome = self._outcome(before, controls)
        terminated = blow_up if outcome.terminated is None else blow_up | outcome.terminated
        infos = {name: np.where(blow_up, 0, term).astype(np.float32) for name, term in outcome.rewards.items()}
        rewards = np.where(blow_up, 0, sum(outcome.rewards.values())).astype(np.float32)
        infos["blow_up"] = blow_up
        if outcome.success is not None:
            infos["success"] = outcome.success & ~blow_up
        return self._observe(), rewards, terminated, np.zeros(self.num_envs, bool), infos

    def marker(self, task: Task) -> np.ndarray | None:
        """The point at which pictures mark the goal of a task, [x, y, z] in m; None if the goal is not a point."""
        return None

    def close_extras(self, **kwargs: object) -> None:
        self._rollout.close()

    def _advance(self, controls: np.ndarray) -> np.ndarray:
        """One control step of every lane. controls [M·N, nu]. Returns which lanes blew up, bool [M·N]."""
        self._physics[:, 0] = BEGIN
        self._controls[:] = controls[:, None]
        with silent_warnings():
            self._rollout.rollout(
                self._models,
                self._data_of_threads,
                self._physics,
                self._controls,
                skip_checks=True,
                nstep=self.frame_skip,
                state=self._trajectory,
                sensordata=self._sensors,
            )
        self._physics[:] = self._trajectory[:, -1]
        in_time = self._physics[:, 0] - BEGIN > self.dt - 0.5 * self.model.opt.timestep
        return ~(in_time & (np.abs(self._physics) < BLOWN_UP).all(1))

    def _use_models(self, models: Sequence[mujoco.MjModel]) -> None:
        """Use one model per task from now on. models: [M], with the same sizes as `self.model`."""
        self._models = [model for model in models for _ in range(self.rollouts_per_task)]

    def _by_lane(
        self,
        measure: Callable[[mujoco.MjModel, mujoco.MjData], np.ndarray | float],
        state: State | None = None,
        lanes: Iterable[int] | None = None,
    ) -> np.ndarray:
        """What `measure` returns for each lane's model and a data object in the lane's state, stacked.

        state: of all lanes; None: the present one. lanes: their indices; None: all. The controls in the data are those
        of the lane's last step, 0 at the start of an episode. A Python loop over lanes, for quantities that cannot be
        computed from the arrays.
        """
        qpos, qvel = state or (self.qpos, self.qvel)
        values = []
        with silent_warnings():
            for lane in range(self.num_envs) if lanes is None else lanes:
                self._data.qpos[:], self._data.qvel[:] = qpos[lane], qvel[lane]
                self._data.ctrl[:] = self._controls[lane, 0]
                values.append(measure(self._models[lane], self._data))
        return np.array(values)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._physics[lanes], self._controls[lanes] = 0, 0
        self.qpos[lanes], self.qvel[lanes] = self._start(len(lanes), rng)

    @abstractmethod
    def _start(self, n: int, rng: np.random.Generator) -> State:
        """Draw n states in which episodes begin."""

    @abstractmethod
    def _outcome(self, before: State, controls: np.ndarray) -> Outcome:
        """The outcome, for each lane, of the step from `before` to the present state with controls [M·N, nu]."""


@contextmanager
def silent_warnings() -> Iterator[None]:
    """Suppress MuJoCo's warnings on stderr and in a file; blow-ups are detected and counted anyway."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
