"""Point-mass task families: reach a goal in the plane that only the reward reveals.

| observation | meaning       | families      |
|-------------|---------------|---------------|
| 0, 1        | position x, y | all           |
| 2, 3        | velocity x, y | momentum only |

| action | meaning, per time step                                   |
|--------|----------------------------------------------------------|
| 0, 1   | change of velocity (momentum) or of position (all others) |

Lengths have no unit; velocities are lengths per time step. The reward is that of the new position; in the walls family,
of the position before a wall stops the step. No family but 2D navigation ends an episode.

Sources: the environments of ProMP (Rothfuss et al. 2018: `MetaPointEnvMomentum`, `MetaPointEnvCorner`,
`MetaPointEnvWalls`), MMAML (Vuorio et al. 2019: the momentum families with modes), MAML (Finn et al. 2017:
`2DNavigation-v0`) and VariBAD (Zintgraf et al. 2020: the point robot, `environments/navigation/point_robot.py` of
lmzintgraf/varibad, after PEARL, Rakelly et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import choice, number, points
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.envs.goals import DEALS, draw_goals

REWARD_TYPES = ("dense", "dense_squared", "sparse")
# A lane exactly on a wall would pass through it at its next step; slightly inside it does not.
JUST_INSIDE = 1 - 1e-6


class PointMass(TaskVectorEnv):
    """x ← x + clip(a): the base of all families here.

    centers: one [x, y] per mode. noise: standard deviation of a goal around its mode's centre, in x and in y. deal: how
    modes are assigned to tasks, "draw" (uniformly at random) or "round_robin" (in turn, over the tasks of a
    meta-batch). action_limit: actions are clipped to ± this. start: episodes begin at x ~ U(±start).
    reward_type, with d the Euclidean distance to the goal: "dense" -d, "dense_squared" -d²,
    "sparse" max(radius - d, 0).

    The values of a task are "goal" [2]. The only term of the reward is "reward_goal".
    """

    normalization_scale: float | None = 10.0
    finite_horizon = True
    state_size = 2

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        centers: Sequence[Sequence[float]],
        noise: float = 0.0,
        deal: str = "draw",
        reward_type: str = "dense",
        radius: float = 2.0,
        start: float = 0.2,
        action_limit: float = 0.1,
    ) -> None:
        self.centers = points("centers", centers)
        self.noise = number("noise", noise)
        self.deal = choice("deal", deal, DEALS)
        self.reward_type = choice("reward_type", reward_type, REWARD_TYPES)
        self.radius = number("radius", radius)
        self.start = number("start", start)
        self.action_limit = number("action_limit", action_limit, positive=True)
        self.num_modes = len(self.centers)
        observation_space = gym.spaces.Box(-np.inf, np.inf, (self.state_size,), np.float32)
        action_space = gym.spaces.Box(-self.action_limit, self.action_limit, (2,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observation_space, action_space)
        # Coordinates first: NumPy is several times faster on long rows than on rows of two.
        self._state = np.zeros((self.state_size, self.num_envs))
        self._position = self._state[:2]
        self._goal = np.zeros((2, self.num_envs))

    def step(self, actions: np.ndarray) -> StepResult:
        self._check_started()
        before = self._position.copy()
        self._advance(np.clip(actions, -self.action_limit, self.action_limit).T)
        reward = self._reward(before).astype(np.float32)
        self._hold_back(before)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        return self._observe(), reward, terminated, truncated, {"reward_goal": reward.copy()}

    def _advance(self, actions: np.ndarray) -> None:
        """Move by clipped actions [2, M·N]."""
        self._position += actions

    def _reward(self, before: np.ndarray) -> np.ndarray:
        """The reward of each lane [M·N] for its step from `before` [2, M·N] to its position."""
        distance = _norm(self._position - self._goal)
        if self.reward_type == "dense":
            return -distance
        if self.reward_type == "dense_squared":
            return -(distance * distance)
        return np.maximum(self.radius - distance, 0.0)

    def _hold_back(self, before: np.ndarray) -> None:
        """Stop a step from `before` [2, M·N] at obstacles; called after the reward was computed."""

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes, goals = draw_goals(n, rng, self.centers, self.noise, self.deal)
        return [Task(int(mode), {"goal": goal}) for mode, goal in zip(modes, goals, strict=True)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = np.ascontiguousarray(self._per_lane(tasks, "goal", (2,)).T)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._position[:, lanes] = rng.uniform(-self.start, self.start, (len(lanes), 2)).T

    def _observe(self) -> np.ndarray:
        return np.ascontiguousarray(self._state.T, np.float32)


class MomentumPointMass(PointMass):
    """v ← v + clip(a), x ← x + v; v starts at U(±0.1)."""

    state_size = 4

    def _advance(self, actions: np.ndarray) -> None:
        self._state[2:] += actions
        self._position += self._state[2:]

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, rng)
        self._state[2:, lanes] = rng.uniform(-0.1, 0.1, (len(lanes), 2)).T


class CornerPointMass(PointMass):
    """A goal in one of several corners, `centers`.

    "sparse" is another reward here: 0 while |x|₁ < radius or while a corner other than the goal's is nearer
    than the goal, else the distance gained towards the goal in this step. The goal's corner is the one nearest
    to it.
    """

    def _reward(self, before: np.ndarray) -> np.ndarray:
        if self.reward_type != "sparse":
            return super()._reward(before)
        distance = _norm(self._position - self._goal)
        x, y = self._position
        unrewarded = np.abs(x) + np.abs(y) < self.radius
        for corner in self._other_corners:
            unrewarded |= _norm(self._position - corner) < distance
        return np.where(unrewarded, 0.0, _norm(before - self._goal) - distance)

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        super()._set_tasks(tasks)
        corners = np.repeat(self.centers[:, :, None], self.num_envs, axis=2)
        own = np.argmin([_norm(corner - self._goal) for corner in corners], axis=0)
        corners[own, :, np.arange(self.num_envs)] = np.inf
        self._other_corners = corners


class WallsPointMass(CornerPointMass):
    """Corner with circular walls about the origin, each with a gap in a random direction of the task.

    A step outwards across a wall to a point farther than 1 from the wall's gap ends just inside the wall, in the
    direction of that point. Steps inwards are never stopped. Tasks also have the values "gaps" [2, 2]: the centres of
    the gaps in the inner wall (radius 1) and in the outer one (radius 2).
    """

    wall_radii = (1.0, 2.0)
    gap_reach = 1.0

    def _hold_back(self, before: np.ndarray) -> None:
        radius_before, radius = _norm(before), _norm(self._position)
        for wall_radius, gap in zip(self.wall_radii, self._gaps, strict=True):
            crosses = (radius_before < wall_radius) & (radius >= wall_radius)
            if not crosses.any():
                continue
            held = np.flatnonzero(crosses & (_norm(self._position - gap) > self.gap_reach))
            self._position[:, held] *= wall_radius * JUST_INSIDE / radius[held]
            radius[held] = wall_radius * JUST_INSIDE

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        angles = rng.uniform(0, 2 * np.pi, (n, len(self.wall_radii)))
        gaps = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.array(self.wall_radii)[:, None]
        tasks = super()._draw_tasks(n, rng, split)
        return [Task(task.mode, {**task.values, "gaps": gap}) for task, gap in zip(tasks, gaps, strict=True)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        super()._set_tasks(tasks)
        gaps = self._per_lane(tasks, "gaps", (len(self.wall_radii), 2))
        self._gaps = np.ascontiguousarray(gaps.transpose(1, 2, 0))


class Navigation2D(PointMass):
    """Goal uniform in a square about the origin, where episodes start; actions are not rescaled, only clipped.

    Terminated, with success, as soon as both coordinates are within 0.01 of the goal. goal_limit: half the
    side of the square.
    """

    normalization_scale = None
    arrival = 0.01

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        goal_limit: float = 0.5,
        reward_type: str = "dense",
        radius: float = 2.0,
    ) -> None:
        super().__init__(
            num_tasks, rollouts_per_task, centers=[[0, 0]], reward_type=reward_type, radius=radius, start=0.0
        )
        self.goal_limit = number("goal_limit", goal_limit)

    def step(self, actions: np.ndarray) -> StepResult:
        observations, rewards, _, truncated, infos = super().step(actions)
        away_x, away_y = np.abs(self._position - self._goal)
        arrived = (away_x < self.arrival) & (away_y < self.arrival)
        return observations, rewards, arrived, truncated, infos | {"success": arrived.copy()}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"goal": goal}) for goal in rng.uniform(-self.goal_limit, self.goal_limit, (n, 2))]


class PointRobot(PointMass):
    """Goal uniform on the upper half of a circle about the origin, where episodes start.

    goal_radius: of the circle. "sparse" is another reward here: 1 - d where d <= radius, else 0.
    In the published experiments, episodes take 100 steps, and a trial 3 episodes.
    """

    normalization_scale = 1.0

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        goal_radius: float = 1.0,
        reward_type: str = "dense",
        radius: float = 0.2,
        action_limit: float = 0.1,
    ) -> None:
        super().__init__(
            num_tasks,
            rollouts_per_task,
            centers=[[0, 0]],
            reward_type=reward_type,
            radius=radius,
            start=0.0,
            action_limit=action_limit,
        )
        self.goal_radius = number("goal_radius", goal_radius)

    def _reward(self, before: np.ndarray) -> np.ndarray:
        if self.reward_type != "sparse":
            return super()._reward(before)
        distance = _norm(self._position - self._goal)
        return np.where(distance <= self.radius, 1 - distance, 0.0)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        angles = rng.uniform(0, np.pi, n)
        goals = self.goal_radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return [Task(0, {"goal": goal}) for goal in goals]


def _norm(vectors: np.ndarray) -> np.ndarray:
    """Euclidean length of vectors [2, …]."""
    x, y = vectors
    return np.sqrt(x * x + y * y)
