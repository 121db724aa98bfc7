"""ProMP: proximal meta-policy search (Rothfuss, Lee, Clavera, Asfour, Abbeel 2018).

    θ_0 = θ,  θ_{k+1} = θ_k - α ∘ ∇L_in(θ_k; D_k)                        L_in: `losses.surrogate`
    J(θ) = mean over tasks of  -mean[min(r Â, clip(r, 1±ε) Â)] on D_K at θ_K
           + mean over k < K of η_k KL(π_old,k ‖ π_θ_k) + η_out KL(π_old,K ‖ π_θ_K)

D_k is sampled once an iteration, π_old,k being the policy that sampled it; J is then descended for
`num_promp_steps` epochs of Adam, differentiating through every inner step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmaml import losses
from mmaml.algorithms.base import Algorithm, Evaluate
from mmaml.config import Config
from mmaml.inner import adapt
from mmaml.modulation import Modulation
from mmaml.params import Params, ParamSpec
from mmaml.policies.distributions import Distribution
from mmaml.policies.policy import make_policy
from mmaml.rollouts import Rollouts
from mmaml.sampling import Actor
from mmaml.seeding import generator


class TaskState(NamedTuple):
    """Adapted policy parameters [M, …], and the modulation they act under (none in ProMP)."""

    params: Params
    modulation: Modulation | None = None


class ProMP(Algorithm):
    """See the module's docstring. MMAML adds a modulation of the adapted policy."""

    functions: ClassVar[tuple[str, ...]] = ("meta_gradient", "meta_loss")

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.config = config
        self.collections = config.num_inner_grad_steps + 1
        self.policy = make_policy(
            actions, observation_size, action_size, config.hidden_sizes, config.hidden_nonlinearity, config.learn_std
        )
        self.spec = ParamSpec(self.shapes(observation_size, action_size))
        self.kl_coefficients = [config.init_inner_kl_penalty] * config.num_inner_grad_steps
        self.outer_kl_coefficient = config.init_outer_kl_penalty
        self._adam_values = torch.zeros(self.spec.total, requires_grad=True)
        self.optimizer = torch.optim.Adam([self._adam_values], lr=config.learning_rate)

    def shapes(self, observation_size: int, action_size: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the meta-parameters."""
        return self.policy.shapes

    def init(self, rng: np.random.Generator) -> Params:
        return self.policy.init(rng)

    # A task: how it begins, acts and adapts.

    def begin(self, meta: Params) -> TaskState:
        return TaskState({name: meta[name] for name in self.policy.shapes})

    def distribution(self, state: TaskState, observations: Tensor) -> Distribution:
        """π of the tasks' current state: [M, n, O] -> distribution of [M, n, A]."""
        return self.policy.distribution(self._modulated(state), observations)

    def actor(self, state: TaskState) -> Actor:
        params = self._modulated(state)
        return lambda step: self.policy.distribution(params, step.observation)

    def adapt(self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts]) -> TaskState:
        return self.inner_step(meta, state, rollouts, create_graph=False)[0]

    def inner_step(
        self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts], create_graph: bool
    ) -> tuple[TaskState, Distribution]:
        """One step on the last of `rollouts`; also π of the state before it, on those rollouts."""
        data = rollouts[-1]

        def loss(params: Params) -> tuple[Tensor, Distribution]:
            new = self.distribution(state._replace(params=params), data.flat("observations"))
            ratio = losses.likelihood_ratio(new, data)
            return losses.surrogate(ratio, data.flat("advantages"), data.flat("weights")), new

        params, before = adapt(loss, state.params, self.config.inner_lr, create_graph)
        return state._replace(params=params), before

    def _modulated(self, state: TaskState) -> Params:
        if state.modulation is None:
            return state.params
        return self.policy.modulated(state.params, *state.modulation)

    # The meta-objective on a block of tasks.

    def objective(
        self,
        meta: Params,
        rollouts: Sequence[Rollouts],
        clip_eps: float,
        kl_coefficients: Sequence[float],
        outer_kl_coefficient: float,
        create_graph: bool = True,
    ) -> dict[str, Tensor]:
        """J and its parts, per task: loss, surrogate, kl (mean over k), kl_k, kl_outer, clip_fraction: [M]."""
        *collections, last = rollouts
        state = self.begin(meta)
        parts: dict[str, Tensor] = {}
        for k, data in enumerate(collections):
            state, before = self.inner_step(meta, state, rollouts[: k + 1], create_graph)
            parts[f"kl_{k}"] = losses.mean_kl(before, data)
        new = self.distribution(state, last.flat("observations"))
        ratio, weights = losses.likelihood_ratio(new, last), last.flat("weights")
        if self.config.clip_outer:
            parts["surrogate"] = losses.clipped_surrogate(ratio, last.flat("advantages"), weights, clip_eps)
        else:
            parts["surrogate"] = losses.surrogate(ratio, last.flat("advantages"), weights)
        parts["kl_outer"] = losses.mean_kl(new, last)
        penalty = sum(eta * parts[f"kl_{k}"] for k, eta in enumerate(kl_coefficients)) / len(kl_coefficients)
        parts["loss"] = parts["surrogate"] + penalty + outer_kl_coefficient * parts["kl_outer"]
        parts["clip_fraction"] = losses.clip_fraction(ratio, weights, clip_eps)
        return parts

    def meta_gradient(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        """∇J per task, "gradient" [M, P], with the parts of J."""
        meta = self.spec.per_task(parameters, rollouts[0].tasks)
        parts = self.objective(meta, rollouts, **options)
        gradients = torch.autograd.grad(parts["loss"].sum(), list(meta.values()), materialize_grads=True)
        gradient = self.spec.flatten_per_task(dict(zip(meta, gradients, strict=True)))
        return {"gradient": gradient} | {name: value.detach() for name, value in parts.items()}

    def meta_loss(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        """The parts of J per task, without its gradient."""
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            return self.objective(meta, rollouts, create_graph=False, **options)

    # The master's side.

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        options: dict[str, Any] = {
            "clip_eps": config.clip_eps * config.anneal_factor**iteration,
            "kl_coefficients": self.kl_coefficients,
            "outer_kl_coefficient": self.outer_kl_coefficient,
        }
        self.optimizer.param_groups[0]["lr"] = config.learning_rate * config.learning_rate_anneal**iteration
        first_losses, gradient_norms = [], []
        for epoch in range(config.num_promp_steps):
            for tasks in self._minibatches(iteration, epoch):
                result = evaluate("meta_gradient", parameters, tasks=tasks, **options)
                gradient = torch.from_numpy(result["gradient"].mean(0))
                parameters = self._adam_step(parameters, gradient)
                if epoch == 0:
                    first_losses.append(result["loss"])
                gradient_norms.append(self._norms(gradient))
        after = evaluate("meta_loss", parameters, **options)
        kls = [float(after[f"kl_{k}"].mean()) for k in range(config.num_inner_grad_steps)]
        statistics: dict[str, float] = {
            "LossBefore": float(np.concatenate(first_losses).mean()),
            "LossAfter": float(after["loss"].mean()),
            "KLInner": float(np.mean(kls)),
            "KLOuter": float(after["kl_outer"].mean()),
            "ClipFraction": float(after["clip_fraction"].mean()),
            "ClipEps": options["clip_eps"],
            "KLCoeffOuter": self.outer_kl_coefficient,
        }
        statistics |= {f"KLCoeffInner_{k}": eta for k, eta in enumerate(self.kl_coefficients)}
        if config.log_grad_norm:
            for name in gradient_norms[0]:
                statistics[f"GradNorm-{name}"] = float(np.mean([norms[name] for norms in gradient_norms]))
        self._adapt_kl_coefficients(kls, statistics["KLOuter"])
        return parameters, statistics

    def _minibatches(self, iteration: int, epoch: int) -> list[list[int]]:
        """The tasks of each minibatch; all tasks are in one of them."""
        tasks, parts = self.config.meta_batch_size, self.config.num_minibatches
        order = np.arange(tasks)
        if parts > 1:
            order = generator(self.config.seed, "minibatches", iteration, epoch).permutation(tasks)
        return [sorted(part.tolist()) for part in np.array_split(order, parts)]

    def _adam_step(self, parameters: Tensor, gradient: Tensor) -> Tensor:
        with torch.no_grad():
            self._adam_values.copy_(parameters)
        self._adam_values.grad = gradient
        self.optimizer.step()
        return self._adam_values.detach().clone()

    def _norms(self, gradient: Tensor) -> dict[str, float]:
        """L2 norm of the gradient: the whole, and of each part (policy, encoder)."""
        parts = self.spec.unflatten(gradient)
        groups = {name.split(".")[0] for name in parts}
        norms = {
            group: float(torch.cat([v.flatten() for n, v in parts.items() if n.split(".")[0] == group]).norm())
            for group in sorted(groups)
        }
        return {"all": float(gradient.norm())} | norms

    def _adapt_kl_coefficients(self, kls: Sequence[float], outer_kl: float) -> None:
        """Once an iteration, from the KL after the last epoch."""
        config = self.config
        if config.adaptive_inner_kl_penalty:
            self.kl_coefficients = [
                adapted_coefficient(eta, kl, config.target_inner_step)
                for eta, kl in zip(self.kl_coefficients, kls, strict=True)
            ]
        if config.adaptive_outer_kl_penalty:
            self.outer_kl_coefficient = adapted_coefficient(
                self.outer_kl_coefficient, outer_kl, config.target_outer_step
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "kl_coefficients": list(self.kl_coefficients),
            "outer_kl_coefficient": self.outer_kl_coefficient,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.kl_coefficients = list(state["kl_coefficients"])
        self.outer_kl_coefficient = state["outer_kl_coefficient"]


def adapted_coefficient(eta: float, kl: float, target: float) -> float:
    """η/2 if KL < target/1.5, 2η if KL > 1.5·target (Schulman et al. 2017, §4)."""
    if kl < target / 1.5:
        return eta / 2
    if kl > 1.5 * target:
        return eta * 2
    return eta
