"""Bodies that run along x: in a direction, at a velocity, or to a location, which only the reward reveals.

The reward is the sum of these terms, where v is the velocity of the root in x over the step, m/s, x its position
after the step, m, g the task's goal, and a the controls.

| term           | value                  | where                              |
|----------------|------------------------|------------------------------------|
| reward_run     | g·v                    | `reward_type` "direction", g = ±1  |
|                | -|v - g|               | `reward_type` "velocity", g in m/s |
|                | -|x - g|               | `reward_type` "location", g in m   |
| reward_control | -control_cost · ‖a‖²   | everywhere                         |
| reward_alive   | alive_bonus            | `UprightRunner`                    |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmaml.envs.arguments import choice, count, flag, intervals, number
from mmaml.envs.base import Task
from mmaml.envs.goals import DEALS, draw_modes
from mmaml.envs.mujoco.base import MAX_FRAME_SKIP, MujocoFamily, Outcome, State, compiled, load_spec
from mmaml.envs.mujoco.dynamics import draw_multipliers, multiplied

REWARD_TYPES = ("direction", "velocity", "location")
# Multipliers up to 1.5^10, about 58; with far larger ones the physics is unstable.
MAX_DYNAMICS_RANGE = 10


class Runner(MujocoFamily):
    """A body in the plane of x and z: positions 0 and 1 are x and z of its root, 2 is its pitch.

    frame_skip: physics steps per time step. reward_type: one of the table above. goals: one [low, high] per mode, in
    which its goals are uniform. control_cost: weight of ‖a‖². deal: how modes are assigned to tasks, "draw" (uniformly
    at random) or "round_robin" (in turn, over the tasks of a meta-batch). dynamics_range: the range of
    `mmaml.envs.mujoco.dynamics`, by which the dynamics of tasks differ; 0: they do not. observe_goal: append the goal
    to the observation.

    The values of a task are "goal", a number, and the multipliers of its dynamics if dynamics_range is above 0.

    A body sets model_file; start_noise: episodes begin at the rest position + U(± this), velocities U(± this);
    velocity_limit: observed velocities are clipped to ± this.
    """

    model_file: str
    start_noise: float
    velocity_limit = np.inf

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        frame_skip: int,
        reward_type: str,
        goals: Sequence[Sequence[float]],
        control_cost: float,
        deal: str = "draw",
        dynamics_range: float = 0.0,
        observe_goal: bool = False,
    ) -> None:
        self.reward_type = choice("reward_type", reward_type, REWARD_TYPES)
        self.goals = intervals("goals", goals)
        self.control_cost = number("control_cost", control_cost)
        self.deal = choice("deal", deal, DEALS)
        self.dynamics_range = number("dynamics_range", dynamics_range)
        if self.dynamics_range > MAX_DYNAMICS_RANGE:
            raise ValueError(f"dynamics_range: expected at most {MAX_DYNAMICS_RANGE}, got {dynamics_range!r}")
        self.observe_goal = flag("observe_goal", observe_goal)
        self.num_modes = len(self.goals)
        model = compiled(load_spec(self.model_file))
        super().__init__(
            num_tasks,
            rollouts_per_task,
            model=model,
            frame_skip=count("frame_skip", frame_skip, MAX_FRAME_SKIP),
            observation_size=model.nq - 1 + model.nv + self.observe_goal,
        )
        self._goal = np.zeros(self.num_envs)

    def marker(self, task: Task) -> np.ndarray | None:
        return np.array([task.values["goal"], 0, 0]) if self.reward_type == "location" else None

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        modes = draw_modes(n, rng, self.num_modes, self.deal)
        values = [{"goal": goal} for goal in rng.uniform(*self.goals[modes].T)]
        if self.dynamics_range > 0:
            values = [value | draw_multipliers(self.model, rng, self.dynamics_range) for value in values]
        return [Task(int(mode), value) for mode, value in zip(modes, values, strict=True)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._goal = self._per_lane(tasks, "goal", ())
        if self.dynamics_range > 0:
            self._use_models([multiplied(self.model, task) for task in tasks])

    def _start(self, n: int, rng: np.random.Generator) -> State:
        noise = rng.uniform(-self.start_noise, self.start_noise, (n, self.model.nq + self.model.nv))
        return State(self.model.qpos0 + noise[:, : self.model.nq], noise[:, self.model.nq :])

    def _observe(self) -> np.ndarray:
        velocities = np.clip(self.qvel, -self.velocity_limit, self.velocity_limit)
        goal = [self._goal[:, None]] if self.observe_goal else []
        return np.concatenate([self.qpos[:, 1:], velocities, *goal], axis=1, dtype=np.float32)

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


class UprightRunner(Runner):
    """A runner whose episodes end when it falls.

    alive_bonus: reward of each step, including the one that ends an episode.

    A body also sets heights, the lowest and highest z of its root at which it has not fallen, m, and pitches, the same
    for its pitch, rad.
    """

    start_noise = 0.005
    velocity_limit = 10.0
    heights: tuple[float, float]
    pitches: tuple[float, float]

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        frame_skip: int,
        reward_type: str,
        goals: Sequence[Sequence[float]],
        control_cost: float,
        alive_bonus: float,
        deal: str = "draw",
        dynamics_range: float = 0.0,
        observe_goal: bool = False,
    ) -> None:
        self.alive_bonus = number("alive_bonus", alive_bonus)
        super().__init__(
            num_tasks,
            rollouts_per_task,
            frame_skip=frame_skip,
            reward_type=reward_type,
            goals=goals,
            control_cost=control_cost,
            deal=deal,
            dynamics_range=dynamics_range,
            observe_goal=observe_goal,
        )

    def _outcome(self, before: State, controls: np.ndarray) -> Outcome:
        rewards = super()._outcome(before, controls).rewards
        alive = np.full(self.num_envs, self.alive_bonus)
        return Outcome(rewards | {"reward_alive": alive}, terminated=~self._upright())

    def _upright(self) -> np.ndarray:
        """Whether each lane has not fallen, bool [M·N]."""
        upright = np.ones(self.num_envs, bool)
        for value, (low, high) in zip(self.qpos[:, 1:3].T, (self.heights, self.pitches), strict=True):
            upright &= (low < value) & (value < high)
        return upright
