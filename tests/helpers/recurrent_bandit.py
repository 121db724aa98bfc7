"""A small recurrent algorithm, and a bandit whose best return over a trial is known: the contract, used.

`WaitingBandit`: of two arms one gives 1, the other nothing. An episode is a pull and then a step in which nothing
happens, so that what a pull gave is no longer seen when the next is made: it has to be remembered, over the end of an
episode. The best return over a trial of E episodes is E - 1/2, that without a memory E/2.

`RecurrentBandit`: RL² (Duan et al. 2016), a GRU with a value head trained by PPO over whole trials; and, with an
optimiser and a buffer of earlier trials of its own, a model of what an arm gives on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.base import Algorithm
from mmaml.config.declaration import Condition, Declaration, Key
from mmaml.config.keys import Config
from mmaml.config.value_types import integer, number
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.policies.distributions import Categorical, Distribution
from mmaml.policies.gru import gru_shapes, gru_states, gru_step, init_with_gru
from mmaml.policies.mlp import MLP
from mmaml.policies.params import Params, ParamSpec
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.advantages import advantages
from mmaml.sampling.rollouts import Rollouts
from mmaml.seeding import generator
from mmaml.updates import losses
from mmaml.updates.adam import Adam
from mmaml.updates.buffer import Buffer
from mmaml.updates.evaluate import Evaluate, Question, Results
from mmaml.updates.objective import Objective, results_with_gradient
from mmaml.updates.outer_step import make_update

MODULE = "tests.helpers.recurrent_bandit"
DECLARATION = Declaration(
    keys={
        "cell_size": Key("Memory", 16, integer(1), "units of the GRU"),
        "vf_loss_coeff": Key("Memory", 0.5, number(0), "weight of the value function's loss"),
        "entropy_coeff": Key("Memory", 0.01, number(0), "weight of the policy's entropy"),
    },
    conditions=[
        Condition("meta_update", lambda config: config.chosen_update != "trpo", '"ppo"', "has no trust region")
    ],
    without=[
        *("baseline", "normalize_adv", "positive_adv", "hidden_sizes", "hidden_nonlinearity", "learn_std"),
        *("inner_lr", "num_inner_grad_steps", "first_order"),
        *("init_inner_kl_penalty", "adaptive_inner_kl_penalty", "target_inner_step"),
    ],
    credit="trial",
    default_update="ppo",
)
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


class RecurrentBandit(Algorithm):
    """See the module's docstring. A task's state is the meta-parameters [M, …]: nothing is adapted."""

    functions = ("meta_gradient", "meta_loss", "moments")
    adds_over_lanes = functions
    remembers: ClassVar[bool] = True

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        assert actions is Categorical
        self.config = config
        self.head = MLP("network.policy", (config.cell_size, action_size), "tanh")
        self.value = MLP("network.value", (config.cell_size, 1), "tanh")
        network = gru_shapes(GRU, observation_size + action_size + 2, config.cell_size)
        network |= self.head.shapes | self.value.shapes
        self.spec = ParamSpec(network | {MODEL: (action_size,)})
        self.network, self.model = self.spec.slice_of("network"), self.spec.slice_of("model")
        self.meta_update = make_update(config, ParamSpec(network), inner_steps=0)
        self.optimizer = Adam(MODEL_RATE, action_size)
        length, trials = config.lane_length, config.meta_batch_size * config.rollouts_per_meta_task
        self.buffer = Buffer({"actions": (length, action_size), "rewards": (length,)}, BUFFERED_ITERATIONS * trials)

    def init(self, rng: np.random.Generator) -> Params:
        """Orthogonal recurrent weights; heads that at first say little."""
        params = init_with_gru(rng, self.spec.shapes, GRU)
        return params | {name: 0.1 * params[name] for name in (*self.head.shapes, *self.value.shapes)}

    # Acting and what is learned from.

    def begin(self, meta: Params, identity: Tensor) -> Params:
        return meta

    def inputs(self, step: Step) -> Tensor:
        """[o, a, r, start] of the step before, [M, N, …, F]."""
        marks = torch.stack([step.previous_reward, step.episode_start.to(step.observation.dtype)], -1)
        return torch.cat([step.observation, step.previous_action, marks], -1)

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

    def outputs(self, meta: Params, data: Rollouts) -> tuple[Distribution, Tensor]:
        """π and V of every step: over [M, N·T, A], and [M, N·T]."""
        flat = self.states(meta, data).permute(1, 2, 0, 3).flatten(1, 2)
        return Categorical(self.head(meta, flat)), self.value(meta, flat).squeeze(-1)

    def values(self, state: Params, rollouts: Rollouts) -> Tensor:
        longer = rollouts.going_on(rollouts.last_of_lane())
        return self.outputs(state, longer)[1].view(longer.rewards.shape)

    def advantages(self, state: Params, rollouts: Rollouts, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """By V, over the trial; normalised over the meta-batch, later (`moments`)."""
        config, values = self.config, self.values(state, rollouts)
        estimated = (config.baseline, config.discount, config.gae_lambda)
        return advantages(rollouts, *estimated, False, False, values.numpy(), rewards.numpy(), over_trial=True)

    # Functions of the parameters.

    def moments(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Of each task's advantages, before they are normalised: how many, their sum and that of their squares."""
        (data,) = rollouts
        real = torch.where(data.mask > 0, data.advantages, 0.0).double()
        sums = {"count": data.mask.double(), "sum": real, "squares": real.square()}
        return {name: torch.stack([task.sum() for task in value]) for name, value in sums.items()}

    def objective(
        self,
        meta: Params,
        data: Rollouts,
        mean: float,
        std: float,
        clip: bool = False,
        clip_eps: float = 0.0,
        kl_coefficients: Sequence[float] = (),
        outer_kl_coefficient: float = 0.0,
    ) -> Objective[Tensor]:
        """PPO's, with Â less the mean and over the std of the meta-batch."""
        new, values = self.outputs(meta, data)
        ratio, weights = losses.likelihood_ratio(new, data), data.flat("weights")
        scaled = (data.flat("advantages") - mean) / std
        surrogate = losses.clipped_surrogate(ratio, scaled, weights, clip_eps)
        kl = losses.mean_kl(new, data)
        added = {
            "value": self.config.vf_loss_coeff * losses.value_error(values, data),
            "entropy": -self.config.entropy_coeff * losses.mean_entropy(new, data),
        }
        loss = sum(added.values(), start=surrogate + outer_kl_coefficient * kl)
        none = loss.new_zeros(len(loss), 0)
        return Objective(loss, surrogate, none, kl, losses.clip_fraction(ratio, weights, clip_eps), added)

    def meta_gradient(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        meta = self.spec.per_task(parameters, rollouts[0].tasks)
        return results_with_gradient(self.objective(meta, rollouts[0], **options), self.spec, meta)

    def meta_loss(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            return self.objective(meta, rollouts[0], **options).results()

    # On the master.

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        sums = {name: value.sum() for name, value in evaluate(Question("moments", parameters)).items()}
        mean = float(sums["sum"] / sums["count"])
        std = float(np.sqrt(max(sums["squares"] / sums["count"] - mean**2, 0.0))) + 1e-8

        def of_network(question: Question) -> Results:
            """Answers about the network's parameters alone, with the moments of the meta-batch."""
            whole = parameters.clone()
            whole[self.network] = question.parameters
            options = {**question.options, "mean": mean, "std": std}
            results = evaluate(replace(question, parameters=whole, options=options))
            own = {"gradient": results["gradient"][:, self.network]} if "gradient" in results else {}
            return results | own

        network, row = self.meta_update(parameters[self.network], evaluate.through(of_network), iteration)
        model, error = self.updated_model(parameters[self.model], evaluate, iteration)
        return torch.cat([network, model]), row | {"ModelError": error}

    def updated_model(self, rewards: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, float]:
        """A step on the mean of (r - r̂_a)² over trials of this iteration and earlier ones; and that mean."""
        (data,) = evaluate.rollouts()
        self.buffer.add({"actions": data.actions.flatten(0, 1), "rewards": data.rewards.flatten(0, 1)})
        drawn = self.buffer.draw(generator(self.config.seed, "buffer", iteration), DRAWN)
        error = drawn["rewards"] - drawn["actions"] @ rewards
        gradient = -2 * (error[..., None] * drawn["actions"]).mean((0, 1))
        return self.optimizer.step(rewards, gradient), float(error.square().mean())

    def state_dict(self) -> dict[str, Any]:
        return {
            "update": self.meta_update.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "buffer": self.buffer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_update.load_state_dict(state["update"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.buffer.load_state_dict(state["buffer"])


class Forgetful(RecurrentBandit):
    """The same without a memory: every step from a state of zeros."""

    remembers = False
