"""The outer step, which minimises the meta-objective of a meta-batch: a trust region, or one or many steps of Adam.

Each asks for functions of the parameters (`mmaml.updates.evaluate`) and takes their mean over tasks, in task order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmaml.config.keys import Config
from mmaml.errors import NotFinite
from mmaml.policies.params import ParamSpec
from mmaml.seeding import generator
from mmaml.updates.adam import Adam
from mmaml.updates.evaluate import Evaluate, Question
from mmaml.updates.objective import Objective, objective_of

# Of conjugate gradients: what is left, ‖F x - g‖² / ‖g‖², when they end.
MIN_RESIDUAL = 1e-10
# How often an update beyond `max_outer_kl` is halved before it is left out.
MAX_HALVINGS = 10
Row = dict[str, float]
Parts = Objective[np.ndarray]


class MetaUpdate(ABC):
    """New meta-parameters from one meta-batch, and the state that outlives it; none unless a subclass has one.

    spec: of the parameters. inner_steps: K of the objective, 0 where there are none.
    """

    def __init__(self, config: Config, spec: ParamSpec, inner_steps: int) -> None:
        self.config, self.spec, self.inner_steps = config, spec, inner_steps

    @abstractmethod
    def __call__(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, Row]:
        """New parameters [P], and what to log of the update."""

    def state_dict(self) -> dict[str, Any]:
        """As `algorithms.base.Algorithm.state_dict`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Continue from what `state_dict` gave. Raises ValueError for the state of other parameters."""

    def row(self, losses_before: np.ndarray, after: Parts, gradients: Sequence[Tensor], options: dict[str, Any]) -> Row:
        """Columns of every update: losses and KL, the parts that an algorithm adds to its loss, gradient norms."""
        row = {
            "LossBefore": float(losses_before.mean()),
            "LossAfter": float(after.loss.mean()),
            **({"KLInner": float(np.mean(inner_kls(after)))} if self.inner_steps else {}),
            "KLOuter": float(after.outer_kl.mean()),
        }
        row |= {f"Loss-{name}": float(values.mean()) for name, values in after.added.items()}
        if self.config.log_grad_norm:
            norms = [gradient_norms(self.spec, gradient) for gradient in gradients]
            row |= {name: float(np.mean([one[name] for one in norms])) for name in norms[0]}
        return row


class PolicyGradient(MetaUpdate):
    """One step of Adam on the plain surrogate, whose gradient is the policy gradient where the tasks were sampled."""

    epochs = 1

    def __init__(self, config: Config, spec: ParamSpec, inner_steps: int) -> None:
        super().__init__(config, spec, inner_steps)
        self.optimizer = Adam(config.learning_rate, spec.total)

    def options(self, iteration: int) -> dict[str, Any]:
        """Arguments of the meta-objective in an iteration."""
        return {}

    def __call__(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, Row]:
        config, options = self.config, self.options(iteration)
        self.optimizer.learning_rate = config.outer_rate(iteration)
        first_losses, gradients, start = [], [], parameters
        for epoch in range(self.epochs):
            for tasks in self._minibatches(evaluate.tasks, iteration, epoch):
                result = evaluate(Question("meta_gradient", parameters, tasks=tasks, options=options))
                gradients.append(torch.from_numpy(result["gradient"].mean(0)))
                parameters = self.optimizer.step(parameters, bounded(gradients[-1], config.max_grad_norm))
                if epoch == 0:
                    first_losses.append(result["loss"])
        whole = objective_of(evaluate(Question("meta_loss", parameters, options=options)))
        parameters, after, fraction = self._limited(start, parameters, whole, evaluate, options)
        row = self.row(np.concatenate(first_losses), after, gradients, options)
        self.learn_from(whole)
        return parameters, row | ({} if config.max_outer_kl is None else {"LineSearchStep": fraction})

    def _limited(
        self, start: Tensor, end: Tensor, whole: Parts, evaluate: Evaluate, options: dict[str, Any]
    ) -> tuple[Tensor, Parts, float]:
        """Parameters between both that keep to `max_outer_kl`, the objective there, and the fraction of the update.

        whole: the objective at the end. The parameters are the first of θ + f Δ, f = 1, 1/2, 1/4, …, at which the mean
        of KL(π_old,K ‖ π_θ_K) is at most the limit; θ where there is none. A clipped ratio has no gradient that would
        bring it back, so that a few steps of Adam can end far away.
        """
        limit = self.config.max_outer_kl
        parameters, after, fraction = end, whole, 1.0
        shorter = iter([*(0.5**j for j in range(1, MAX_HALVINGS + 1)), 0.0])
        while limit is not None and fraction and not after.outer_kl.mean() <= limit:
            fraction = next(shorter)
            parameters = start + fraction * (end - start) if fraction else start
            after = objective_of(evaluate(Question("meta_loss", parameters, options=options)))
        return parameters, after, fraction

    def learn_from(self, whole: Parts) -> None:
        """Adapt what outlives the iteration, from the objective after the whole update, before it is limited."""

    def _minibatches(self, tasks: Sequence[int], iteration: int, epoch: int) -> list[list[int]]:
        """The tasks of each minibatch: each task is in one of them, and none is empty."""
        order, parts = np.array(tasks), min(self.config.num_minibatches, len(tasks))
        if parts > 1:
            order = generator(self.config.seed, "minibatches", iteration, epoch).permutation(order)
        return [sorted(part.tolist()) for part in np.array_split(order, parts)]

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class Proximal(PolicyGradient):
    """`num_promp_steps` epochs of Adam on the clipped surrogate with KL penalties (Rothfuss et al. 2018, alg. 1)."""

    def __init__(self, config: Config, spec: ParamSpec, inner_steps: int) -> None:
        super().__init__(config, spec, inner_steps)
        self.epochs = config.num_promp_steps
        self.kl_coefficients = [config.init_inner_kl_penalty] * inner_steps
        self.outer_kl_coefficient = config.init_outer_kl_penalty

    def options(self, iteration: int) -> dict[str, Any]:
        return {
            "clip_eps": self.config.clip_eps * self.config.anneal_factor**iteration,
            "clip": self.config.clip_outer,
            "kl_coefficients": self.kl_coefficients,
            "outer_kl_coefficient": self.outer_kl_coefficient,
        }

    def row(self, losses_before: np.ndarray, after: Parts, gradients: Sequence[Tensor], options: dict[str, Any]) -> Row:
        row = super().row(losses_before, after, gradients, options)
        row |= {
            "ClipFraction": float(after.clip_fraction.mean()),
            "ClipEps": options["clip_eps"],
            "KLCoeffOuter": self.outer_kl_coefficient,
        }
        return row | {f"KLCoeffInner_{k}": eta for k, eta in enumerate(self.kl_coefficients)}

    def learn_from(self, whole: Parts) -> None:
        """Adapt the KL coefficients, once an iteration."""
        config, kls, outer_kl = self.config, inner_kls(whole), float(whole.outer_kl.mean())
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
        return super().state_dict() | {
            "kl_coefficients": list(self.kl_coefficients),
            "outer_kl_coefficient": self.outer_kl_coefficient,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.kl_coefficients = list(state["kl_coefficients"])
        self.outer_kl_coefficient = state["outer_kl_coefficient"]


class TrustRegion(MetaUpdate):
    """The longest step against the natural gradient that keeps to a KL and lowers the loss (Schulman et al. 2015).

        s = F^-1 g by conjugate gradients,  x = -s sqrt(2 δ / sᵀ F s),  θ ← θ + β^j x

    g = ∇J, F the Fisher matrix of the adapted policies in θ (the algorithm's `fisher_product`, estimated from
    `fisher_rollouts` lanes of each task) plus `cg_damping`,
    δ = `max_kl`, β = `ls_backtrack_ratio`; j is the first of 0 … `ls_max_steps` - 1 at which J has fallen and the mean
    of KL(π_old,K ‖ π_θ_K) is at most δ. Where there is none, θ stays.

    Parameters on which no policy depends (`ParamSpec.separate`), a value function's, are a block of their own: F
    couples it to no other, and its part of s is scaled to the same δ by itself (Schulman et al. 2016, §5).
    """

    def __init__(self, config: Config, spec: ParamSpec, inner_steps: int) -> None:
        super().__init__(config, spec, inner_steps)
        blocks = spec.flatten(
            {name: torch.full(shape, int(name in spec.separate)) for name, shape in spec.shapes.items()}
        )
        self.blocks = blocks if blocks.any() else None

    def __call__(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, Row]:
        config = self.config
        result = evaluate(Question("meta_gradient", parameters))
        at_start, gradient = objective_of(result), torch.from_numpy(result["gradient"].mean(0))
        if not torch.isfinite(gradient).all():
            raise NotFinite("the mean of the tasks' meta-gradients is not finite")

        lanes = None if config.fisher_rollouts is None else range(config.fisher_rollouts)

        def fisher(vector: Tensor) -> Tensor:
            product = evaluate(Question("fisher_product", parameters, vector.float(), lanes=lanes))["product"]
            return torch.from_numpy(product.mean(0)).double() + config.cg_damping * vector

        natural, product = conjugate_gradients(fisher, gradient.double(), config.cg_iters, self.blocks)
        curvature = dot_of_blocks(natural, product, self.blocks)
        scale = torch.where(curvature > 0, (2 * config.max_kl / curvature).sqrt(), 0.0)
        longest = natural * of_block(scale, self.blocks)
        best, after, fraction = parameters, at_start, 0.0
        for j in range(config.ls_max_steps if longest.any() else 0):
            candidate = parameters - (config.ls_backtrack_ratio**j * longest).float()
            there = objective_of(evaluate(Question("meta_loss", candidate)))
            # A comparison with NaN is false, so that it is refused too.
            falls = -np.inf < there.loss.mean() < at_start.loss.mean()
            if falls and there.outer_kl.mean() <= config.max_kl:
                best, after, fraction = candidate, there, config.ls_backtrack_ratio**j
                break
        row = self.row(at_start.loss, after, [gradient], {})
        return best, row | {"LineSearchStep": fraction}


def gradient_norms(spec: ParamSpec, gradient: Tensor) -> Row:
    """Columns of the log: L2 norm of a gradient [P], and of its part of each network (policy, encoder)."""
    parts = spec.unflatten(gradient)
    norms = {"all": float(gradient.norm())}
    norms |= {
        network: float(torch.cat([parts[name].flatten() for name in names]).norm())
        for network, names in sorted(spec.networks().items())
    }
    return {f"GradNorm-{name}": norm for name, norm in norms.items()}


def bounded(gradient: Tensor, norm: float | None) -> Tensor:
    """The gradient [P], scaled down to `norm` where it is longer (Pascanu, Mikolov, Bengio 2013); None: as it is."""
    return gradient * shrinkage(gradient, norm)


def shrinkage(gradient: Tensor, norm: float | None) -> float:
    """What `bounded` multiplies a gradient by, at most 1."""
    length = float(gradient.norm())
    return 1.0 if norm is None or length <= norm else norm / length


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, iterations: int, blocks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x with A x ≈ b, for a positive definite A known by its products (Hestenes & Stiefel 1952), and A x.

    target: b [P], float64. blocks [P]: the diagonal block of A in which each entry is, from 0 on; then every product
    serves one iteration of each block, as if it were solved alone. One block when None.
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    squared = dot_of_blocks(residual, residual, blocks)
    enough = MIN_RESIDUAL * squared
    for _ in range(iterations):
        unsolved = squared > enough
        if not unsolved.any():
            break
        moved = product(direction)
        length = of_block(torch.where(unsolved, squared / dot_of_blocks(direction, moved, blocks), 0.0), blocks)
        x += length * direction
        residual -= length * moved
        last, squared = squared, dot_of_blocks(residual, residual, blocks)
        direction = residual + of_block(torch.where(unsolved, squared / last, 0.0), blocks) * direction
    return x, target - residual


def dot_of_blocks(a: Tensor, b: Tensor, blocks: Tensor | None) -> Tensor:
    """aᵀ b of the entries [P] of each block: [B], B = 1 when blocks is None."""
    if blocks is None:
        return (a @ b)[None]
    return torch.stack([a[blocks == block] @ b[blocks == block] for block in range(int(blocks.max()) + 1)])


def of_block(values: Tensor, blocks: Tensor | None) -> Tensor:
    """The value [B] of the block in which each entry is: [P], or a number when blocks is None."""
    return values[0] if blocks is None else values[blocks]


def adapted_coefficient(eta: float, kl: float, target: float) -> float:
    """η/2 if KL < target/1.5, 2η if KL > 1.5·target (Schulman et al. 2017, §4) or not a number."""
    if kl < target / 1.5:
        return eta / 2
    return eta if kl <= 1.5 * target else eta * 2


def inner_kls(parts: Parts) -> list[float]:
    """KL at each inner step, mean over tasks."""
    return [float(kl.mean()) for kl in np.ascontiguousarray(parts.inner_kl.T)]


UPDATES: dict[str, type[MetaUpdate]] = {"ppo": Proximal, "trpo": TrustRegion, "vpg": PolicyGradient}


def make_update(config: Config, spec: ParamSpec, inner_steps: int) -> MetaUpdate:
    """The update that `config.meta_update` names; "auto": the algorithm's default. inner_steps: K of the objective."""
    return UPDATES[config.chosen_update](config, spec, inner_steps)
