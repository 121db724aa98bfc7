"""The facts of the MuJoCo families, against a table of their own: written by hand, nothing taken from the registry."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import mujoco
import numpy as np
import pytest

from mmaml.envs.base import Task
from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.registry import FAMILIES, make_family

Points = list[tuple[float, float]]


class Goals(NamedTuple):
    """Goals "about" centres [x, y], + N(0, noise²), with height as z, shortened to the length reach as a whole.

    Or of a "range" [low, high], or a "direction" [x, y] (no places: any), or in a "disc" or a "ring".
    """

    kind: str
    places: Points = []
    noise: float = 0.0
    height: float = 0.0
    reach: float = 0.0
    in_turn: bool = False
    radius: float = 1.0
    spacing: float = 0.1
    arrival: float = 0.0


class Facts(NamedTuple):
    """A family. start: positions U(±), velocities U(±) or ·N(0, 1). ends: (index into positions, low, high) each."""

    frame_skip: int
    timestep: float
    controls: tuple[int, float]
    control_cost: float
    start: tuple[float, float, str]
    horizon: int
    term: str
    bonus: float = 0.0
    ends: tuple[tuple[int, float, float], ...] = ()
    goal: Goals = Goals("")
    dynamics: bool = False

    def to(self, kind: str, places: Points | None = None, **facts: Any) -> Facts:
        """These facts, but for some others, of itself or of its goals."""
        own = {key: facts.pop(key) for key in list(facts) if key in self._fields}
        return self._replace(**own, goal=self.goal._replace(kind=kind, places=places or [], **facts))


def polar(radius: float, *degrees: float) -> Points:
    return [(radius * np.cos(np.deg2rad(angle)), radius * np.sin(np.deg2rad(angle))) for angle in degrees]


def corners(side: float) -> Points:
    return [(-side, -side), (-side, side), (side, -side), (side, side)]


HEXAGON = (0, 60, 120, 180, 240, 300)
EITHER_WAY: Points = [(-1, -1), (1, 1)]
WEST_EAST: Points = [(-1, 0), (1, 0)]
REACHER_3 = Facts(2, 0.01, (3, 1), 0.1, (0.1, 0.005, "U"), 50, "l1", goal=Goals("", [], 0.1, 0.03, 0.3))
REACHER_2 = Facts(2, 0.01, (2, 1), 1.0, (0.1, 0.005, "U"), 50, "l2", goal=Goals("", [], 0.025, reach=0.25))
CHEETAH = Facts(5, 0.01, (6, 1), 0.05, (0.1, 0.1, "N"), 100, "along")
WALKER = Facts(8, 0.002, (6, 1), 1e-3, (0.005, 0.005, "U"), 200, "along", 1, ((1, 0.8, 2), (2, -1, 1)))
HOPPER = WALKER._replace(controls=(3, 1), ends=((1, 0.7, np.inf), (2, -0.2, 0.2)))
SWIMMER = Facts(4, 0.01, (2, 1), 1e-4, (0.1, 0.1, "U"), 200, "l2")
ANT = Facts(5, 0.01, (8, 1), 0.1, (0.1, 0.1, "N"), 200, "l1")
ANT_MODES = ANT._replace(frame_skip=2, horizon=250, goal=Goals("", [], 0.8, 0.03, in_turn=True))
ANT_RUNS = ANT._replace(term="along", control_cost=0.5, bonus=1, ends=((2, 0, 1),))
HUMANOID = Facts(5, 0.003, (17, 0.4), 0.1, (0.01, 0.01, "U"), 200, "mass", 5, ((2, 1, 2),))
TESP = Facts(5, 0.01, (2, 50), 0.0005, (0, 0, "U"), 200, "l2")

TABLE: dict[str, Facts] = {
    "Reacher3Link1ModeEnv": REACHER_3.to("about", [(0.225, 0.225)]),
    "Reacher3Link2ModeEnv": REACHER_3.to("about", [(-0.225, -0.225), (0.225, 0.225)]),
    "Reacher3LinkEnv": REACHER_3.to("about", corners(0.225)),
    "Reacher3Link6ModeEnv": REACHER_3.to("about", polar(0.3181980515, *HEXAGON)),
    "Reacher1ModeEnv": REACHER_2.to("about", [(0.125, 0.125)]),
    "Reacher2ModeEnv": REACHER_2.to("about", [(-0.125, -0.125), (0.125, 0.125)]),
    "ReacherEnv": REACHER_2.to("about", corners(0.125)),
    "Reacher6ModeEnv": REACHER_2.to("about", polar(0.2121320344, *HEXAGON)),
    "HalfCheetahRandDirecEnv": CHEETAH.to("range", EITHER_WAY),
    "HalfCheetahRandVelEnv": CHEETAH.to("range", [(0, 3)], term="velocity"),
    "HalfCheetahTargetSpeedEnv": CHEETAH.to("range", [(-3, -1), (1, 3)], term="velocity"),
    "HalfCheetahTargetLocationEnv": CHEETAH.to("range", [(-5, -1), (1, 5)], term="l1"),
    "Walker2DRandDirecEnv": WALKER.to("range", EITHER_WAY),
    "Walker2DRandVelEnv": WALKER.to("range", [(0, 10)], term="velocity", bonus=15),
    "Walker2DTargetLocation": WALKER.to("range", [(-3, -1), (1, 3)], term="l1", bonus=5),
    "Walker2DRandParamsEnv": WALKER.to("range", [(1, 1)], frame_skip=4, dynamics=True),
    "HopperRandParamsEnv": HOPPER.to("range", [(1, 1)], frame_skip=4, dynamics=True),
    "SwimmerRandVelEnv": SWIMMER.to("range", [(0.1, 0.2)], term="velocity"),
    "SwimmerReach2ModesEnv": SWIMMER.to("about", EITHER_WAY, noise=0.1),
    "SwimmerReach4ModesEnv": SWIMMER.to("about", corners(1), noise=0.1),
    "AntRandGoalEnv": ANT.to("disc", radius=3),
    "AntRandGoalMode1ModesEnv": ANT_MODES.to("about", polar(4, 180)),
    "AntRandGoalMode2ModesEnv": ANT_MODES.to("about", polar(4, 180, 0), in_turn=False),
    "AntRandGoalModeEnv": ANT_MODES.to("about", polar(4, 180, 120, 60, 0)),
    "AntRandGoalMode6ModesEnv": ANT_MODES.to("about", polar(4, 180, 144, 108, 72, 36, 0)),
    "AntRandDirecEnv": ANT_RUNS.to("direction", WEST_EAST),
    "AntRandDirec2DEnv": ANT_RUNS.to("direction"),
    "AntRandVelEnv": ANT.to("range", [(0, 3)], term="velocity", control_cost=0.005, bonus=1.05, ends=((2, 0.2, 1),)),
    "HumanoidRandDirecEnv": HUMANOID.to("direction", WEST_EAST),
    "HumanoidRandDirec2DEnv": HUMANOID.to("direction"),
    "TESPWheeledEnv": TESP.to("ring", arrival=0.02),
    "TESPAntEnv": TESP.to("ring", arrival=0.03, controls=(8, 50), ends=((2, 0.15, 0.45),)),
    "TESPReacher2LinkEnv": TESP.to("ring", arrival=0.06, controls=(2, 100)),
    "TESPReacher4LinkEnv": TESP.to("ring", arrival=0.11, controls=(4, 50), spacing=0.11),
}

# What is paid for the places before and after a step, goals [tasks, …] and the time step, but for costs and bonus.
TERMS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]] = {
    "l1": lambda before, after, goal, dt: -np.abs(after[:, : goal.shape[1]] - goal).sum(1),
    "l2": lambda before, after, goal, dt: -np.linalg.norm(after[:, :2] - goal[:, :2], axis=1),
    "along": lambda before, after, goal, dt: ((after - before)[:, : goal.shape[1]] / dt * goal).sum(1),
    "velocity": lambda before, after, goal, dt: -np.abs((after - before)[:, 0] / dt - goal[:, 0]),
    "mass": lambda before, after, goal, dt: 1.25 * ((after - before)[:, :2] / dt * goal).sum(1),
}


def made(name: str, tasks: int = 1, rollouts: int = 1, **env_kwargs: Any) -> MujocoFamily:
    family = make_family(name, tasks, rollouts, **env_kwargs)
    assert isinstance(family, MujocoFamily)
    family.set_tasks(family.sample_tasks(tasks, np.random.default_rng(1)))
    family.reset(seed=0)
    return family


def drawn(name: str, split: str = "train", **env_kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Goals [3000, …] and modes [3000] of many tasks."""
    tasks = make_family(name, **env_kwargs).sample_tasks(3000, np.random.default_rng(0), split)
    return np.array([task.values["goal"] for task in tasks]), np.array([task.mode for task in tasks])


