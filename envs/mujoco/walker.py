"""Walker families: walk backwards or forwards, at a velocity, to a location, or with random dynamics.

| observation | meaning                                                              |
|-------------|----------------------------------------------------------------------|
| 0           | height of the torso, m                                               |
| 1           | pitch of the torso, rad                                              |
| 2 … 7       | angles of right thigh, leg, foot and left thigh, leg, foot, rad      |
| 8, 9        | velocity of the torso in x and z, m/s, clipped to ±10                |
| 10 … 16     | angular velocities of 1 … 7, rad/s, clipped to ±10                   |

| action | meaning                                                     |
|--------|-------------------------------------------------------------|
| 0 … 5  | torques at the joints 2 … 7, in units of 100 N·m             |

Model: gymnasium's `walker2d_v5.xml`, whose feet have equal friction; in the older `walker2d.xml`, which the
published families use, the right foot has half the friction of the left one. A time step is `frame_skip` physics steps
of 0.002 s. Reward: see `mmaml.envs.mujoco.locomotion`. Episodes begin at the rest position + U(±0.005), velocities
U(±0.005), and end unless 0.8 < height < 2 and -1 < pitch < 1.

Sources: the environments of ProMP (Rothfuss et al. 2018: `Walker2DRandDirecEnv`, `Walker2DRandVelEnv`,
`Walker2DRandParamsEnv`).
"""

from __future__ import annotations

from mmaml.envs.mujoco.locomotion import UprightRunner


class Walker2D(UprightRunner):
    """`UprightRunner` on two legs."""

    model_file = "walker2d_v5.xml"
    heights = (0.8, 2.0)
    pitches = (-1.0, 1.0)
