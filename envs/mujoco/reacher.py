"""Reacher families: bring the fingertip of a planar arm to a goal that only the reward reveals.

| observation, 3 links | 2 links | meaning                                                                   |
|----------------------|---------|---------------------------------------------------------------------------|
| 0, 1                 | 0, 1    | cosines of the first two joints' angles                                   |
| 2, 3                 | 2, 3    | their sines                                                               |
| 4                    | -       | angle of the third joint, rad                                             |
| 5, 6                 | 4, 5    | angular velocities of the first two joints, rad/s                         |
| 7                    | -       | that of the third, with `observe_all_velocities`                          |
| last three           | same    | x, y, z of the goal, m, with `observe_goal`                               |

| action | meaning                                        |
|--------|------------------------------------------------|
| 0 …    | torques at the joints, in 200 N·m; from −1 to 1 |

Model: gymnasium's `reacher.xml` without its target; a third link where there are three, with walls (drawn only) at
±0.4 m. Links of 0.1 m, the fingertip 0.11 m past the last joint, 0.01 m above the ground. A time step is two
physics steps of 0.01 s. Episodes begin at angles U(±0.1), velocities U(±0.005), and do not end by themselves.

Sources: the environments of MMAML (Vuorio et al. 2019: `Reacher3LinkEnv`, `Reacher6ModeEnv` and their kin).
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from mmaml.envs.arguments import choice, count, flag, number, points
from mmaml.envs.base import Task
from mmaml.envs.goals import DEALS, draw_goals
from mmaml.envs.mujoco.base import MujocoFamily, Outcome, State, compiled, load_spec, removed

LINKS = {2: (0.1, 0.11), 3: (0.1, 0.1, 0.11)}
HEIGHT = 0.01
DISTANCES = ("l1", "l2")


class Reacher(MujocoFamily):
    """reward_distance −‖fingertip − goal‖ and reward_control −control_cost · ‖a‖².

    links: 2 or 3. centers: one [x, y] per mode, m. noise: standard deviation of a goal around its mode's centre, in x
    and in y. goal_height: z of goals, m, before the vector to the goal is shortened to the length `reach`, m; None:
    goals are in the fingertip's plane, and their x and y are shortened. distance: "l1" or "l2". reward_before_step:
    measure the distance before the step, as published with two links. deal: how modes are assigned to tasks, "draw" or
    "round_robin" (`mmaml.envs.goals.draw_modes`).

    Arguments for peculiarities of the published code:
    observe_goal: with two links, it appends the goal to the observation, so that there is nothing to adapt to.
    observe_all_velocities: false as published, without the velocity of the third joint; true adds it.
    drawn_modes: it draws only the first two of six modes; None draws all.

    The values of a task are "goal" [3], m.
    """

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        links: int = 3,
        centers: Sequence[Sequence[float]],
        noise: float,
        goal_height: float | None,
        reach: float,
        distance: str,
        control_cost: float,
        deal: str = "draw",
        observe_goal: bool = False,
        observe_all_velocities: bool = False,
        reward_before_step: bool = False,
        drawn_modes: int | None = None,
    ) -> None:
        if not isinstance(links, int) or links not in LINKS:
            raise ValueError(f"links: expected 2 or 3, got {links!r}")
        self.links = links
        self.centers = points("centers", centers)
        if drawn_modes is not None:
            if count("drawn_modes", drawn_modes) > len(self.centers):
                raise ValueError(f"drawn_modes: expected at most the {len(self.centers)} modes, got {drawn_modes}")
            self.centers = self.centers[:drawn_modes]
        self.noise = number("noise", noise)
        self.goal_height = None if goal_height is None else number("goal_height", goal_height)
        self.reach = number("reach", reach, positive=True)
        self.distance = choice("distance", distance, DISTANCES)
        self.control_cost = number("control_cost", control_cost)
        self.deal = choice("deal", deal, DEALS)
        self.observe_goal = flag("observe_goal", observe_goal)
        self.observe_all_velocities = flag("observe_all_velocities", observe_all_velocities)
        self.reward_before_step = flag("reward_before_step", reward_before_step)
        self.num_modes = len(self.centers)
        third = links == 3
        super().__init__(
            num_tasks,
            rollouts_per_task,
            model=arm(links),
            frame_skip=2,
            observation_size=6 + third + (third and self.observe_all_velocities) + 3 * self.observe_goal,
        )
        self._goal = np.zeros((self.num_envs, 3))

    def fingertip(self, qpos: np.ndarray) -> np.ndarray:
        """The position of the fingertip [lanes, 3], m, from the angles of the joints [lanes, links]."""
        return _with_height(tip(qpos, LINKS[self.links]), HEIGHT)

    def marker(self, task: Task) -> np.ndarray:
        return np.asarray(task.values["goal"])

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes, goals = draw_goals(n, rng, self.centers, self.noise, self.deal)
        goals = goals if self.goal_height is None else _with_height(goals, self.goal_height)
        goals = goals * np.minimum(1, self.reach / np.linalg.norm(goals, axis=1, keepdims=True))
        if self.goal_height is None:
            goals = _with_height(goals, HEIGHT)
        return [Task(int(mode), {"goal": goal}) for mode, goal in zip(modes, goals, strict=True)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = self._per_lane(tasks, "goal", (3,))

    def _start(self, n: int, rng: np.random.Generator) -> State:
        return State(rng.uniform(-0.1, 0.1, (n, self.links)), rng.uniform(-0.005, 0.005, (n, self.links)))

    def _observe(self) -> np.ndarray:
        angles = self.qpos[:, :2]
        velocities = self.qvel if self.observe_all_velocities else self.qvel[:, :2]
        goal = [self._goal] if self.observe_goal else []
        parts = [np.cos(angles), np.sin(angles), self.qpos[:, 2:], velocities, *goal]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _outcome(self, before: State, controls: np.ndarray) -> Outcome:
        away = self.fingertip(before.qpos if self.reward_before_step else self.qpos) - self._goal
        length = np.abs(away).sum(1) if self.distance == "l1" else np.sqrt((away * away).sum(1))
        control = -self.control_cost * (controls * controls).sum(1)
        return Outcome({"reward_distance": -length, "reward_control": control})


def _with_height(points: np.ndarray, height: float) -> np.ndarray:
    """Points of the plane [n, 2] with a third coordinate, [n, 3]."""
    return np.concatenate([points, np.full((len(points), 1), height)], axis=1)


def tip(angles: np.ndarray, lengths: Sequence[float]) -> np.ndarray:
    """x, y of the tip of an arm in the plane, [lanes, 2], from the angles of its joints [lanes, links].

    lengths: from each joint to the next, and from the last to the tip.
    """
    x, y = 0.0, 0.0
    for length, angle in zip(lengths, np.cumsum(angles, axis=1).T, strict=True):
        x, y = x + length * np.cos(angle), y + length * np.sin(angle)
    return np.stack([x, y], axis=1)


def arm(links: int) -> mujoco.MjModel:
    """The arm of 2 or 3 links."""
    spec = removed(load_spec("reacher.xml"), "target")
    if links == 3:
        _add_third_link(spec)
    return compiled(spec)


def _add_third_link(spec: mujoco.MjSpec) -> None:
    """Make the fingertip's body a third link, and move the walls outwards."""
    body, link = spec.body("fingertip"), spec.geom("link1")
    body.pos = [0.1, 0, 0]
    spec.geom("fingertip").pos = [0.11, 0, 0]
    body.add_joint(
        name="joint2", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], limited=True, range=[-5.0, 3.0],
        armature=1, damping=1,
    )  # fmt: skip
    body.add_geom(
        name="link2",
        type=link.type,
        fromto=link.fromto,
        size=link.size,
        rgba=link.rgba,
        conaffinity=link.conaffinity,
        contype=link.contype,
        friction=link.friction,
    )
    motor = spec.actuators[1]
    spec.add_actuator(
        target="joint2", trntype=motor.trntype, gear=motor.gear, ctrllimited=True, ctrlrange=motor.ctrlrange
    )
    for side in "SENW":
        wall = spec.geom(f"side{side}")
        wall.fromto = [*(np.sign(wall.fromto[:2]) * 0.4), 0.01, *(np.sign(wall.fromto[3:5]) * 0.4), 0.01]
