"""Ant families: walk to a goal, in a direction, or at a velocity.

| observation | meaning                                                                                      |
|-------------|----------------------------------------------------------------------------------------------|
| 0 … 12      | height of the torso, m; its orientation (w, x, y, z of a quaternion); angles of the hips and |
|             | ankles, rad: front left, front right, back left, back right                                  |
| 13 … 18     | velocity of the torso in x, y, z, m/s, and its angular velocity in its own axes, rad/s       |
| 19 … 26     | angular velocities of the hips and ankles, rad/s                                             |
| 27 … 104    | with `contact_forces`: torque and force of contacts on each of 13 bodies, N·m, N, within ±1  |

Goal families observe x and y of the torso first, m, so that all of these numbers are 2 higher there.

| action | meaning                                                                                           |
|--------|---------------------------------------------------------------------------------------------------|
| 0 … 7  | torques of back right hip and ankle, front left, front right, back left, in 150 N·m; from −1 to 1 |

The model is gymnasium's `ant.xml`, with physics steps of 0.01 s. Episodes begin at rest position + U(±0.1),
velocities 0.1·N(0, 1). Rewards: those of `mmaml.envs.mujoco.free_body`, with reward_goal as each class below says and
the contact cost 0.0005·‖forces within ±1‖². The published code also observes the
forces on the world, which are always 0.

Sources: the environments of ProMP (Rothfuss et al. 2018: `AntRandGoalEnv`, `AntRandDirecEnv`, `AntRandDirec2DEnv`),
MMAML (Vuorio et al. 2019: `AntRandGoalModeEnv` and its kin) and MAML (Finn et al. 2017: ant velocity).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmaml.envs.arguments import choice, intervals, number, points, unit_vectors
from mmaml.envs.base import Task
from mmaml.envs.goals import DEALS, draw_directions, draw_goals, draw_modes
from mmaml.envs.mujoco.base import State
from mmaml.envs.mujoco.free_body import FreeBody, direction_tasks

CONTACT_COST = 0.5e-3


class Ant(FreeBody):
    """The base of all ant families: a `FreeBody` with the body of an ant."""

    model_file = "ant.xml"

    def _start(self, n: int, rng: np.random.Generator) -> State:
        qpos = self.model.qpos0 + rng.uniform(-0.1, 0.1, (n, self.model.nq))
        return State(qpos, 0.1 * rng.standard_normal((n, self.model.nv)))

    def _observable(self, measured: np.ndarray) -> np.ndarray:
        return np.clip(measured, -1, 1)

    def _contact_cost(self, forces: np.ndarray) -> np.ndarray:
        return CONTACT_COST * (np.clip(forces, -1, 1) ** 2).sum(1)


class AntGoal(Ant):
    """reward_goal: −‖torso − goal‖₁, in x and y, and in z if `goal_height` is given. No episode ends by itself.

    centers: one [x, y] per mode, m. noise: standard deviation of a goal around its mode's centre, in x and in y.
    radius: of a disc around that point, in which goals are uniform. goal_height: m, or None. deal: how modes are
    assigned to tasks, "draw" (uniformly at random) or "round_robin" (in turn, over the tasks of a meta-batch).
    """

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        centers: Sequence[Sequence[float]],
        noise: float = 0.0,
        radius: float = 0.0,
        goal_height: float | None = None,
        deal: str = "draw",
        frame_skip: int = 5,
        control_cost: float = 0.1,
        contact_forces: bool = False,
        observe_goal: bool = False,
    ) -> None:
        self.centers = points("centers", centers)
        self.noise = number("noise", noise)
        self.radius = number("radius", radius)
        self.goal_height = None if goal_height is None else number("goal_height", goal_height)
        self.deal = choice("deal", deal, DEALS)
        self.num_modes = len(self.centers)
        super().__init__(
            num_tasks,
            rollouts_per_task,
            frame_skip=frame_skip,
            control_cost=control_cost,
            contact_forces=contact_forces,
            observe_goal=observe_goal,
            observe_position=True,
        )

    def marker(self, task: Task) -> np.ndarray | None:
        return np.array([*task.values["goal"], self.goal_height or 0.0])

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes, goals = draw_goals(n, rng, self.centers, self.noise, self.deal)
        goals = goals + self.radius * np.sqrt(rng.uniform(size=(n, 1))) * draw_directions(n, rng)
        return [Task(int(mode), {"goal": goal}) for mode, goal in zip(modes, goals, strict=True)]

    def _goal_reward(self, before: State) -> np.ndarray:
        distance = np.abs(self.qpos[:, :2] - self._goal).sum(1)
        if self.goal_height is not None:
            distance += np.abs(self.qpos[:, 2] - self.goal_height)
        return -distance


class AntDirection(Ant):
    """reward_goal: direction · velocity of the torso over the step, m/s.

    directions: one [x, y] per mode; None: a single mode, any unit vector. deal: how modes are assigned to tasks, "draw"
    (uniformly at random) or "round_robin" (in turn, over the tasks of a meta-batch).
    """

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        directions: Sequence[Sequence[float]] | None,
        deal: str = "draw",
        frame_skip: int = 5,
        control_cost: float = 0.5,
        alive_bonus: float = 1.0,
        height_limits: Sequence[float] | None = (0.0, 1.0),
        contact_forces: bool = False,
        observe_goal: bool = False,
    ) -> None:
        self.directions = None if directions is None else unit_vectors("directions", directions)
        self.deal = choice("deal", deal, DEALS)
        self.num_modes = 1 if self.directions is None else len(self.directions)
        super().__init__(
            num_tasks,
            rollouts_per_task,
            frame_skip=frame_skip,
            control_cost=control_cost,
            alive_bonus=alive_bonus,
            height_limits=height_limits,
            contact_forces=contact_forces,
            observe_goal=observe_goal,
        )

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return direction_tasks(n, rng, self.directions, self.deal)

    def _goal_reward(self, before: State) -> np.ndarray:
        velocity = (self.qpos[:, :2] - before.qpos[:, :2]) / self.dt
        return (self._goal * velocity).sum(1)


class AntVelocity(Ant):
    """reward_goal: 1 − |v − goal|, v being the torso's velocity in x over the step, m/s.

    goals: one [low, high] per mode, m/s, in which its goals are uniform. deal: as above. The published environment has
    a smaller ant, a time step of one physics step of 0.02 s, and also observes the position of the torso.
    """

    normalization_scale = 1.0
    goal_shape = ()

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        goals: Sequence[Sequence[float]],
        deal: str = "draw",
        frame_skip: int = 5,
        control_cost: float = 0.005,
        alive_bonus: float = 0.05,
        height_limits: Sequence[float] | None = (0.2, 1.0),
        contact_forces: bool = False,
        observe_goal: bool = False,
    ) -> None:
        self.goals = intervals("goals", goals)
        self.deal = choice("deal", deal, DEALS)
        self.num_modes = len(self.goals)
        super().__init__(
            num_tasks,
            rollouts_per_task,
            frame_skip=frame_skip,
            control_cost=control_cost,
            alive_bonus=alive_bonus,
            height_limits=height_limits,
            contact_forces=contact_forces,
            observe_goal=observe_goal,
        )

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes = draw_modes(n, rng, self.num_modes, self.deal)
        goals = rng.uniform(*self.goals[modes].T)
        return [Task(int(mode), {"goal": goal}) for mode, goal in zip(modes, goals, strict=True)]

    def _goal_reward(self, before: State) -> np.ndarray:
        velocity = (self.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        return 1 - np.abs(velocity - self._goal)
