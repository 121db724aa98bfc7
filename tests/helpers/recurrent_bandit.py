"""A small recurrent algorithm, and a bandit whose best return over a trial is known: the contract, used.

`WaitingBandit`: of two arms one gives 1, the other nothing. An episode is a pull and then a step in which nothing
happens, so that what a pull gave is no longer seen when the next is made: it has to be remembered, over the end of an
episode. The best return over a trial of E episodes is E - 1/2, that without a memory E/2.

`RecurrentBandit`: RL² (Duan et al. 2016), a GRU with a value head trained by PPO over whole trials; and, with an
optimiser and a buffer of earlier trials of its own, a model of what an arm gives on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.recurrent import TrialPPO
from mmaml.algorithms.shared_keys import CELL_SIZE, RECURRENT
from mmaml.config.keys import Config
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.policies.distributions import Categorical, Distribution
from mmaml.policies.gru import gru_shapes, gru_states, gru_step, init_with_gru
from mmaml.policies.mlp import MLP
from mmaml.policies.params import Params, ParamSpec
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.rollouts import Rollouts
from mmaml.seeding import generator
from mmaml.updates.adam import Adam
from mmaml.updates.buffer import Buffer
from mmaml.updates.evaluate import Evaluate
from mmaml.updates.outer_step import make_update

MODULE = "tests.helpers.recurrent_bandit"
DECLARATION = RECURRENT.extended(keys={"cell_size": CELL_SIZE}, without=["learn_std"])
GRU, MODEL = "network.gru", "model.rewards"
BUFFERED_ITERATIONS, DRAWN, MODEL_RATE = 3, 32, 0.05


class WaitingBandit(TaskVectorEnv):
    """See the module's docstring. Observation: 1 before a pull, 0 before the step that waits."""

    normalization_scale = None
    num_modes = 2

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        observations = gym.spaces.Box(0, 1, (1,), np.float32)
        super().__init__(num_tasks, rollouts_per_task, observations, gym.spaces.Discrete(2))
        self._arm = np.zeros(self.num_envs, int)
        self._waits = np.zeros(self.num_envs, bool)

    def step(self, actions: np.ndarray) -> StepResult:
        rewards = ((actions == self._arm) & ~self._waits).astype(np.float32)
        terminated = self._waits.copy()
        self._waits = ~self._waits
        return self._observe(), rewards, terminated, np.zeros(self.num_envs, bool), {}

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(int(arm), {"arm": int(arm)}) for arm in rng.permutation(np.arange(n) % 2)]

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        self._arm = np.repeat([task.values["arm"] for task in tasks], self.rollouts_per_task)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self._waits[lanes] = False

    def _observe(self) -> np.ndarray:
        return (~self._waits)[:, None].astype(np.float32)


class RecurrentBandit(TrialPPO):
    """See the module's docstring."""

    remembers: ClassVar[bool] = True

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        assert actions is Categorical
        self.config = config
        self.head = MLP("network.policy", (config.cell_size, action_size), "tanh")
        self.value = MLP("network.value", (config.cell_size, 1), "tanh")
        network = gru_shapes(GRU, observation_size + action_size + 2, config.cell_size)
        network |= self.head.shapes | self.value.shapes
        self.spec = ParamSpec(network | {MODEL: (action_size,)})
        self.trained, self.model = self.spec.slice_of("network"), self.spec.slice_of("model")
        self.meta_update = make_update(config, ParamSpec(network), inner_steps=0)
        self.optimizer = Adam(MODEL_RATE, action_size)
        length, trials = config.lane_length, config.meta_batch_size * config.rollouts_per_meta_task
        self.buffer = Buffer({"actions": (length, action_size), "rewards": (length,)}, BUFFERED_ITERATIONS * trials)

    def init(self, rng: np.random.Generator) -> Params:
        """Orthogonal recurrent weights; heads that at first say little."""
        params = init_with_gru(rng, self.spec.shapes, GRU)
        return params | {name: 0.1 * params[name] for name in (*self.head.shapes, *self.value.shapes)}

    # Acting and what is learned from.

    def actor(self, state: Params) -> Actor:
        def act(step: Step, carried: Tensor | None) -> tuple[Distribution, Tensor]:
            x = self.inputs(step)
            h = x.new_zeros(*x.shape[:2], self.config.cell_size) if carried is None or not self.remembers else carried
            h = gru_step(state, GRU, x, h)
            return Categorical(self.head(state, h)), h

        return act

    def states(self, meta: Params, data: Rollouts) -> Tensor:
        """The GRU's states after each step of the trials, [T, M, N, C]."""
        x = self.inputs(data.steps()).permute(2, 0, 1, 3)
        if self.remembers:
            return gru_states(meta, GRU, x)
        return torch.cat([gru_states(meta, GRU, step[None]) for step in x])

    def outputs(self, params: Params, data: Rollouts) -> tuple[Distribution, Tensor]:
        flat = self.states(params, data).permute(1, 2, 0, 3).flatten(1, 2)
        return Categorical(self.head(params, flat)), self.value(params, flat).squeeze(-1)

    def values(self, state: Params, rollouts: Rollouts) -> Tensor:
        """V of every step and of what follows the trial, whether or not that counts, [M, N, T+1]."""
        return self.values_of_steps(state, rollouts.going_on(rollouts.last_of_lane()))

    # On the master.

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        parameters, row = super().update(parameters, evaluate, iteration)
        model, error = self.updated_model(parameters[self.model], evaluate, iteration)
        return torch.cat([parameters[self.trained], model]), row | {"ModelError": error}

    def updated_model(self, rewards: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, float]:
        """A step on the mean of (r - r̂_a)² over trials of this iteration and earlier ones; and that mean."""
        (data,) = evaluate.rollouts()
        self.buffer.add({"actions": data.actions.flatten(0, 1), "rewards": data.rewards.flatten(0, 1)})
        drawn = self.buffer.draw(generator(self.config.seed, "buffer", iteration), DRAWN)
        error = drawn["rewards"] - drawn["actions"] @ rewards
        gradient = -2 * (error[..., None] * drawn["actions"]).mean((0, 1))
        return self.optimizer.step(rewards, gradient), float(error.square().mean())

    def state_dict(self) -> dict[str, Any]:
        own = {"optimizer": self.optimizer.state_dict(), "buffer": self.buffer.state_dict()}
        return {"update": super().state_dict()} | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state["update"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.buffer.load_state_dict(state["buffer"])


class Forgetful(RecurrentBandit):
    """The same without a memory: every step from a state of zeros."""

    remembers = False
