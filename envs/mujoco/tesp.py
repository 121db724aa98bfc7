"""TESP's families: a car, a low ant and two arms must reach a goal that only the reward reveals.

| observation, car | ant     | meaning                                                                                 |
|------------------|---------|-----------------------------------------------------------------------------------------|
| 0 … 2            | 0 … 2   | x, y, z of the car or of the ant's torso, m; the car's z is 0 at the start              |
| 3, 4             | -       | sine and cosine of the car's heading                                                    |
| -                | 3 … 14  | quaternion of the torso (w, x, y, z); angles of hips and ankles, in the order of `ant`  |
| 5 … 8            | -       | velocity of the car in x, y, z, m/s, and of its heading, rad/s                          |
| -                | 15 … 28 | velocity of the torso, m/s, its angular velocity, those of hips and ankles, rad/s       |
| last two         | same    | x, y of the goal, m, with `observe_goal`                                                |

| observation, arm of n links | meaning                                   |
|-----------------------------|-------------------------------------------|
| 0 … n − 1                   | cosines of the joints' angles             |
| n … 2n − 1                  | their sines                               |
| 2n … 3n − 1                 | angular velocities of the joints, rad/s   |
| 3n, 3n + 1                  | x, y of the tip, m                        |
| last two                    | x, y of the goal, m, with `observe_goal`  |

| action | meaning: velocities at which joints are driven, rad/s                                            |
|--------|--------------------------------------------------------------------------------------------------|
| car    | right and left wheel, from −50 to 50                                                             |
| ant    | back right hip and ankle, front left, front right, back left, from −50 to 50                     |
| arm    | its joints from the root on, from −100 to 100 with two links, from −50 to 50 with four           |

A joint is driven by a torque of 1 N·m for each rad/s below its target velocity (`mmaml.envs.mujoco.tesp_bodies`). A
time step is five physics steps of 0.01 s. Episodes always begin in the same state, at rest: car and ant at the origin,
an arm stretched along x.

The reward is the sum of reward_distance −‖p − goal‖₂, where p is the position of the body (of an arm: its tip) in x and
y, m, after the step, and reward_control −control_cost · ‖a‖², with a in units of the actions' bound. An episode ends
with success when ‖p − goal‖₂ < arrival; the ant's also ends when its torso is not 0.15 to 0.45 m above the ground.

Source: the environments of TESP (Lan et al. 2019: `WheeledEnv`, `AntEnv`, `ReacherEnv`, `Reacher4LinkEnv`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmaml.envs.arguments import choice, count, flag, interval, number
from mmaml.envs.base import SPLITS, Task
from mmaml.envs.goals import draw_in_ring
from mmaml.envs.mujoco.base import MujocoFamily, Outcome, State
from mmaml.envs.mujoco.tesp_bodies import BODIES

# How many points are tried for each goal before the ring counts as full.
MAX_MISSES = 2000
MARKER_HEIGHT = 0.1


class Arrival(MujocoFamily):
    """Reach a goal; training has a finite set of goals.

    body: "car", "ant", "arm_2" or "arm_4". arrival: the distance to the goal at which an episode ends, m. control_cost:
    weight of ‖a‖². training_goals: the number of goals for training. goal_seed: the seed they are drawn from, so that
    runs with other seeds share them; in the published code they follow from the run's seed. goal_spacing: the smallest
    distance between training goals, and between these and goals of the split "test", m. training_ring, ood_ring:
    [low, high] of the distance from the origin, m, within which goals of training and test, and of the split "ood", are
    uniform. observe_goal: append the goal to the observation.

    Within a meta-batch, training visits each goal of the set once before it repeats one. The values of a task are
    "goal" [2], m.
    """

    normalization_scale = 1.0
    splits = SPLITS

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        body: str,
        arrival: float,
        control_cost: float = 0.0005,
        training_goals: int = 100,
        goal_seed: int = 1,
        goal_spacing: float = 0.1,
        training_ring: Sequence[float] = (0.2, 1.1),
        ood_ring: Sequence[float] = (1.1, 1.5),
        observe_goal: bool = False,
    ) -> None:
        self.body = BODIES[choice("body", body, tuple(BODIES))]
        self.arrival = number("arrival", arrival, positive=True)
        self.control_cost = number("control_cost", control_cost)
        self.goal_spacing = number("goal_spacing", goal_spacing)
        self.training_ring = _ring("training_ring", training_ring)
        self.ood_ring = _ring("ood_ring", ood_ring)
        self.observe_goal = flag("observe_goal", observe_goal)
        self.training_goals = self._finite_set(count("training_goals", training_goals), count("goal_seed", goal_seed))
        model = self.body.model()
        start = State(self.body.start[None], np.zeros((1, model.nv)))
        super().__init__(
            num_tasks,
            rollouts_per_task,
            model=model,
            frame_skip=5,
            observation_size=self.body.observe(start).shape[1] + 2 * self.observe_goal,
        )
        self._goal = np.zeros((self.num_envs, 2))

    def marker(self, task: Task) -> np.ndarray:
        return np.array([*task.values["goal"], MARKER_HEIGHT])

    def _finite_set(self, n: int, seed: int) -> np.ndarray:
        """The goals of training [n, 2]."""
        rng, goals, misses = np.random.default_rng(seed), np.empty((0, 2)), 0
        while misses < MAX_MISSES:
            goal = draw_in_ring(1, rng, *self.training_ring)
            if not self._apart(goal, goals)[0]:
                misses += 1
            elif len(goals) == n:  # one more goal fits: there is room for the split "test"
                return goals
            else:
                goals, misses = np.concatenate([goals, goal]), 0
        raise ValueError(
            f"training_goals: expected a number of goals that fit into training_ring {list(self.training_ring)} at "
            f"goal_spacing {self.goal_spacing}, got {n}"
        )

    def _apart(self, points: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Whether each of the points [n, 2] is at least goal_spacing away from all goals, bool [n]."""
        return (np.linalg.norm(points[:, None] - goals, axis=2) >= self.goal_spacing).all(1)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        if split == "train":
            rounds = [rng.permutation(self.training_goals) for _ in range(n // len(self.training_goals) + 1)]
            goals = np.concatenate(rounds)[:n]
        elif split == "test":
            goals = self._held_out(n, rng)
        else:
            goals = draw_in_ring(n, rng, *self.ood_ring)
        return [Task(0, {"goal": goal}) for goal in goals]

    def _held_out(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Goals [n, 2] in the ring of the training goals, but goal_spacing away from each of them."""
        goals = np.empty((0, 2))
        while len(goals) < n:
            points = draw_in_ring(n, rng, *self.training_ring)
            goals = np.concatenate([goals, points[self._apart(points, self.training_goals)]])
        return goals[:n]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = self._per_lane(tasks, "goal", (2,))

    def _start(self, n: int, rng: np.random.Generator) -> State:
        return State(np.tile(self.body.start, (n, 1)), np.zeros((n, self.model.nv)))

    def _observe(self) -> np.ndarray:
        parts = [self.body.observe(State(self.qpos, self.qvel))]
        if self.observe_goal:
            parts.append(self._goal)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _outcome(self, before: State, controls: np.ndarray) -> Outcome:
        away = self.body.position(self.qpos) - self._goal
        distance = np.sqrt((away * away).sum(1))
        effort = ((controls / self.model.actuator_ctrlrange[:, 1]) ** 2).sum(1)
        arrived = distance < self.arrival
        rewards = {"reward_distance": -distance, "reward_control": -self.control_cost * effort}
        return Outcome(rewards, arrived | self.body.fallen(self.qpos), arrived)


def _ring(name: str, value: Sequence[float]) -> tuple[float, float]:
    """[low, high] with 0 <= low <= high, else ValueError."""
    low, high = interval(name, value)
    if low < 0:
        raise ValueError(f"{name}: expected [low, high] with 0 <= low, got {value!r}")
    return low, high
