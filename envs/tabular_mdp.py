"""Random tabular MDPs: learn over several episodes where actions lead and what they give.

| observation | meaning                                         |
|-------------|-------------------------------------------------|
| 0 … S − 1   | the state: 1 in the entry of its index, else 0  |

| action    | meaning     |
|-----------|-------------|
| 0 … A − 1 | no meaning that two tasks share |

From state s, action a leads to s' with probability P(s' | s, a) and gives N(R(s, a), noise²), "reward_mean" and
"reward_noise". Episodes begin in state 0 and never terminate; in the published experiments they take 10 steps, and a
trial 10 to 100 episodes.

The values of a task are "transitions" [S, A, S], for each s and a drawn from Dirichlet(1, …, 1), and "rewards" [S, A],
N(1, 1). A random policy gets 1 a step on average; one that knows the task gets 21.8 in 10 steps. `action_values` gives
the returns of both on one task.

Source: Duan et al. 2016 (RL²), section 3.2, as in lucaslingle/pytorch_rl2 (`rl2/envs/mdp_env.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import count, number
from mmaml.envs.base import Task
from mmaml.envs.discrete import DiscreteFamily, Outcome, one_hot


class TabularMDP(DiscreteFamily):
    """states, actions: S and A. noise: standard deviation of a reward about its mean."""

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        states: int = 10,
        actions: int = 5,
        noise: float = 1.0,
    ) -> None:
        self.states = count("states", states, maximum=100)
        self.noise = number("noise", noise)
        num_actions = count("actions", actions, maximum=100)
        super().__init__(num_tasks, rollouts_per_task, gym.spaces.Box(0, 1, (self.states,), np.float32), num_actions)
        self._state = np.zeros(self.num_envs, int)
        self._up_to = np.zeros((num_tasks, self.states, num_actions, self.states))
        self._rewards = np.zeros((num_tasks, self.states, num_actions))

    def _advance(self, actions: np.ndarray) -> Outcome:
        here = self.task_of_lane, self._state, actions
        mean = self._rewards[here]
        drawn = self._drawn(lambda rng, n: np.stack([rng.random(n), rng.standard_normal(n)], axis=1))
        self._state = (self._up_to[here][:, :-1] <= drawn[:, :1]).sum(1)
        return Outcome({"reward_mean": mean, "reward_noise": self.noise * drawn[:, 1]})

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        shape = (n, self.states, self.num_actions)
        transitions = rng.dirichlet(np.ones(self.states), size=shape)
        rewards = rng.normal(1, 1, shape)
        return [
            Task(0, {"transitions": transition, "rewards": reward})
            for transition, reward in zip(transitions, rewards, strict=True)
        ]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        table = (self.states, self.num_actions)
        transitions, self._rewards = (
            self._per_task(tasks, name, shape)
            for name, shape in (("transitions", (*table, self.states)), ("rewards", table))
        )
        self._up_to = transitions.cumsum(-1)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._state[lanes] = 0

    def _observe(self) -> np.ndarray:
        return one_hot(self._state, self.states)


def action_values(
    transitions: np.ndarray, rewards: np.ndarray, steps: int, *, random: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The expected returns of 1 … T steps of a known MDP: by first action, [T, S, A], and by first state, [T, S].

    Dynamic programming. transitions [S, A, S], rewards [S, A]: of the task. steps: T. After the first action the best
    ones follow, or, if `random`, any, all equally likely.
    """
    of_actions, of_states = [], [np.zeros(len(rewards))]
    for _ in range(steps):
        of_actions.append(rewards + transitions @ of_states[-1])
        of_states.append(of_actions[-1].mean(1) if random else of_actions[-1].max(1))
    return np.stack(of_actions), np.stack(of_states[1:])
