"""Tasks that differ in their dynamics: multipliers of masses, friction and damping.

| entry of the task's values | shape        | multiplies                                  | drawn as       |
|----------------------------|--------------|---------------------------------------------|----------------|
| body_mass                  | [bodies]     | masses                                      | 1.5^U(±range)  |
| body_inertia               | [bodies, 3]  | moments of inertia about the principal axes | 1.5^U(±range)  |
| geom_friction              | [geoms, 3]   | sliding, torsional and rolling friction     | 1.5^U(±range)  |
| dof_damping                | [velocities] | damping of the joints                       | 1.3^U(±range)  |

Each entry of an array has its own multiplier.

Source: the environments with random parameters of ProMP (Rothfuss et al. 2018: `Walker2DRandParamsEnv`,
`HopperRandParamsEnv`), range 3. The published walker requests 5 physics steps per time step but runs 4, as here. The
published code keeps the quantities that MuJoCo derives from masses and inertias; here they are computed anew.
"""

from __future__ import annotations

import copy

import mujoco
import numpy as np

from mmaml.envs.base import Task
from mmaml.envs.mujoco.base import silent_warnings

BASES = {"body_mass": 1.5, "body_inertia": 1.5, "geom_friction": 1.5, "dof_damping": 1.3}


def draw_multipliers(model: mujoco.MjModel, rng: np.random.Generator, extent: float) -> dict[str, np.ndarray]:
    """Multipliers for the arrays of a model, base^U(±extent), by the names of the arrays."""
    return {name: base ** rng.uniform(-extent, extent, getattr(model, name).shape) for name, base in BASES.items()}


def multiplied(model: mujoco.MjModel, task: Task) -> mujoco.MjModel:
    """A copy of the model whose arrays are multiplied by the task's values.

    Raises ValueError if a value is missing or has another shape.
    """
    result = copy.copy(model)
    for name in BASES:
        array = getattr(result, name)
        factors = np.asarray(task.values.get(name), np.float64)
        if factors.shape != array.shape:
            raise ValueError(
                f"tasks: expected '{name}' of shape {array.shape} in each task's values, got shape {factors.shape}"
            )
        array *= factors
    # Compute what the solver derives from masses and inertias.
    with silent_warnings():
        mujoco.mj_setConst(result, mujoco.MjData(result))
    return result
