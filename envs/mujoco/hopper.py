"""Hopper families: hop with random dynamics, in a direction, at a velocity, or to a location.

| observation | meaning                                                          |
|-------------|------------------------------------------------------------------|
| 0           | height of the torso, m                                           |
| 1           | pitch of the torso, rad                                          |
| 2, 3, 4     | angles of thigh, leg, foot, rad                                  |
| 5, 6        | velocity of the torso in x and z, m/s, clipped to ±10            |
| 7 … 10      | angular velocities of 1 … 4, rad/s, clipped to ±10               |

| action  | meaning                                                |
|---------|--------------------------------------------------------|
| 0, 1, 2 | torques at the joints 2, 3, 4, in units of 200 N·m      |

Model: gymnasium's `hopper.xml`, a time step is `frame_skip` physics steps of 0.002 s. Reward: see
`mmaml.envs.mujoco.locomotion`. Episodes begin at the rest position + U(±0.005), velocities U(±0.005), and end unless
0.7 < height, -0.2 < pitch < 0.2, and all other positions but x and all velocities are within ±100.

Source: the environment of ProMP (Rothfuss et al. 2018: `HopperRandParamsEnv`).
"""

from __future__ import annotations

import numpy as np

from mmaml.envs.mujoco.locomotion import UprightRunner


class Hopper(UprightRunner):
    """`UprightRunner` on one leg."""

    model_file = "hopper.xml"
    heights = (0.7, np.inf)
    pitches = (-0.2, 0.2)
    state_limit = 100.0

    def _upright(self) -> np.ndarray:
        in_bounds = [(np.abs(part) < self.state_limit).all(1) for part in (self.qpos[:, 2:], self.qvel)]
        return super()._upright() & in_bounds[0] & in_bounds[1]
