"""Point-mass task families: reach a goal in the plane.

| observation | meaning           | families            |
| 0, 1        | position x, y     | all                 |
| 2, 3        | velocity x, y     | momentum only       |

| action | meaning                                            |
| 0, 1   | velocity change (momentum) or displacement (others) a step, clipped to the bounds |

The observation never holds the goal. Facts from the environments of ProMP (Rothfuss et al. 2018), MMAML
(Vuorio et al. 2019) and MAML (Finn et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from envs.base import Task, TaskVectorEnv

REWARD_TYPES = ("dense", "dense_squared", "sparse")
JUST_INSIDE = 1 - 1e-6


class PointMass(TaskVectorEnv):
    """x ← x + clip(a): the base of all families here.

    centers: one [x, y] a mode. noise: standard deviation of the goal about its centre.
    deal: "draw" draws a task's mode uniformly, "round_robin" deals the modes in order over the tasks.
    reward_type: dense -d, dense_squared -d², sparse max(radius - d, 0); d: distance of the new position.
    start: episodes begin at x ~ U(±start). action_limit: bound of each action entry.
    """

    velocity = False

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
        self.centers = np.asarray(centers, np.float64)
        if self.centers.ndim != 2 or self.centers.shape[1] != 2 or not len(self.centers):
            raise ValueError(f"centers: expected a list of [x, y], one a mode, got {centers!r}")
        if reward_type not in REWARD_TYPES:
            raise ValueError(f"reward_type: expected one of {REWARD_TYPES}, got {reward_type!r}")
        if deal not in ("draw", "round_robin"):
            raise ValueError(f"deal: expected 'draw' or 'round_robin', got {deal!r}")
        for name, value, least in (("noise", noise, 0), ("radius", radius, 0), ("start", start, 0)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
                raise ValueError(f"{name}: expected a number of at least {least}, got {value!r}")
        if isinstance(action_limit, bool) or not isinstance(action_limit, int | float) or action_limit <= 0:
            raise ValueError(f"action_limit: expected a positive number, got {action_limit!r}")
        size = 4 if self.velocity else 2
        observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        action_space = gym.spaces.Box(-action_limit, action_limit, (2,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observation_space, action_space)
        self.noise, self.deal = noise, deal
        self.reward_type, self.radius = reward_type, radius
        self.start, self.action_limit = start, action_limit
        self.num_modes = len(self.centers)
        self._state = np.zeros((self.num_envs, size))
        self._position = self._state[:, :2]
        self._goal = np.zeros((self.num_envs, 2))
        self._never = np.zeros(self.num_envs, bool)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One time step of all lanes. actions: [M·N, 2]."""
        before = self._position.copy() if self.reward_type == "sparse" else self._position
        self._advance(np.clip(actions, -self.action_limit, self.action_limit))
        reward = self._reward(before).astype(np.float32)
        self._correct(before)
        return self._observe(), reward, self._terminated(), self._never, {"reward_goal": reward}

    def _advance(self, actions: np.ndarray) -> None:
        self._position += actions

    def _reward(self, before: np.ndarray) -> np.ndarray:
        distance = _norm(self._position - self._goal)
        if self.reward_type == "dense":
            return -distance
        if self.reward_type == "dense_squared":
            return -(distance * distance)
        return np.maximum(self.radius - distance, 0.0)

    def _correct(self, before: np.ndarray) -> None:
        """What the world does to a position after the reward was given."""

    def _terminated(self) -> np.ndarray:
        return self._never

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes = rng.integers(self.num_modes, size=n) if self.deal == "draw" else np.arange(n) % self.num_modes
        goals = self.centers[modes] + self.noise * rng.standard_normal((n, 2))
        return [Task(int(mode), {"goal": goal}) for mode, goal in zip(modes, goals, strict=True)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = np.repeat([task.values["goal"] for task in tasks], self.rollouts_per_task, axis=0)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._position[lanes] = rng.uniform(-self.start, self.start, (len(lanes), 2))

    def _observe(self) -> np.ndarray:
        return self._state.astype(np.float32)


class MomentumPointMass(PointMass):
    """v ← v + clip(a, ±0.1), x ← x + v; v starts at U(±0.1)."""

    velocity = True

    def _advance(self, actions: np.ndarray) -> None:
        self._state[:, 2:] += actions
        self._position += self._state[:, 2:]

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        super()._reset_lanes(task, lanes, rng)
        self._state[lanes, 2:] = rng.uniform(-0.1, 0.1, (len(lanes), 2))


class CornerPointMass(PointMass):
    """A goal in one of the corners.

    Sparse reward: 0 while |x|₁ < radius or another corner is nearer than the goal, else the distance gained
    towards the goal in this step.
    """

    def _reward(self, before: np.ndarray) -> np.ndarray:
        if self.reward_type != "sparse":
            return super()._reward(before)
        now = _norm(self._position - self._goal)
        nearest = _norm(self._position[:, None] - self.centers).min(1)
        at_start = np.abs(self._position).sum(1) < self.radius
        return np.where(at_start | (nearest < now), 0.0, _norm(before - self._goal) - now)


class WallsPointMass(CornerPointMass):
    """Corner with circular walls, each with a gap of the task in a random direction.

    A step outwards across a wall, to a place farther than 1 from its gap, ends just inside the wall;
    strictly inside, since on the wall it would walk through at the next step. The reward is that of the
    place it aimed at.
    """

    wall_radii = (1.0, 2.0)
    gap_reach = 1.0

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One time step of all lanes. actions: [M·N, 2]."""
        self._radius_before = _norm(self._position)
        return super().step(actions)

    def _correct(self, before: np.ndarray) -> None:
        radius_before, radius = self._radius_before, _norm(self._position)
        for wall, wall_radius in enumerate(self.wall_radii):
            crosses = (radius_before < wall_radius) & (radius >= wall_radius)
            blocked = crosses & (_norm(self._position - self._gaps[:, wall]) > self.gap_reach)
            self._position[blocked] *= (wall_radius * JUST_INSIDE / radius[blocked])[:, None]

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        angles = rng.uniform(0, 2 * np.pi, (n, len(self.wall_radii)))
        gaps = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.array(self.wall_radii)[:, None]
        tasks = super()._draw_tasks(n, rng, split)
        return [Task(task.mode, {**task.values, "gaps": gap}) for task, gap in zip(tasks, gaps, strict=True)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        super()._set_tasks(tasks)
        self._gaps = np.repeat([task.values["gaps"] for task in tasks], self.rollouts_per_task, axis=0)


class Navigation2D(PointMass):
    """Goal uniform in a square, start at the origin, terminated within 0.01 of the goal in both coordinates.

    Actions are clipped only. goal_limit: half the side of the square.
    """

    normalization_scale = None

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
        self.goal_limit = goal_limit

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"goal": goal}) for goal in rng.uniform(-self.goal_limit, self.goal_limit, (n, 2))]

    def _terminated(self) -> np.ndarray:
        return (np.abs(self._position - self._goal) < 0.01).all(1)


def _norm(vectors: np.ndarray) -> np.ndarray:
    """Euclidean length of vectors [..., 2]."""
    x, y = vectors[..., 0], vectors[..., 1]
    return np.sqrt(x * x + y * y)
