"""Bodies that run along x: in a direction, at a velocity, or to a location, that only the reward tells of.

The reward is the sum of these terms. Here v is the velocity of the root in x over the step, m/s, x its
position after the step, m, g the task's goal, and a the controls.

| term           | value                         | where                                      |
|----------------|-------------------------------|--------------------------------------------|
| reward_run     | g·v                           | `reward_type` "direction": g is −1 or 1    |
|                | −\\|v − g\\|                    | `reward_type` "velocity": g in m/s         |
|                | −\\|x − g\\|                    | `reward_type` "location": g in m           |
| reward_control | −control_cost · ‖a‖²          | everywhere                                 |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.arguments import choice, flag, intervals, number
from envs.base import Task
from envs.goals import DEALS, draw_modes
from envs.mujoco.base import MujocoFamily, Outcome, State, compiled, load_spec

REWARD_TYPES = ("direction", "velocity", "location")


class Runner(MujocoFamily):
    """A body whose first coordinate is its root's x: what all of them have in common.

    reward_type: one of the table above. goals: one [low, high] a mode, in which its goals are uniform. deal: how
    tasks get their modes, "draw" (each uniformly) or "round_robin" (in turn, over the tasks of a meta-batch).
    observe_goal: append the goal to the observation.

    Tasks hold "goal", a number. A body sets model_file and physics_steps, the physics steps a time step, and
    implements `_start`.
    """

    model_file: str
    physics_steps: int

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        reward_type: str,
        goals: Sequence[Sequence[float]],
        control_cost: float,
        deal: str = "draw",
        observe_goal: bool = False,
    ) -> None:
        self.reward_type = choice("reward_type", reward_type, REWARD_TYPES)
        self.goals = intervals("goals", goals)
        self.control_cost = number("control_cost", control_cost)
        self.deal = choice("deal", deal, DEALS)
        self.observe_goal = flag("observe_goal", observe_goal)
        self.num_modes = len(self.goals)
        model = compiled(load_spec(self.model_file))
        super().__init__(
            num_tasks,
            rollouts_per_task,
            model=model,
            frame_skip=self.physics_steps,
            observation_size=model.nq - 1 + model.nv + self.observe_goal,
        )
        self._goal = np.zeros(self.num_envs)

    def marker(self, task: Task) -> np.ndarray | None:
        return np.array([task.values["goal"], 0, 0]) if self.reward_type == "location" else None

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes = draw_modes(n, rng, self.num_modes, self.deal)
        goals = rng.uniform(*self.goals[modes].T)
        return [Task(int(mode), {"goal": goal}) for mode, goal in zip(modes, goals, strict=True)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = self._per_lane(tasks, "goal", ())

    def _observe(self) -> np.ndarray:
        goal = [self._goal[:, None]] if self.observe_goal else []
        return np.concatenate([self.qpos[:, 1:], self.qvel, *goal], axis=1, dtype=np.float32)

    def _outcome(self, before: State, controls: np.ndarray) -> Outcome:
        control = -self.control_cost * (controls**2).sum(1)
        return Outcome({"reward_run": self._run_reward(before), "reward_control": control})

    def _run_reward(self, before: State) -> np.ndarray:
        """reward_run of each lane [M·N] for its step from `before` to the present state."""
        position = self.qpos[:, 0]
        if self.reward_type == "location":
            return -np.abs(position - self._goal)
        velocity = (position - before.qpos[:, 0]) / self.dt
        return self._goal * velocity if self.reward_type == "direction" else -np.abs(velocity - self._goal)
