"""MGRL: actor-critic that learns the γ and λ of its own returns by gradient (Xu, van Hasselt, Silver 2018).

    G_t = r_t + γ [(1 - λ) V_{t+1} + λ G_{t+1}]                                       η = (γ, λ), `lambda_returns`
    θ' = θ - α ∘ g(τ, θ, η),   g = ∇( -mean[ (G - V) log π ] + ½ c_V mean[ (V - G)² ] - c_H mean[ H(π) ] )
    L'(τ', θ') = -mean[ (G' - V') log π_θ' ],   G' and V' of fixed γ', λ'
    dL'/dη = ∇L'(τ', θ') · z,   z ← μ z - α ∘ ∂g/∂η,   ∂g/∂η = ∇( -mean[ ∂G/∂η (log π + c_V V) ] )

G is a constant in g, and so are γ and λ where networks read them. No second derivative is needed: η only changes with
which weight each step's ∇ log π and ∇V count. The trace z stands for dθ/dη; with μ = 0 it holds the last update alone.

An iteration collects one batch, which serves twice: as τ' for the update of the iteration before, whose trace is kept,
and as τ for the next. One question gives all gradients; then η ← Adam(dL'/dη) and θ ← θ - α ∘ g, with the g of the γ
and λ that sampled. With "adam", α ∘ is its step sizes, held: learning_rate / (√v̂ + ε).

η is a logistic function of the meta-parameters u: γ = low + (high - low) σ(u) within `discount_range`, λ = σ(u). With
`outer_value` V' is a value function of its own, trained with γ' and λ' (Bonnet, Midgley, Laterre 2022); without it V'
is V, which is trained for a smaller γ and may make the outer loss favour a small γ. There is no inner step: an
iteration is one update for all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.base import Algorithm
from mmaml.algorithms.networks import ValueFunction, policy_of
from mmaml.algorithms.shared_keys import ENTROPY_COEFF, INNER_STEP_KEYS, ONE_EPISODE, VF_LOSS_COEFF
from mmaml.config.declaration import Condition, Declaration, Key
from mmaml.config.keys import COMMON_KEYS, Config
from mmaml.config.value_types import FLAG, Kind, choice, number
from mmaml.policies.batch_invariant import weighted_sum
from mmaml.policies.distributions import Distribution
from mmaml.policies.params import Params, ParamSpec
from mmaml.sampling.acting import Actor, memoryless
from mmaml.sampling.advantages import after_truncations, backward_sums
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses
from mmaml.updates.adam import Adam
from mmaml.updates.evaluate import Evaluate, Question
from mmaml.updates.outer_step import gradient_norms, shrinkage

GROUP = "Learned returns"
SHARE = number(0, 1)
# The only keys of a meta-update that the update of MGRL reads.
OUTER_STEP_KEYS = ("learning_rate", "learning_rate_anneal", "max_grad_norm")
RANGE = Kind(
    "a list of two numbers from 0 to 1, the first below the second",
    lambda v: isinstance(v, list | tuple) and len(v) == 2 and all(map(SHARE.accepts, v)) and v[0] < v[1],
    lambda v: tuple(map(float, v)),
)


def _learns(config: Config) -> bool:
    return config.meta_discount or config.meta_lambda


DECLARATION = Declaration(
    keys={
        "meta_discount": Key(GROUP, True, FLAG, "learn γ, from discount on"),
        "meta_lambda": Key(GROUP, False, FLAG, "learn λ, from gae_lambda on"),
        "meta_learning_rate": Key(
            GROUP, 0.01, number(0), "β, step size of the Adam that changes γ and λ", has_effect=_learns
        ),
        "discount_range": Key(
            GROUP,
            (0.9, 1.0),
            RANGE,
            "bounds of a learned γ, which it never reaches",
            has_effect=lambda config: config.meta_discount,
        ),
        "outer_discount": Key(
            GROUP, 1.0, SHARE, "γ' of the objective by which γ and λ are learned", has_effect=_learns
        ),
        "outer_lambda": Key(GROUP, 1.0, SHARE, "λ' of that objective", has_effect=_learns),
        "outer_value": Key(
            GROUP,
            True,
            FLAG,
            "a value function of its own for that objective, trained with γ' and λ'; false: that of γ and λ",
            has_effect=_learns,
        ),
        "trace_decay": Key(
            GROUP,
            0.0,
            SHARE,
            "μ, how much of what earlier updates owe to γ and λ the meta-gradient counts; 0: the last alone",
            has_effect=_learns,
        ),
        "condition_on_returns": Key(
            GROUP,
            False,
            FLAG,
            "what is learned of γ and λ is an input of policy and value function",
            has_effect=_learns,
        ),
        "optimizer": Key(GROUP, "adam", choice("adam", "sgd"), "how policy and value function are updated"),
        "vf_loss_coeff": VF_LOSS_COEFF,
        "entropy_coeff": ENTROPY_COEFF,
    },
    conditions=[
        ONE_EPISODE,
        Condition(
            "discount",
            lambda config: (
                not config.meta_discount or config.discount_range[0] < config.discount < config.discount_range[1]
            ),
            "a number inside discount_range",
            "learns γ from there on",
            'change discount_range, or set "meta_discount": false',
        ),
        Condition(
            "gae_lambda",
            lambda config: not config.meta_lambda or 0 < config.gae_lambda < 1,
            "a number > 0 and < 1",
            "learns λ from there on",
            'or set "meta_lambda": false',
        ),
    ],
    without=[
        *("normalize_rewards", "baseline", "normalize_adv", "positive_adv"),
        *INNER_STEP_KEYS,
        "meta_update",
        *(name for name, key in COMMON_KEYS.items() if key.updates and name not in OUTER_STEP_KEYS),
    ],
    inner_steps=False,
)
DISCOUNT, LAMBDA = "discount", "lambda"
RETURNS = "returns."
# Bound of |u|. There the logistic function's derivative is 1/3000; beyond, gradients are so small that Adam's ε would
# keep u from ever coming back.
MAX_U = 8.0


class Returns(NamedTuple):
    """λ-returns of every step, [M, N, T], and their derivatives in γ and λ, V being held; float64."""

    returns: np.ndarray
    by_discount: np.ndarray
    by_lambda: np.ndarray


def lambda_returns(
    rewards: np.ndarray,
    values: np.ndarray,
    done: np.ndarray,
    after: np.ndarray,
    discount: float,
    gae_lambda: float,
) -> Returns:
    """G_t = r_t + γ [(1 - λ) V_{t+1} + λ G_{t+1}], G_T = V_T; at the end of an episode r_t + γ V^after_t.

    ∂G_t/∂γ = (1 - λ) V_{t+1} + λ G_{t+1} + γ λ ∂G_{t+1}/∂γ; at the end of an episode V^after_t
    ∂G_t/∂λ = γ (G_{t+1} - V_{t+1}) + γ λ ∂G_{t+1}/∂λ; there 0
    rewards [M, N, T]: 0 on padding. done [M, N, T]: where episodes end. values [M, N, T+1]: V of every step and of what
    follows the last. after [M, N, T]: what counts after the end of an episode, 0 after a termination.
    """
    decay = discount * gae_lambda
    values, following = values[..., :-1], np.where(done, after, values[..., 1:])
    deltas = rewards + discount * following - values
    returns = values + backward_sums(deltas, decay, done)
    later = np.where(done, after, np.concatenate([returns[..., 1:], following[..., -1:]], axis=-1))
    mixed, ahead = (1 - gae_lambda) * following + gae_lambda * later, discount * (later - following)
    return Returns(returns, backward_sums(mixed, decay, done), backward_sums(ahead, decay, done))


class Discounting(NamedTuple):
    """η: γ and λ."""

    discount: float
    gae_lambda: float


class Agent(NamedTuple):
    """M equal agents: networks that read o alone, [M, …], and the γ and λ by which they learn."""

    networks: Params
    discounting: Discounting


class MGRL(Algorithm):
    """See the module's docstring."""

    functions: ClassVar[tuple[str, ...]] = ("gradients",)
    adds_over_lanes = functions

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.config = config
        self.learned_names = [
            name for name, learns in ((DISCOUNT, config.meta_discount), (LAMBDA, config.meta_lambda)) if learns
        ]
        context_size = len(self.learned_names) if config.condition_on_returns else 0
        self.policy = policy_of(config, actions, observation_size, action_size, context_size)
        self.value = ValueFunction("value", config, observation_size, context_size)
        self.outer_value = self.value
        networks = self.policy.shapes | self.value.shapes
        if self.learned_names and config.outer_value:
            self.outer_value = ValueFunction("outer_value", config, observation_size)
            networks |= self.outer_value.shapes
        self.networks = ParamSpec(networks)
        self.spec = ParamSpec(networks | {RETURNS + name: (1,) for name in self.learned_names})
        self.optimizer = Adam(config.learning_rate, self.networks.total) if config.optimizer == "adam" else None
        self.meta_optimizer = Adam(config.meta_learning_rate, len(self.learned_names))
        self.traces: dict[str, Tensor] = {}  # z, [P] of the networks, by what is learned; none before the first update

    def init(self, rng: np.random.Generator) -> Params:
        """Networks as `MLP.init`; γ and λ as the configuration gives them."""
        params = self.policy.init(rng) | self.value.init(rng)
        if self.outer_value is not self.value:
            params |= self.outer_value.init(rng)
        start = {DISCOUNT: self.config.discount, LAMBDA: self.config.gae_lambda}
        for name in self.learned_names:
            low, high = self.bounds(name)
            params[RETURNS + name] = torch.tensor([math.log((start[name] - low) / (high - start[name]))])
        return params

    # What is learned of the returns.

    def bounds(self, name: str) -> tuple[float, float]:
        """Between which numbers γ or λ is."""
        return self.config.discount_range if name == DISCOUNT else (0.0, 1.0)

    def learned_value(self, name: str, u: float) -> tuple[float, float]:
        """γ or λ of its meta-parameter, and its derivative in it."""
        (low, high), share = self.bounds(name), (1 + math.tanh(u / 2)) / 2  # logistic, without overflow
        return low + (high - low) * share, (high - low) * share * (1 - share)

    def discounting(self, meta: Params) -> Discounting:
        """η of meta-parameters [M, …], which are the same for all tasks, or of one set, […]."""
        found = {DISCOUNT: self.config.discount, LAMBDA: self.config.gae_lambda}
        for name in self.learned_names:
            found[name] = self.learned_value(name, float(meta[RETURNS + name].detach().flatten()[0]))[0]
        return Discounting(found[DISCOUNT], found[LAMBDA])

    # Acting and what is learned from.

    def begin(self, meta: Params, identity: Tensor) -> Agent:
        discounting = self.discounting(meta)
        networks = {name: meta[name] for name in self.networks.shapes}
        if self.learned_names and self.config.condition_on_returns:
            read = dict(zip((DISCOUNT, LAMBDA), discounting, strict=True))
            context = networks["policy.0.bias"].new_tensor([read[name] for name in self.learned_names])
            context = context.expand(len(identity), 1, -1).contiguous()
            networks = self.value.conditioned(self.policy.conditioned(networks, context), context)
        return Agent(networks, discounting)

    def actor(self, state: Agent) -> Actor:
        return memoryless(lambda step: self.policy.distribution(state.networks, step.observation))

    def policy_params(self, state: Agent) -> Params:
        return {name: state.networks[name] for name in self.policy.shapes}

    def distribution(self, state: Agent, data: Rollouts) -> Distribution:
        """π at every step of `data`: over [M, N·T, A]."""
        return self.policy.distribution(state.networks, data.flat("observations"))

    def values(self, state: Agent, rollouts: Rollouts) -> Tensor:
        return self.value.of_lanes(state.networks, rollouts)

    def advantages(self, state: Agent, rollouts: Rollouts, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """0: `gradients` finds its returns itself."""
        return torch.zeros_like(rollouts.rewards), torch.zeros_like(rollouts.rewards)

    def values_after(self, state: Agent, rollouts: Rollouts) -> Tensor | None:
        """V and V' of what followed truncated steps, [M, N, T, 2]; 0 elsewhere, and where it counts for nothing."""
        if rollouts.followed is None:
            return None
        after = [
            after_truncations(rollouts, partial(value.of_lanes, state.networks))
            if discount < 1
            else torch.zeros_like(rollouts.rewards)
            for value, discount in (
                (self.value, state.discounting.discount),
                (self.outer_value, self.config.outer_discount),
            )
        ]
        return torch.stack(after, -1) * rollouts.mask[..., None]

    # Functions of the parameters.

    def gradients(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Per task, [M, P]: g, "gradient"; ∂g/∂γ and ∂g/∂λ, "by_discount" and "by_lambda", of those that are learned;
        ∇L', "outer", if any is. The parts of the loss, [M], by their names.
        """
        (data,) = rollouts
        meta = self.spec.per_task(parameters, data.tasks)
        agent = self.begin(meta, data.identity)
        new, weights = self.distribution(agent, data), data.flat("weights")
        log_probs, values = new.log_prob(data.flat("actions")), self.values(agent, data)
        after, outer_after = held_values_after(data)
        found = returns_of(data, values, after, agent.discounting)
        returns = _tensor(found.returns, values)

        def policy_loss(returns: Tensor, values: Tensor) -> Tensor:
            advantages = (returns - values[..., :-1]).detach()
            return losses.policy_gradient(log_probs, advantages.flatten(1), weights)

        parts = {
            "policy": policy_loss(returns, values),
            "value": self._value_loss(values, returns, weights),
            "entropy": -self.config.entropy_coeff * losses.mean_entropy(new, data),
        }
        results: dict[str, Tensor] = {}
        if self.learned_names:
            outer_values = self.outer_value.of_lanes(agent.networks, data)
            outer = Discounting(self.config.outer_discount, self.config.outer_lambda)
            outer_returns = _tensor(returns_of(data, outer_values, outer_after, outer).returns, values)
            if self.config.outer_value:
                parts["outer_value"] = self._value_loss(outer_values, outer_returns, weights)
            scores = log_probs + self.config.vf_loss_coeff * values[..., :-1].flatten(1)
            wanted = {"outer": policy_loss(outer_returns, outer_values)}
            for name, derivative in ((DISCOUNT, found.by_discount), (LAMBDA, found.by_lambda)):
                if name in self.learned_names:
                    wanted[f"by_{name}"] = losses.policy_gradient(
                        scores, _tensor(derivative, values).flatten(1), weights
                    )
            for name, loss in wanted.items():
                results[name] = self.spec.gradient_per_task(loss.sum(), meta, keeps_graph=True)
        results["gradient"] = self.spec.gradient_per_task(torch.stack(list(parts.values())).sum(), meta)
        return results | {name: part.detach() for name, part in parts.items()}

    def _value_loss(self, values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
        """½ c_V mean[ (V - G)² ]: [M]. values [M, N, T+1], returns [M, N, T], data."""
        errors = (values[..., :-1] - returns).flatten(1)
        return 0.5 * self.config.vf_loss_coeff * weighted_sum(errors.square(), weights)

    # On the master.

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        results = evaluate(Question("gradients", parameters))
        mean = {name: torch.from_numpy(np.asarray(value.mean(0))) for name, value in results.items()}
        size = self.networks.total
        gradient = mean["gradient"][:size]
        row = dict(zip(("Discount", "Lambda"), self.discounting(self.spec.unflatten(parameters)), strict=True))
        row |= {f"Loss-{name}": float(value) for name, value in mean.items() if value.dim() == 0}
        if self.config.log_grad_norm:
            row |= gradient_norms(self.networks, gradient)
        u = parameters[size:]
        u, found = self._meta_step(u, mean["outer"][:size]) if self.traces else (u, self._meta_columns())
        row |= found
        shrunk = shrinkage(gradient, self.config.max_grad_norm)
        networks, rates = self._stepped(parameters[:size], gradient * shrunk, iteration)
        before, mu = self.traces, self.config.trace_decay
        self.traces = {name: -shrunk * rates * mean[f"by_{name}"][:size] for name in self.learned_names}
        if before:
            self.traces = {name: mu * before[name] + trace for name, trace in self.traces.items()}
        return torch.cat([networks, u]), row

    def _meta_step(self, u: Tensor, outer: Tensor) -> tuple[Tensor, dict[str, float]]:
        """New u, one for each of γ and λ that is learned, and what to log. outer: ∇L', [P].

        "MetaGradient": -dL'/dη, above 0 where γ or λ should rise. "MetaCosine": how well -∇L' and z agree.
        """
        gradient, row = torch.zeros_like(u), self._meta_columns()
        for index, name in enumerate(self.learned_names):
            q, z = -outer.double(), self.traces[name].double()
            gain = float(q @ z)
            gradient[index] = -gain * self.learned_value(name, float(u[index]))[1]
            row[f"MetaGradient-{name}"] = gain
            row[f"MetaCosine-{name}"] = gain / max(float(q.norm() * z.norm()), 1e-300)
        most = u.abs().clamp(min=MAX_U)
        return self.meta_optimizer.step(u, gradient).clamp(-most, most), row

    def _meta_columns(self) -> dict[str, float]:
        return {f"Meta{what}-{name}": math.nan for name in self.learned_names for what in ("Gradient", "Cosine")}

    def _stepped(self, networks: Tensor, gradient: Tensor, iteration: int) -> tuple[Tensor, Tensor | float]:
        """θ - α ∘ g, and α: a number or, of Adam, [P]."""
        rate = self.config.outer_rate(iteration)
        if self.optimizer is None:
            return networks - rate * gradient, rate
        self.optimizer.learning_rate = rate
        stepped = self.optimizer.step(networks, gradient)
        return stepped, self.optimizer.step_sizes()

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": {} if self.optimizer is None else self.optimizer.state_dict(),
            "meta_optimizer": self.meta_optimizer.state_dict(),
            "traces": dict(self.traces),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        traces = state["traces"]
        if traces and traces.keys() != set(self.learned_names):
            raise ValueError(f"traces: expected those of {self.learned_names}, got {[*traces]}")
        for name, trace in traces.items():
            if trace.shape != (self.networks.total,) or not trace.isfinite().all():
                raise ValueError(f"traces.{name}: expected a finite tensor [{self.networks.total}]")
        self.traces = dict(traces)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])


def held_values_after(data: Rollouts) -> tuple[Tensor, Tensor]:
    """V and V' of what followed truncated steps, [M, N, T] each, as `MGRL.values_after` gave them; else 0."""
    if data.values_after is None:
        return torch.zeros_like(data.rewards), torch.zeros_like(data.rewards)
    after, outer_after = data.values_after.unbind(-1)
    return after, outer_after


def returns_of(data: Rollouts, values: Tensor, after: Tensor, discounting: Discounting) -> Returns:
    """λ-returns of rollouts. values [M, N, T+1], held; after [M, N, T], as in `lambda_returns`."""
    rewards = torch.where(data.mask > 0, data.rewards, 0.0).double().cpu().numpy()
    done = (data.terminated | data.truncated).cpu().numpy()
    held, ends = (value.detach().double().cpu().numpy() for value in (values, after))
    return lambda_returns(rewards, held, done, ends, *discounting)


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, like.dtype)
