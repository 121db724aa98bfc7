"""Half-cheetah families: run backwards or forwards, at a velocity, or to a location.

| observation | meaning                                                             |
|-------------|---------------------------------------------------------------------|
| 0           | height of the torso above its rest position, m                      |
| 1           | pitch of the torso, rad                                             |
| 2 … 7       | angles of back thigh, shin, foot and front thigh, shin, foot, rad   |
| 8, 9        | velocity of the torso in x and z, m/s                               |
| 10 … 16     | angular velocities of 1 … 7, rad/s                                  |

| action | meaning                                                                      |
|--------|------------------------------------------------------------------------------|
| 0 … 5  | torques at the joints 2 … 7, in units of 120, 90, 60, 120, 60, 30 N·m         |

Model: gymnasium's `half_cheetah.xml`, a time step is `frame_skip` physics steps of 0.01 s. Reward:
see `mmaml.envs.mujoco.locomotion`. Episodes begin at the rest position + U(±0.1), velocities 0.1·N(0, 1), and do not
end by themselves.

Sources: the environments of ProMP (Rothfuss et al. 2018: `HalfCheetahRandDirecEnv`, `HalfCheetahRandVelEnv`) and
MAML (Finn et al. 2017: `frame_skip` 1, velocities up to 2 m/s).
"""

from __future__ import annotations

import numpy as np

from mmaml.envs.mujoco.base import State
from mmaml.envs.mujoco.locomotion import Runner


class HalfCheetah(Runner):
    """`Runner` on a half-cheetah."""

    model_file = "half_cheetah.xml"

    def _start(self, n: int, rng: np.random.Generator) -> State:
        qpos = self.model.qpos0 + rng.uniform(-0.1, 0.1, (n, self.model.nq))
        return State(qpos, 0.1 * rng.standard_normal((n, self.model.nv)))
