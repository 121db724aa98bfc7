"""Humanoid families: walk in a direction.

| observation | meaning                                                                                      |
|-------------|----------------------------------------------------------------------------------------------|
| 0 … 4       | height of the torso, m; its orientation (w, x, y, z of a quaternion)                         |
| 5 … 21      | angles of abdomen (z, y, x), right hip (x, z, y), right knee, left hip (x, z, y), left knee, |
|             | right shoulder (1, 2), right elbow, left shoulder (1, 2), left elbow, rad                    |
| 22 … 27     | velocity of the torso in x, y, z, m/s, and its angular velocity in its own axes, rad/s       |
| 28 … 44     | angular velocities of 5 … 21, rad/s                                                          |
| then        | with `observe_bodies`, of 13 bodies: MuJoCo's `cinert` (10 numbers each: inertia, mass times |
|             | position, mass; kg, m, around the humanoid's centre) and `cvel` (6 each, rad/s and m/s);         |
|             | then torques of the actuators on 5 … 21, N·m                                                 |
| then        | with `contact_forces`: torque and force of contacts on each of 13 bodies, N·m and N          |

| action | meaning                                                                                         |
|--------|-------------------------------------------------------------------------------------------------|
| 0 … 16 | torques on 5 … 21 (but abdomen y before z), in the actuators' gears, 25 to 300 N·m; −0.4 to 0.4 |

The model is gymnasium's `humanoid.xml`; a time step is 5 physics steps of 0.003 s. Episodes begin at rest position +
U(±0.01), velocities U(±0.01), and end where the torso's height leaves [1, 2]. Rewards: those of
`mmaml.envs.mujoco.free_body`, with reward_goal 1.25 · direction · velocity of the centre of mass over the step, m/s,
and the contact cost min(0.5e-6 · ‖forces‖², 10).

Sources: the environments of ProMP (Rothfuss et al. 2018: `HumanoidRandDirecEnv`, `HumanoidRandDirec2DEnv`). Their
reward_goal is 0.25 · distance / physics step, not time step: also 1.25 · velocity with 5 physics steps per time step;
`published_weight` does the same with any number. They also observe the zeros of the world's body and forces.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from mmaml.envs.arguments import choice, flag, unit_vectors
from mmaml.envs.base import Task
from mmaml.envs.goals import DEALS
from mmaml.envs.mujoco.base import State
from mmaml.envs.mujoco.free_body import FreeBody, direction_tasks

VELOCITY_WEIGHT = 1.25
PUBLISHED_WEIGHT = 0.25
CONTACT_COST, MAX_CONTACT_COST = 0.5e-6, 10.0


class HumanoidDirection(FreeBody):
    """A `FreeBody` with the body of a human.

    directions: one [x, y] per mode; None: a single mode, any unit vector. deal: how modes are assigned to tasks, "draw"
    (uniformly at random) or "round_robin" (in turn, over the tasks of a meta-batch). observe_bodies: see the table
    above. published_weight: reward 0.25 · frame_skip · velocity instead of 1.25 · velocity.

    The centre of mass is computed by MuJoCo lane by lane, which takes a few hundredths of the time of the physics, half
    of the time of the same on arrays.
    """

    model_file = "humanoid.xml"

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        directions: Sequence[Sequence[float]] | None,
        deal: str = "draw",
        frame_skip: int = 5,
        control_cost: float = 0.1,
        alive_bonus: float = 5.0,
        height_limits: Sequence[float] | None = (1.0, 2.0),
        contact_forces: bool = False,
        observe_bodies: bool = False,
        observe_goal: bool = False,
        published_weight: bool = False,
    ) -> None:
        self.directions = None if directions is None else unit_vectors("directions", directions)
        self.deal = choice("deal", deal, DEALS)
        self.num_modes = 1 if self.directions is None else len(self.directions)
        observed_bodies = ("cinert", "cvel", "qfrc_actuator") if flag("observe_bodies", observe_bodies) else ()
        super().__init__(
            num_tasks,
            rollouts_per_task,
            frame_skip=frame_skip,
            control_cost=control_cost,
            alive_bonus=alive_bonus,
            height_limits=height_limits,
            contact_forces=contact_forces,
            observe_goal=observe_goal,
            observed_bodies=observed_bodies,
        )
        self.published_weight = flag("published_weight", published_weight)
        self.velocity_weight = PUBLISHED_WEIGHT * frame_skip if published_weight else VELOCITY_WEIGHT

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return direction_tasks(n, rng, self.directions, self.deal)

    def _start(self, n: int, rng: np.random.Generator) -> State:
        qpos = self.model.qpos0 + rng.uniform(-0.01, 0.01, (n, self.model.nq))
        return State(qpos, rng.uniform(-0.01, 0.01, (n, self.model.nv)))

    def _goal_reward(self, before: State) -> np.ndarray:
        velocity = (self._by_lane(_center_of_mass) - self._by_lane(_center_of_mass, before)) / self.dt
        return self.velocity_weight * (self._goal * velocity).sum(1)

    def _contact_cost(self, forces: np.ndarray) -> np.ndarray:
        return np.minimum(CONTACT_COST * (forces**2).sum(1), MAX_CONTACT_COST)


def _center_of_mass(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """The centre of mass of the whole body, [x, y] in m."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    return data.subtree_com[1, :2].copy()
