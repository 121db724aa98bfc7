"""Task families that need a memory, whose best returns are known, and RL² with a part taken out, which must fail them.

| family | a trial | best return | without a memory |
|---|---|---|---|
| `Sure` | E pulls of two arms, of which one gives 1, the other 0 | E - 1/2 | E / 2 |
| `PayToLook` | an episode to look, for 0.1, at what will be right in the next | 0.9 | 0 |
| `Recall` | a symbol of four is shown at the start, and asked for at the end | 1 | 1/4 |

Beside them the family `BernoulliBandit`: of 10 pulls of two arms the best return is 6.0218; win-stay-lose-shift, which
needs what came of the last pull but no memory, has 5.796.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.rl2 import DECLARATION as DECLARATION
from mmaml.algorithms.rl2 import GRU, RL2
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.policies.gru import gru_states
from mmaml.policies.params import Params
from mmaml.sampling.acting import Step
from mmaml.sampling.advantages import advantages
from mmaml.sampling.rollouts import Rollouts

MODULE = "tests.helpers.memory_probes"
# Episodes of one step, discrete actions.
BANDIT: dict[str, Any] = {
    "env": "BernoulliBandit",
    "env_kwargs": {"arms": 2},
    "max_path_length": 1,
    "episodes_per_trial": 9,
}


class _Probe(TaskVectorEnv):
    """One number a task; observations of `size` numbers; `actions` to choose from."""

    normalization_scale = None
    size, choices = 1, 2

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        observations = gym.spaces.Box(-1, 1, (self.size,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observations, gym.spaces.Discrete(self.choices))
        self._hidden = np.zeros(self.num_envs, int)
        self._step = np.zeros(self.num_envs, int)  # of the lane

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if options is None:  # a new trial
            self._step[:] = 0
        return super().reset(seed=seed, options=options)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"hidden": int(k)}) for k in rng.permutation(np.arange(n) % self.kinds)]

    kinds = 2

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._hidden = np.repeat([task.values["hidden"] for task in tasks], self.rollouts_per_task)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        pass

    def _observe(self) -> np.ndarray:
        return np.ones((self.num_envs, self.size), np.float32)

    def _result(self, rewards: np.ndarray, terminated: np.ndarray) -> StepResult:
        self._step += 1
        return self._observe(), rewards.astype(np.float32), terminated, np.zeros(self.num_envs, bool), {}

    @property
    def _yes(self) -> np.ndarray:
        return np.ones(self.num_envs, bool)


class Sure(_Probe):
    """One arm gives 1, the other 0; an episode is a pull."""

    def step(self, actions: np.ndarray) -> StepResult:
        return self._result(actions == self._hidden, self._yes)


class PayToLook(_Probe):
    """Action 2 costs 0.1 and shows, in the next episode, which of 0 and 1 gives 1 there; the other gives -1."""

    choices = 3

    def step(self, actions: np.ndarray) -> StepResult:
        looks = actions == 2
        guesses = np.where(actions == self._hidden, 1.0, -1.0) * (self._step == 1)
        self._shown = np.where(looks & (self._step == 0), 2.0 * self._hidden - 1, 0.0)
        return self._result(np.where(looks, -0.1, guesses), self._yes)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if options is None:
            self._shown = np.zeros(self.num_envs)
        return super().reset(seed=seed, options=options)

    def _observe(self) -> np.ndarray:
        return self._shown[:, None].astype(np.float32)


class Recall(_Probe):
    """A symbol is shown at the first step of an episode; to name it at the last gives 1. length: of an episode."""

    size, choices, kinds = 5, 4, 4

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, length: int = 30) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self.length = length

    def step(self, actions: np.ndarray) -> StepResult:
        last = self._step % self.length == self.length - 1
        return self._result((actions == self._hidden) & last, last)

    def _observe(self) -> np.ndarray:
        step = self._step % self.length
        shown = np.eye(4)[self._hidden] * (step == 0)[:, None]
        return np.concatenate([shown, (step == self.length - 1)[:, None]], 1).astype(np.float32)


# RL² with a part taken out.


class WithoutFeedback(RL2):
    """It sees neither its last action nor the last reward."""

    def inputs(self, step: Step) -> Tensor:
        hidden = [torch.zeros_like(value) for value in (step.previous_action, step.previous_reward)]
        return super().inputs(step._replace(previous_action=hidden[0], previous_reward=hidden[1]))


class CreditCutAtEpisodes(RL2):
    """Rewards are credited within their episode."""

    def advantages(self, state: Params, rollouts: Rollouts, rewards: Tensor) -> tuple[Tensor, Tensor]:
        config, values = self.config, self.values(state, rollouts).numpy()
        estimated = ("ZeroBaseline", config.discount, config.gae_lambda)
        return advantages(rollouts, *estimated, values=values, rewards=rewards.numpy(), over_trial=False)


class Forgetful(RL2):
    """Its memory is empty at every step."""

    def step(self, params: Params, x: Tensor, carried: Any) -> tuple[Tensor, Any]:
        return super().step(params, x, None)

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        return torch.cat([gru_states(params, GRU, step[None]) for step in x])


class AnewInEachEpisode(RL2):
    """Its memory is empty at the start of every episode; all are of `max_path_length` steps."""

    def step(self, params: Params, x: Tensor, carried: Any) -> tuple[Tensor, Any]:
        starts = x[..., -1].bool().all()
        return super().step(params, x, None if starts else carried)

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        return torch.cat([gru_states(params, GRU, episode) for episode in x.split(self.config.max_path_length)])


class WithoutEarlierEpisodes(AnewInEachEpisode):
    """Nor does it see there what was done last and what came of it."""

    def inputs(self, step: Step) -> Tensor:
        goes_on = 1 - step.episode_start.float()
        action, reward = step.previous_action * goes_on[..., None], step.previous_reward * goes_on
        return super().inputs(step._replace(previous_action=action, previous_reward=reward))
