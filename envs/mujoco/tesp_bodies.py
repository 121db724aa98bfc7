"""The bodies of TESP's families (`mmaml.envs.mujoco.tesp`): a car on two wheels, a low ant, arms of two and four links.

All weigh 24 kg; a joint is driven by a torque of 1 N·m for each rad/s below its target velocity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import mujoco
import numpy as np

from mmaml.envs.mujoco.base import State, compiled, load_spec
from mmaml.envs.mujoco.reacher import tip

TOTAL_MASS = 24.0
TIMESTEP = 0.01
# Short names for the arguments of MjSpec.
BOX, CAPSULE, CYLINDER, PLANE, SPHERE = (
    getattr(mujoco.mjtGeom, f"mjGEOM_{kind}") for kind in ("BOX", "CAPSULE", "CYLINDER", "PLANE", "SPHERE")
)
HINGE, SLIDE = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE


class Body(ABC):
    """What a family needs to know about a body. start: the position [nq] in which episodes begin, at rest."""

    start: np.ndarray

    @abstractmethod
    def spec(self) -> mujoco.MjSpec:
        """Its model, before its mass is set and it is compiled."""

    @abstractmethod
    def position(self, qpos: np.ndarray) -> np.ndarray:
        """x, y of the point that must reach the goal, [lanes, 2], m."""

    @abstractmethod
    def observe(self, state: State) -> np.ndarray:
        """The observations of states, [lanes, O]."""

    def fallen(self, qpos: np.ndarray) -> np.ndarray:
        """Whether its position ends the episode, bool [lanes]."""
        return np.zeros(len(qpos), bool)

    def model(self) -> mujoco.MjModel:
        """Its compiled model."""
        spec = self.spec()
        spec.compiler.settotalmass = TOTAL_MASS
        return compiled(spec)


class Car(Body):
    """A box on two wheels, which slides in x, y, z (z from −1 to 0.03 m) and turns about z; it cannot fall over."""

    start = np.zeros(6)

    def spec(self) -> mujoco.MjSpec:
        spec = _scene()
        contact: dict[str, Any] = {"friction": [0.4] * 3, "solref": [0.02, 1], "solimp": [0, 0.8, 0.01, 0.5, 2]}
        spec.worldbody.add_geom(name="floor", type=PLANE, size=[40, 40, 40], material="ground", **contact)
        contact["conaffinity"] = 0  # contacts with the floor only
        car = spec.worldbody.add_body(name="car")
        for name, axis in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
            car.add_joint(name=name, type=SLIDE, axis=axis)
        car.add_joint(name="z", type=SLIDE, axis=[0, 0, 1], limited=True, range=[-1, 0.03], margin=0.01)
        car.add_joint(name="heading", type=HINGE, axis=[0, 0, 1])
        car.add_geom(name="car", type=BOX, pos=[0, 0, 0.2], size=[0.15, 0.1, 0.046], rgba=[0.8, 0.2, 0.2, 1], **contact)
        for name, y in (("right", -0.2), ("left", 0.2)):
            wheel = car.add_body(name=name, pos=[0, y, 0.1])
            wheel.add_joint(name=name, type=HINGE, axis=[0, 1, 0])
            fromto = [0, -0.046, 0, 0, 0.046, 0]
            wheel.add_geom(
                name=name, type=CYLINDER, fromto=fromto, size=[0.1, 0, 0], rgba=[0.3, 0.3, 0.3, 1], **contact
            )
            _drive(spec.add_actuator(target=name), 50)
        return spec

    def position(self, qpos: np.ndarray) -> np.ndarray:
        return qpos[:, :2]

    def observe(self, state: State) -> np.ndarray:
        heading = state.qpos[:, 3:4]
        return np.concatenate([state.qpos[:, :3], np.sin(heading), np.cos(heading), state.qvel[:, :4]], axis=1)


class LowAnt(Body):
    """Gymnasium's ant at less than half its size; it starts on its feet, its torso 0.25 m above the ground."""

    start = np.array([0, 0, 0.25, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1], np.float64)
    heights = (0.15, 0.45)
    torso, thickness, hip, leg, foot = 0.1, 0.04, 0.08, 0.1, 0.16

    def spec(self) -> mujoco.MjSpec:
        spec = load_spec("ant.xml")
        spec.body("torso").pos = [0, 0, 0.4]
        for geom in spec.geoms:
            geom.margin = 0.005
        spec.geom("torso_geom").size = [self.torso, 0, 0]
        for number in range(1, 5):
            leg = spec.body(f"aux_{number}")
            foot = leg.bodies[0]
            diagonal = np.sign(leg.pos)
            leg.pos, foot.pos = self.hip * diagonal, self.leg * diagonal
            ends = ((spec.geom(f"aux_{number}_geom"), self.hip), (leg.geoms[0], self.leg), (foot.geoms[0], self.foot))
            for geom, length in ends:
                geom.fromto, geom.size = [0, 0, 0, *(length * diagonal)], [self.thickness, 0, 0]
        for actuator in spec.actuators:
            _drive(actuator, 50)
        return spec

    def position(self, qpos: np.ndarray) -> np.ndarray:
        return qpos[:, :2]

    def observe(self, state: State) -> np.ndarray:
        return np.concatenate(state, axis=1)

    def fallen(self, qpos: np.ndarray) -> np.ndarray:
        low, high = self.heights
        return (qpos[:, 2] < low) | (qpos[:, 2] > high)