def in_order(points: Any) -> np.ndarray:
    return np.array(sorted(np.round(points, 7).tolist()))


def place(family: MujocoFamily) -> np.ndarray:
    """x, y, z of every lane's fingertip, centre of mass (humanoid) or root."""
    data, places = mujoco.MjData(family.model), []
    is_arm = mujoco.mj_name2id(family.model, mujoco.mjtObj.mjOBJ_GEOM, "fingertip") >= 0
    for qpos in family.qpos:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(family.model, data)
        mujoco.mj_comPos(family.model, data)
        body = data.subtree_com[1] if family.model.nu == 17 else qpos[:3]
        places.append(np.array(data.geom("fingertip").xpos if is_arm else body))
    return np.array(places)


def of_goal(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name, facts in TABLE.items() if facts.goal.kind in kinds])


def test_the_table_is_complete() -> None:
    horizons = {name: one.horizon for name, one in FAMILIES.items() if one.location.startswith("mmaml.envs.mujoco")}
    assert {name: facts.horizon for name, facts in TABLE.items()} == horizons


@pytest.mark.parametrize("name", TABLE)
def test_bounds_and_start(name: str) -> None:
    facts, family = TABLE[name], made(name, 1, 300)
    bounds, (size, bound), (position, velocity, kind) = family.single_action_space, facts.controls, facts.start
    assert bounds.high.tolist() == (-bounds.low).tolist() == np.full(size, bound, np.float32).tolist()
    if position == 0:  # always the same, car and ant at the origin
        assert (family.qpos == family.qpos[0]).all() and not family.qvel.any()
        assert family.model.njnt == size or not family.qpos[0, :2].any()
        return
    for values, most in [(family.qpos - family.model.qpos0, position)] + [(family.qvel, velocity)] * (kind == "U"):
        assert (np.abs(values) <= most).all() and (values.min(0) < -0.9 * most).all()
        assert (values.max(0) > 0.9 * most).all()
    if kind == "N":
        np.testing.assert_allclose(family.qvel.std(0), velocity, rtol=0.15)


