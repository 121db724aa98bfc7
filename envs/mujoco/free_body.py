"""The base of ants and humanoids: bodies that move freely in space.

The reward is the sum of these terms, where a is the controls:

| term           | value                  | where                 |
|----------------|------------------------|-----------------------|
| reward_goal    | the family's own       | everywhere            |
| reward_control | −control_cost · ‖a‖²   | everywhere            |
| reward_survive | alive_bonus            | where it is not 0     |
| reward_contact | −the family's own cost | with `contact_forces` |

`mujoco.rollout` does not return contact forces. With `contact_forces` they are computed lane by lane, which takes 10 %
more time, and 25 % with a frame skip of 2. In the published code, with the MuJoCo of its time, they are mostly zeros.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import mujoco
import numpy as np

from mmaml.envs.arguments import count, flag, interval, number
from mmaml.envs.base import Task
from mmaml.envs.goals import draw_directions, draw_modes
from mmaml.envs.mujoco.base import MAX_FRAME_SKIP, MujocoFamily, Outcome, State, compiled, load_spec

# What can be measured of a lane: names of MuJoCo's arrays, and the number of leading rows, of world or root, to skip.
_NOT_OBSERVED = {"cinert": 1, "cvel": 1, "qfrc_actuator": 6, "cfrc_ext": 1}


def direction_tasks(n: int, rng: np.random.Generator, directions: np.ndarray | None, deal: str) -> list[Task]:
    """Draw n tasks with the value "goal" [2], one of `directions` [modes, 2]; None: a single mode, any unit vector.

    deal: see `mmaml.envs.goals.draw_modes`.
    """
    if directions is None:
        return [Task(0, {"goal": direction}) for direction in draw_directions(n, rng)]
    modes = draw_modes(n, rng, len(directions), deal)
    return [Task(int(mode), {"goal": directions[mode]}) for mode in modes]


class FreeBody(MujocoFamily):
    """A body that is rewarded for its motion, for little effort, and optionally for staying upright.

    frame_skip: physics steps per time step. control_cost, alive_bonus: see the table above. height_limits: [low, high];
    an episode ends when the root's height, m, leaves them; None: never. contact_forces: give contact forces a cost, and
    observe them. observe_position: observe x and y. observe_goal: append the goal to the observation. observed_bodies:
    names of other MuJoCo arrays that are observed.

    The values of a task are "goal", of the shape `goal_shape`. A body sets model_file.
    """

    model_file: str
    goal_shape: tuple[int, ...] = (2,)

    def __init__(
        self,
        num_tasks: int,
        rollouts_per_task: int,
        *,
        frame_skip: int,
        control_cost: float,
        alive_bonus: float = 0.0,
        height_limits: Sequence[float] | None = None,
        contact_forces: bool,
        observe_goal: bool,
        observe_position: bool = False,
        observed_bodies: Sequence[str] = (),
    ) -> None:
        self.control_cost = number("control_cost", control_cost)
        self.alive_bonus = number("alive_bonus", alive_bonus)
        self.height_limits = None if height_limits is None else interval("height_limits", height_limits)
        self.contact_forces = flag("contact_forces", contact_forces)
        self.observe_goal = flag("observe_goal", observe_goal)
        self._first_position = 0 if observe_position else 2
        self._measured_names = (*observed_bodies, "cfrc_ext") if self.contact_forces else tuple(observed_bodies)
        model = compiled(load_spec(self.model_file))
        bare = mujoco.MjData(model)
        num_measured = sum(getattr(bare, name)[_NOT_OBSERVED[name] :].size for name in self._measured_names)
        goal_size = int(np.prod(self.goal_shape)) if self.observe_goal else 0
        super().__init__(
            num_tasks,
            rollouts_per_task,
            model=model,
            frame_skip=count("frame_skip", frame_skip, MAX_FRAME_SKIP),
            observation_size=model.nq - self._first_position + model.nv + num_measured + goal_size,
        )
        self._goal = np.zeros((self.num_envs, *self.goal_shape))
        # Measured in the present state of every lane, after the last step or reset.
        self._measured = np.zeros((self.num_envs, num_measured))

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = self._per_lane(tasks, "goal", self.goal_shape)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, rng)
        if self._measured_names:
            self._measured[lanes] = self._by_lane(self._measure, lanes=lanes)

    def _observe(self) -> np.ndarray:
        parts = [self.qpos[:, self._first_position :], self.qvel, self._observable(self._measured)]
        if self.observe_goal:
            parts.append(self._goal.reshape(self.num_envs, -1))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _outcome(self, before: State, controls: np.ndarray) -> Outcome:
        rewards = {
            "reward_goal": self._goal_reward(before),
            "reward_control": -self.control_cost * (controls**2).sum(1),
        }
        if self.alive_bonus:
            rewards["reward_survive"] = np.full(self.num_envs, self.alive_bonus)
        if self._measured_names:
            self._measured[:] = self._by_lane(self._measure)
        if self.contact_forces:
            # Contact forces are measured last: a torque and a force of each body, [6].
            rewards["reward_contact"] = -self._contact_cost(self._measured[:, -6 * (self.model.nbody - 1) :])
        if self.height_limits is None:
            return Outcome(rewards)
        low, high = self.height_limits
        height = self.qpos[:, 2]
        return Outcome(rewards, (height < low) | (height > high))

    def _measure(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        """The measured quantities of a lane as a vector."""
        data.qacc_warmstart[:] = 0  # the result must not depend on the previous lane
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        return np.concatenate([getattr(data, name)[_NOT_OBSERVED[name] :].ravel() for name in self._measured_names])

    def _observable(self, measured: np.ndarray) -> np.ndarray:
        """The observation of measured quantities [M·N, …], with the same shape."""
        return measured

    @abstractmethod
    def _goal_reward(self, before: State) -> np.ndarray:
        """reward_goal of each lane [M·N] for its step from `before` to the present state."""

    @abstractmethod
    def _contact_cost(self, forces: np.ndarray) -> np.ndarray:
        """The cost [M·N] of contact forces [M·N, 6 · bodies], N·m and N."""