class Arm(Body):
    """An arm in the plane, which starts stretched along x. All joints but the first are limited to ±160°.

    links: their number. length: of each link, m. reach: from the last joint to the tip, m. speed: the bound of the
    actions, rad/s.
    """

    def __init__(self, links: int, length: float, reach: float, speed: float) -> None:
        self.links, self.length, self.reach, self.speed = links, length, reach, speed
        self.start = np.zeros(links)

    def spec(self) -> mujoco.MjSpec:
        spec = _scene()
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_RK4
        untouched = {"contype": 0, "conaffinity": 0}
        sand, brown = {"rgba": [0.7, 0.5, 0.3, 1]} | untouched, {"rgba": [0.7, 0.4, 0.2, 1]} | untouched
        spec.worldbody.add_geom(name="ground", type=PLANE, size=[40, 40, 40], material="ground", **untouched)
        spec.worldbody.add_geom(name="root", type=CYLINDER, fromto=[0, 0, 0, 0, 0, 0.2], size=[0.12, 0, 0], **brown)
        body, joint = spec.worldbody, [0, 0, 0.1]
        for link in range(self.links):
            body, joint = body.add_body(name=f"body{link}", pos=joint), [self.length, 0, 0]
            body.add_joint(
                name=f"joint{link}", type=HINGE, axis=[0, 0, 1], armature=1, damping=1,
                limited=link > 0, range=np.deg2rad([-160, 160]),
            )  # fmt: skip
            body.add_geom(name=f"link{link}", type=CAPSULE, fromto=[0, 0, 0, *joint], size=[0.1, 0, 0], **sand)
            _drive(spec.add_actuator(target=f"joint{link}"), self.speed)
        tip_of_arm = body.add_body(name="fingertip", pos=[self.reach, 0, 0])
        tip_of_arm.add_geom(name="fingertip", type=SPHERE, size=[0.1, 0, 0], **brown)
        return spec

    def position(self, qpos: np.ndarray) -> np.ndarray:
        return tip(qpos, (self.length,) * (self.links - 1) + (self.reach,))

    def observe(self, state: State) -> np.ndarray:
        qpos, qvel = state
        return np.concatenate([np.cos(qpos), np.sin(qpos), qvel, self.position(qpos)], axis=1)


BODIES: dict[str, Body] = {
    "car": Car(),
    "ant": LowAnt(),
    "arm_2": Arm(2, 0.75, 0.95, 100.0),
    "arm_4": Arm(4, 0.45, 0.65, 50.0),
}


def _scene() -> mujoco.MjSpec:
    """An empty scene with a light and a material for the ground."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = TIMESTEP
    spec.worldbody.add_light(pos=[0, 0, 3], dir=[0, 0, -1], diffuse=[0.6, 0.6, 0.6])
    spec.add_texture(
        name="ground", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.6, 0.65, 0.7], rgb2=[0.7, 0.75, 0.8], width=100, height=100,
    )  # fmt: skip
    material = spec.add_material(name="ground", texrepeat=[60, 60])
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "ground"
    return spec


def _drive(actuator: mujoco.MjsActuator, speed: float) -> None:
    """Make it drive its joint to a velocity within ± speed, rad/s, by 1 N·m for each rad/s of difference."""
    actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
    actuator.gear = [1, 0, 0, 0, 0, 0]
    actuator.ctrllimited, actuator.ctrlrange = True, [-speed, speed]
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[:3], actuator.biasprm[:3] = [1, 0, 0], [0, 0, -1]