@pytest.mark.parametrize("name", TABLE)
def test_a_step_lasts_and_pays_what_the_table_says(name: str) -> None:
    facts, (size, bound) = TABLE[name], TABLE[name].controls
    family = made(name, 4, **({"reward_before_step": False} if facts.goal.reach == 0.25 else {}))
    goal = np.array([task.values["goal"] for task in family.tasks]).reshape(4, -1)
    if goal.shape[1] == 2 and facts.goal.height:
        goal = np.column_stack([goal, np.full(4, facts.goal.height)])
    model = copy.copy(family._models[0])
    model.opt.timestep = facts.timestep
    for share in np.random.default_rng(2).uniform(-1, 1, (5, 4, size)).astype(np.float32):
        before, controls, data = place(family), share * np.float32(bound), mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.ctrl[:] = family.qpos[0], family.qvel[0], controls[0]
        _, rewards, _, _, infos = family.step(controls)
        mujoco.mj_step(model, data, facts.frame_skip)
        np.testing.assert_allclose(family.qpos[0], data.qpos, rtol=0, atol=1e-6)
        effort = facts.control_cost * ((share if facts.goal.kind == "ring" else controls) ** 2).sum(1)
        paid = TERMS[facts.term](before, place(family), goal, facts.frame_skip * facts.timestep)
        np.testing.assert_allclose(infos["reward_control"], -effort, rtol=1e-5)
        np.testing.assert_allclose(rewards, paid - effort + facts.bonus, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", TABLE)
def test_episodes_end_outside_the_limits_only(name: str) -> None:
    family, limits = made(name), {index: bounds for index, *bounds in TABLE[name].ends}
    frozen = mujoco.mjtDisableBit.mjDSBL_CONSTRAINT | mujoco.mjtDisableBit.mjDSBL_GRAVITY
    for model in (family.model, *family._models):
        model.opt.disableflags |= int(frozen)
    rest = family.model.qpos0.copy()
    for index, (low, high) in limits.items():
        rest[index] = (low + min(high, 2)) / 2
    for index in limits or range(min(3, len(rest))):
        low, high = limits.get(index, (-np.inf, np.inf))
        for value in np.array([low - 1e-3, low + 1e-3, high - 1e-3, high + 1e-3, -50, 50]):
            if np.isfinite(value):
                family.qpos[0], family.qvel[0] = rest, 0
                family.qpos[0, index] = value
                assert family.step(np.zeros(family.action_space.shape))[2] == [not low < value < high], (index, value)


@of_goal("about")
def test_goals_lie_about_the_centres(name: str) -> None:
    facts = TABLE[name].goal
    far = {"reach": 100.0} if facts.reach else {}
    exact, modes = drawn(name, noise=0.0, **far)
    centers = np.stack([exact[modes == mode][0] for mode in range(len(facts.places))])
    assert (exact == centers[modes]).all()
    np.testing.assert_allclose(in_order(centers[:, :2]), in_order(facts.places), rtol=0, atol=1e-6)
    np.testing.assert_allclose((drawn(name, **far)[0] - exact)[:, :2].std(0), facts.noise, rtol=0.05)
    np.testing.assert_allclose(np.bincount(modes) / len(modes), 1 / len(centers), rtol=0.1)
    assert (modes == np.arange(len(modes)) % len(centers)).all() == (facts.in_turn or len(centers) == 1)
    if facts.reach:  # three links shorten a goal as a whole, two in the plane
        lengths = np.linalg.norm(drawn(name, noise=1.0)[0][:, : 3 if facts.height else 2], axis=1)
        np.testing.assert_allclose(np.quantile(lengths, [0.5, 1]), facts.reach, rtol=1e-6)
    if facts.reach and facts.height:
        np.testing.assert_allclose(exact[:, 2], facts.height)


@of_goal("range")
def test_goals_are_uniform_in_the_ranges(name: str) -> None:
    facts, (goals, modes) = TABLE[name], drawn(name)
    assert modes.max() + 1 == len(facts.goal.places)
    for mode, (low, high) in enumerate(facts.goal.places):
        some, width = goals[modes == mode], high - low
        assert low <= some.min() <= low + 0.01 * width and high - 0.01 * width <= some.max() <= high
        assert abs(some.mean() - (low + high) / 2) <= 0.03 * width
    if facts.dynamics:
        tasks = make_family(name).sample_tasks(20, np.random.default_rng(0))
        for key, base in {"body_mass": 1.5, "body_inertia": 1.5, "geom_friction": 1.5, "dof_damping": 1.3}.items():
            powers = np.log([task.values[key] for task in tasks]) / np.log(base)
            assert -3 <= powers.min() < -2.8 and 2.8 < powers.max() <= 3


@of_goal("disc", "direction")
def test_goals_lie_in_the_disc_or_are_directions(name: str) -> None:
    facts, (goals, _) = TABLE[name].goal, drawn(name)
    if facts.places:
        assert np.unique(goals, axis=0).tolist() == in_order(facts.places).tolist()
        return
    lengths = np.linalg.norm(goals, axis=1) / facts.radius
    assert 0.99 < lengths.max() <= 1 + 1e-9 and (np.abs(goals.mean(0)) < 0.05 * facts.radius).all()
    np.testing.assert_allclose((lengths**2).mean(), 0.5 if facts.kind == "disc" else 1, rtol=0.03)


@of_goal("ring")
def test_goals_of_arrival(name: str) -> None:
    facts, family = TABLE[name].goal, made(name, 2)
    for split, low, high, slack in (("train", 0.2, 1.1, 0.1), ("test", 0.2, 1.1, 0.01), ("ood", 1.1, 1.5, 0.01)):
        lengths = np.linalg.norm(drawn(name, split)[0], axis=1)
        assert low <= lengths.min() < low + slack and high - slack < lengths.max() <= high
    goals = np.unique(drawn(name)[0], axis=0)
    apart = np.linalg.norm(goals[:, None] - goals, axis=2)[~np.eye(len(goals), dtype=bool)]
    assert facts.spacing <= apart.min() < facts.spacing + 0.008
    family.step(np.zeros(family.action_space.shape))
    there = place(family)[0, :2]
    family.set_tasks([Task(0, {"goal": there + [share * facts.arrival, 0]}) for share in (0.98, 1.02)])
    family.reset(seed=0)
    _, _, terminated, _, infos = family.step(np.zeros(family.action_space.shape))
    assert terminated.tolist() == infos["success"].tolist() == [True, False]
    assert family.model.body_mass.sum() == pytest.approx(24)


def test_car_and_arms() -> None:
    car, arm = made("TESPWheeledEnv").model, made("TESPReacher4LinkEnv")
    sizes = [*car.geom("car").size, *car.joint("z").range, car.geom("floor").friction[0]]
    np.testing.assert_allclose(sizes, [0.15, 0.1, 0.046, -1, 0.03, 0.4])
    for wheel, y in (("left", 0.2), ("right", -0.2)):
        np.testing.assert_allclose([*car.geom(wheel).size[:2], car.body(wheel).pos[1]], [0.1, 0.046, y])
    np.testing.assert_allclose(place(arm)[0, :2], [3 * 0.45 + 0.65, 0], atol=1e-12)
    np.testing.assert_allclose(arm.model.jnt_range[1:], np.deg2rad([[-160, 160]] * 3))
    assert arm.model.jnt_limited.tolist() == [0, 1, 1, 1]
    for name, links, length in (("ReacherEnv", 2, 0.21), ("Reacher3LinkEnv", 3, 0.31)):
        arm = made(name)
        arm.qpos[:] = 0
        np.testing.assert_allclose(place(arm)[0], [length, 0, 0.01], atol=1e-12)
        joints = (arm.model.actuator_gear[:, 0], arm.model.dof_armature, arm.model.dof_damping)
        assert np.array(joints).tolist() == [[200] * links, [1] * links, [1] * links]
        assert arm.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    assert arm.model.jnt_range[2].tolist() == [-5, 3] and arm.model.jnt_limited[2]
    np.testing.assert_allclose(np.abs(arm.model.geom("sideN").pos[:2]).max(), 0.4)
