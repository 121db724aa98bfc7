"""PPO over whole trials, for policies that adapt by remembering (Duan et al. 2016; Wang et al. 2016).

    x_t = [o_t, a_{t-1}, r_{t-1}, d_t]                d: an episode begins; at a trial's start a = r = 0, d = 1
    f_t = memory(x_0 … x_t),  π(·|f_t),  V(f_t)       f: features; the memory lasts over the episodes of the trial
    Â_t = Σ_k (γλ)^k δ_{t+k},  δ_t = r_t + γ V_{t+1} - V_t      over the whole trial; V^target = V + Â
    J(θ) = mean over tasks of  -mean[min(ρ Â, clip(ρ, 1±ε) Â)] + c_V mean[ (V - V^target)² ] - c_H mean[ H(π) ]
           + η_out KL(π_old ‖ π)                                 `losses.clipped_surrogate`, `.value_error`
    c_V = vf_loss_coeff, c_H = entropy_coeff · entropy_anneal^iteration

What is maximised is the discounted return of a trial, E episodes of one task: rewards of later episodes are credited to
what was found out in earlier ones. After the trial V is 0, unless the horizon cut off an episode that would have gone
on. Â is normalised over the meta-batch. J is minimised by epochs of Adam over minibatches of tasks with whole trials,
through which the gradient flows from the last step to the first.

An algorithm says what the memory is: `build_memory`, `step` and `unroll`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.base import Algorithm
from mmaml.config.keys import Config
from mmaml.policies.distributions import Distribution
from mmaml.policies.linear_heads import LinearHeads
from mmaml.policies.params import Params, ParamSpec
from mmaml.policies.readout import Readout
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.advantages import MIN_STD
from mmaml.sampling.chunks import CPU_CHUNK_STEPS
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses
from mmaml.updates.evaluate import Evaluate, Question, Results
from mmaml.updates.objective import Objective, results_with_gradient
from mmaml.updates.outer_step import MetaUpdate, make_update


class TrialPPO(Algorithm):
    """PPO over whole trials of a policy, whatever it remembers by. A task's state is the meta-parameters [M, …].

    Its declaration extends `mmaml.algorithms.shared_keys.TRIAL`.

    trained: where the parameters that PPO trains lie among all. meta_update: what changes them.
    """

    functions: ClassVar[tuple[str, ...]] = ("meta_gradient", "meta_loss", "moments")
    adds_over_lanes: ClassVar[tuple[str, ...]] = functions
    trained: slice
    meta_update: MetaUpdate

    def begin(self, meta: Params, identity: Tensor) -> Params:
        return meta

    def inputs(self, step: Step) -> Tensor:
        """x = [o, a, r, d] of some steps, [M, N, …, O+A+2]."""
        reward, start = step.previous_reward[..., None], step.episode_start[..., None].to(step.observation.dtype)
        return torch.cat([step.observation, step.previous_action, reward, start], -1)

    # What is learned from.

    @abstractmethod
    def outputs(self, params: Params, data: Rollouts) -> tuple[Distribution, Tensor]:
        """π and V at every step of the trials: over [M, N·T, A], and [M, N·T]; differentiable in what PPO trains."""

    def values(self, state: Params, rollouts: Rollouts) -> Tensor:
        """V of every step and of what follows the trial, [M, N, T+1]; there 0, unless the horizon cut an episode."""
        if rollouts.followed is not None:
            return self.values_of_steps(state, rollouts.going_on(rollouts.last_of_lane()))
        values = self.values_of_steps(state, rollouts)
        return torch.cat([values, torch.zeros_like(values[..., :1])], -1)

    def values_of_steps(self, state: Params, rollouts: Rollouts) -> Tensor:
        """V of every step, [M, N, T]; of some tasks at a time, which bounds the memory."""
        size = max(1, CPU_CHUNK_STEPS // rollouts.rewards[0].numel())
        parts = []
        for first in range(0, rollouts.tasks, size):
            chunk = slice(first, first + size)
            own = {name: value[chunk] for name, value in state.items()}
            parts.append(self.outputs(own, rollouts.select(chunk))[1])
        return torch.cat(parts).view(rollouts.rewards.shape)

    # Functions of the parameters.

    def moments(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Of each task's advantages: how many there are, their sum and that of their squares; float64, [M] each."""
        (data,) = rollouts
        real = torch.where(data.mask > 0, data.advantages, 0.0).double()
        sums = {"count": data.mask.double(), "sum": real, "squares": real.square()}
        return {name: torch.stack([task.sum() for task in value]) for name, value in sums.items()}

    def objective(
        self,
        meta: Params,
        data: Rollouts,
        mean: float = 0.0,
        std: float = 1.0,
        clip: bool = False,
        clip_eps: float = 0.0,
        kl_coefficients: Sequence[float] = (),
        outer_kl_coefficient: float = 0.0,
        entropy_scale: float = 1.0,
    ) -> Objective[Tensor]:
        """J of M tasks and its parts.

        mean, std: by which the advantages are normalised. clip: as `MAML.objective`. entropy_scale: c_H divided by
        `entropy_coeff`.
        """
        new, values = self.outputs(meta, data)
        ratio, weights = losses.likelihood_ratio(new, data), data.flat("weights")
        scaled = (data.flat("advantages") - mean) / std
        if clip:
            surrogate = losses.clipped_surrogate(ratio, scaled, weights, clip_eps)
        else:
            surrogate = losses.surrogate(ratio, scaled, weights)
        kl = losses.mean_kl(new, data)
        added = {
            "value": self.config.vf_loss_coeff * losses.value_error(values, data),
            "entropy": -self.config.entropy_coeff * entropy_scale * losses.mean_entropy(new, data),
        }
        loss = sum(added.values(), start=surrogate)
        if outer_kl_coefficient:  # 0 times a gradient costs as much as any other
            loss = loss + outer_kl_coefficient * kl
        none = loss.new_zeros(len(loss), 0)
        return Objective(loss, surrogate, none, kl, losses.clip_fraction(ratio, weights, clip_eps), added)

    def meta_gradient(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        """∇J per task, "gradient" [M, P], with the parts of J."""
        meta = self.spec.per_task(parameters, rollouts[0].tasks)
        return results_with_gradient(self.objective(meta, rollouts[0], **options), self.spec, meta)

    def meta_loss(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        """The parts of J per task, without its gradient."""
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            return self.objective(meta, rollouts[0], **options).results()

    # On the master.

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        mean, std = self.normalisation(parameters, evaluate)
        shared = {"mean": mean, "std": std, "entropy_scale": self.config.entropy_anneal**iteration}

        def of_trained(question: Question) -> Results:
            """Answers about the parameters that are trained alone, with what the iteration gives all of them."""
            whole = parameters.clone()
            whole[self.trained] = question.parameters
            options = {**question.options, **shared}
            results = evaluate(replace(question, parameters=whole, options=options))
            own = {"gradient": results["gradient"][:, self.trained]} if "gradient" in results else {}
            return results | own

        whole = parameters.clone()
        trained = parameters[self.trained]
        whole[self.trained], logged = self.meta_update(trained, evaluate.through(of_trained), iteration)
        return whole, logged

    def normalisation(self, parameters: Tensor, evaluate: Evaluate) -> tuple[float, float]:
        """Mean and standard deviation of the meta-batch's advantages; 0 and 1 without `normalize_adv`."""
        if not self.config.normalize_adv:
            return 0.0, 1.0
        sums = {name: value.sum() for name, value in evaluate(Question("moments", parameters)).items()}
        mean = float(sums["sum"] / sums["count"])
        return mean, float(np.sqrt(max(sums["squares"] / sums["count"] - mean**2, 0.0))) + MIN_STD

    def state_dict(self) -> dict[str, Any]:
        return self.meta_update.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_update.load_state_dict(state)


class RecurrentPPO(TrialPPO):
    """PPO over whole trials of a policy with a recurrent memory, which PPO trains with it.

    Its declaration extends `mmaml.algorithms.shared_keys.RECURRENT`.
    """

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.config = config
        inputs = observation_size + action_size + 2
        memory, features = self.build_memory(config, inputs)
        self.readout = Readout(features, inputs, config.readout_size)
        self.heads = LinearHeads(actions, self.readout.size, action_size, config.learn_std)
        self.spec = ParamSpec(memory | self.readout.shapes | self.heads.shapes)
        self.trained = slice(0, self.spec.total)
        self.meta_update = make_update(config, self.spec, inner_steps=0)

    # The memory: what an algorithm says.

    @abstractmethod
    def build_memory(self, config: Config, inputs: int) -> tuple[dict[str, tuple[int, ...]], int]:
        """Build the network of the memory; names and shapes of its parameters, and C, the size of its features.

        inputs: F, the size of x. Names begin with "memory.".
        """

    @abstractmethod
    def init_memory(self, rng: np.random.Generator) -> Params:
        """Parameters of the memory at the start of training."""

    @abstractmethod
    def step(self, params: Params, x: Tensor, carried: Any) -> tuple[Tensor, Any]:
        """Features [M, N, C] after one step, from its input x [M, N, F], and what is to be carried on; no gradient.

        carried: what the step before returned, None at the first step of a trial.
        """

    @abstractmethod
    def unroll(self, params: Params, x: Tensor) -> Tensor:
        """Features after every step of whole trials: [T, M, N, F] -> [T, M, N, C], those of `step`; differentiable."""

    # Acting.

    def init(self, rng: np.random.Generator) -> Params:
        return self.init_memory(rng) | self.readout.init(rng) | self.heads.init(rng)

    def actor(self, state: Params) -> Actor:
        state = self.heads.prepared(state)

        def act(step: Step, carried: Any) -> tuple[Distribution, Any]:
            x = self.inputs(step)
            if x.shape[1] > 1:
                features, carried = self.step(state, x, carried)
                return self.heads.acting(state, self.readout.of_step(state, features, x)), carried
            x = at_least_two_lanes(x)
            features, carried = self.step(state, x, at_least_two_lanes(carried))
            policy = self.heads.acting(state, self.readout.of_step(state, features, x))
            return first_lane(policy), first_lane(carried)

        return act

    def outputs(self, params: Params, data: Rollouts) -> tuple[Distribution, Tensor]:
        """π and V at every step of the trials: over [M, N·T, A], and [M, N·T]."""
        x = self.inputs(data.steps())
        by_step = at_least_two_lanes(x).permute(2, 0, 1, 3).contiguous()
        features = self.readout.of_steps(params, self.unroll(params, by_step), by_step)
        return self.heads.of_steps(params, features, x.shape[1])


class MemoryNetwork(Protocol):
    """Sizes of a network that looks back over the steps of a trial; its parameters are passed to every call."""

    def init(self, rng: np.random.Generator) -> Params:
        """Its parameters at the start of training."""

    def start(self, x: Tensor) -> tuple[Any, ...]:
        """What lanes carry before the first step, as plain tensors."""

    def step(self, params: Params, x: Tensor, carried: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """As `RecurrentPPO.step`, with what `start` or the step before returned."""

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        """As `RecurrentPPO.unroll`."""


class NetworkPPO(RecurrentPPO):
    """PPO of a policy whose memory is the trial so far, or its last steps, over which a network looks back.

    network: made by `build_memory`.
    """

    network: MemoryNetwork

    def init_memory(self, rng: np.random.Generator) -> Params:
        return self.network.init(rng)

    def step(self, params: Params, x: Tensor, carried: Any) -> tuple[Tensor, Any]:
        features, after = self.network.step(params, x, self.network.start(x) if carried is None else carried)
        return features, tuple(after)

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        return self.network.unroll(params, x)


def at_least_two_lanes(memory: Any) -> Any:
    """A lone lane as two that are alike, of tensors [M, 1, …], in tuples or not; more lanes, and None, as they are.

    The bits of a product with a lone row depend on where in memory it lies.
    """
    if isinstance(memory, tuple):
        return tuple(map(at_least_two_lanes, memory))
    return torch.cat([memory, memory], 1) if memory is not None and memory.shape[1] == 1 else memory


def first_lane(memory: Any) -> Any:
    """The first lane of what `at_least_two_lanes` may hold; of a distribution too, which is a tuple."""
    if isinstance(memory, tuple):
        parts = map(first_lane, memory)
        return type(memory)(*parts) if hasattr(memory, "_fields") else tuple(parts)
    return None if memory is None else memory[:, :1]
