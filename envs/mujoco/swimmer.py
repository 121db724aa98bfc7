"""Swimmer families: swim at a velocity, or to a point, which only the reward reveals.

| observation | meaning                                                    |
|-------------|------------------------------------------------------------|
| 0           | heading, rad, from the x axis                              |
| 1, 2        | angles of the joints before and behind the middle link, rad|
| 3, 4        | velocity of the root in x and y, m/s                       |
| 5, 6, 7     | angular velocities of 0, 1, 2, rad/s                       |

| action | meaning                                          |
|--------|--------------------------------------------------|
| 0, 1   | torques at the joints 1, 2, in units of 150 N·m   |

The root is on the line of the front link, half a link behind it: the middle of the body when it is straight. The
links are 1 m long. With v the root's velocity in x over the step, m/s, p its position after the step, m, and g
the goal, the reward is the sum of

| term           | value                  | where                              |
|----------------|------------------------|------------------------------------|
| reward_run     | -|v - g|               | `SwimmerVelocity`                  |
| reward_goal    | -‖p - g‖               | `SwimmerReach`                     |
| reward_control | -control_cost · ‖a‖²   | everywhere                         |

Model: gymnasium's `swimmer.xml`, a time step is 4 physics steps of 0.01 s. Episodes begin at the rest position +
U(±0.1), velocities U(±0.1), and do not end by themselves.

Source: the environment of ProMP (Rothfuss et al. 2018: `SwimmerRandVelEnv`), whose reward_run has the wrong sign.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from mmaml.envs.arguments import choice, flag, interval, number, points
from mmaml.envs.base import Task
from mmaml.envs.goals import DEALS, draw_goals
from mmaml.envs.mujoco.base import MujocoFamily, Outcome, State, compiled, load_spec


class Swimmer(MujocoFamily):
    """The base of both families.

    control_cost: weight of ‖a‖². observe_goal: append the goal to the observation. The values of a task are "goal".
    """

    goal_shape: tuple[int, ...]

    def __init__(self, num_tasks: int, rollouts_per_task: int, control_cost: float, observe_goal: bool) -> None:
        self.control_cost = number("control_cost", control_cost)
        self.observe_goal = flag("observe_goal", observe_goal)
        super().__init__(
            num_tasks,
            rollouts_per_task,
            model=compiled(load_spec("swimmer.xml")),
            frame_skip=4,
            observation_size=8 + self.observe_goal * int(np.prod(self.goal_shape)),
        )
        self._goal = np.zeros((self.num_envs, *self.goal_shape))

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = self._per_lane(tasks, "goal", self.goal_shape)

    def _start(self, n: int, rng: np.random.Generator) -> State:
        return State(*rng.uniform(-0.1, 0.1, (2, n, self.model.nq)))

    def _observe(self) -> np.ndarray:
        goal = [self._goal.reshape(self.num_envs, -1)] if self.observe_goal else []
        return np.concatenate([self.qpos[:, 2:], self.qvel, *goal], axis=1, dtype=np.float32)

    def _outcome(self, before: State, controls: np.ndarray) -> Outcome:
        return Outcome(self._goal_reward(before) | {"reward_control": -self.control_cost * (controls**2).sum(1)})

    @abstractmethod
    def _goal_reward(self, before: State) -> dict[str, np.ndarray]:
        """The term of the reward that depends on the goal, by name, for the step from `before` to the present state."""


class SwimmerVelocity(Swimmer):
    """Goals are velocities in x, uniform in `velocities`, m/s.

    published_sign: reward_run is |v - g|, as published, which rewards missing the goal.
    """

    goal_shape = ()

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        velocities: Sequence[float] = (0.1, 0.2),
        control_cost: float = 1e-4,
        published_sign: bool = False,
        observe_goal: bool = False,
    ) -> None:
        self.velocities = interval("velocities", velocities)
        self.published_sign = flag("published_sign", published_sign)
        super().__init__(num_tasks, rollouts_per_task, control_cost, observe_goal)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"goal": goal}) for goal in rng.uniform(*self.velocities, n)]

    def _goal_reward(self, before: State) -> dict[str, np.ndarray]:
        miss = np.abs((self.qpos[:, 0] - before.qpos[:, 0]) / self.dt - self._goal)
        return {"reward_run": miss if self.published_sign else -miss}


class SwimmerReach(Swimmer):
    """Goals are points [2], m: a mode's centre + N(0, noise²) in x and y.

    centers: one [x, y] per mode. deal: how modes are assigned to tasks, "draw" (uniformly at random) or "round_robin"
    (in turn, over the tasks of a meta-batch).
    """

    goal_shape = (2,)

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        centers: Sequence[Sequence[float]],
        noise: float = 0.1,
        deal: str = "draw",
        control_cost: float = 1e-4,
        observe_goal: bool = False,
    ) -> None:
        self.centers = points("centers", centers)
        self.noise = number("noise", noise)
        self.deal = choice("deal", deal, DEALS)
        self.num_modes = len(self.centers)
        super().__init__(num_tasks, rollouts_per_task, control_cost, observe_goal)

    def marker(self, task: Task) -> np.ndarray | None:
        return np.array([*task.values["goal"], 0])

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes, goals = draw_goals(n, rng, self.centers, self.noise, self.deal)
        return [Task(int(mode), {"goal": goal}) for mode, goal in zip(modes, goals, strict=True)]

    def _goal_reward(self, before: State) -> dict[str, np.ndarray]:
        return {"reward_goal": -np.linalg.norm(self.qpos[:, :2] - self._goal, axis=1)}
