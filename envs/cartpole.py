"""CartPole with different masses in every task: keep a pole upright on a cart.

| observation | meaning                                              |
|-------------|------------------------------------------------------|
| 0, 1        | position of the cart, m, and its velocity, m/s       |
| 2, 3        | angle of the pole from upright, rad, and its rad/s   |

| action | meaning                      |
|--------|------------------------------|
| 0      | push the cart left, by 10 N  |
| 1      | push it right, by 10 N       |

The reward is 1 per step, "reward_alive". Terminated as soon as the cart is more than 2.4 m from the centre or the pole
more than 12° from upright. Episodes begin with all four numbers U(±0.05).

Source: gymnasium's CartPole-v1, whose physics this is (Barto, Sutton, Anderson 1983: Euler steps of 0.02 s, half the
pole's length 0.5 m), with the tasks of RLlib's MAML example (`CartPoleMassEnv`). There, a task does not change the
total mass and the pole's moment, so that all carts are the same; here, both follow from the masses.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import interval
from mmaml.envs.base import StepResult, Task, TaskVectorEnv

GRAVITY, FORCE, HALF_LENGTH, SECONDS = 9.8, 10.0, 0.5, 0.02
POSITION_LIMIT, ANGLE_LIMIT = 2.4, np.deg2rad(12)


class CartPoleMass(TaskVectorEnv):
    """The values of a task are "cart_mass" and "pole_mass", kg, each uniform in the [low, high] of its argument."""

    normalization_scale = None
    finite_horizon = True

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        cart_mass: Sequence[float] = (0.5, 2.0),
        pole_mass: Sequence[float] = (0.05, 0.2),
    ) -> None:
        self.cart_mass = interval("cart_mass", cart_mass)
        self.pole_mass = interval("pole_mass", pole_mass)
        for name, (low, _) in (("cart_mass", self.cart_mass), ("pole_mass", self.pole_mass)):
            if low <= 0:
                raise ValueError(f"{name}: expected masses above 0, got {low}")
        observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observation_space, gym.spaces.Discrete(2))
        self._state = np.zeros((4, self.num_envs))
        self._cart, self._pole = np.ones(self.num_envs), np.ones(self.num_envs)

    def step(self, actions: np.ndarray) -> StepResult:
        """As `TaskVectorEnv.step`; actions are 0 or 1, [M·N]."""
        self._check_started()
        actions = np.asarray(actions)
        if not np.isin(actions, (0, 1)).all():
            raise ValueError(f"actions: expected 0 or 1, got {actions}")
        self._advance(np.where(actions == 1, FORCE, -FORCE))
        x, _, angle, _ = self._state
        terminated = (np.abs(x) > POSITION_LIMIT) | (np.abs(angle) > ANGLE_LIMIT)
        reward = np.ones(self.num_envs, np.float32)
        return self._observe(), reward, terminated, np.zeros(self.num_envs, bool), {"reward_alive": reward.copy()}

    def _advance(self, force: np.ndarray) -> None:
        """One Euler step under forces [M·N], N."""
        x, speed, angle, spin = self._state.copy()
        total, moment = self._cart + self._pole, self._pole * HALF_LENGTH
        cosine, sine = np.cos(angle), np.sin(angle)
        push = (force + moment * (spin * spin) * sine) / total
        bend = (GRAVITY * sine - cosine * push) / (HALF_LENGTH * (4 / 3 - self._pole * (cosine * cosine) / total))
        acceleration = push - moment * bend * cosine / total
        self._state[:] = (
            x + SECONDS * speed,
            speed + SECONDS * acceleration,
            angle + SECONDS * spin,
            spin + SECONDS * bend,
        )

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        masses = zip(rng.uniform(*self.cart_mass, n), rng.uniform(*self.pole_mass, n), strict=True)
        return [Task(0, {"cart_mass": cart, "pole_mass": pole}) for cart, pole in masses]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._cart, self._pole = self._per_lane(tasks, "cart_mass", ()), self._per_lane(tasks, "pole_mass", ())

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._state[:, lanes] = rng.uniform(-0.05, 0.05, (len(lanes), 4)).T

    def _observe(self) -> np.ndarray:
        return np.ascontiguousarray(self._state.T, np.float32)
