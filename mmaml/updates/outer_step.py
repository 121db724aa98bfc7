"""How the master descends the meta-objective of a meta-batch: by trust region, or by Adam, in one step or many.

Each asks the ranks for functions of the parameters (`algorithms.base.Evaluate`) and takes their mean over tasks, in
task order.
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
from mmaml.updates.evaluate import Evaluate

# Of conjugate gradients: what is left, ‖F x - g‖² / ‖g‖², when they end.
SMALLEST_RESIDUAL = 1e-10
Row = dict[str, float]
Parts = dict[str, np.ndarray]


class MetaUpdate(ABC):
    """New meta-parameters from one meta-batch, and the state that outlives it; none unless a subclass has one."""

    def __init__(self, config: Config, spec: ParamSpec) -> None:
        self.config, self.spec = config, spec

    @abstractmethod
    def __call__(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, Row]:
        """New parameters [P], and what to log of the update."""

    def state_dict(self) -> dict[str, Any]:
        """As `algorithms.base.Algorithm.state_dict`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Continue from what `state_dict` gave."""

    def row(self, losses_before: np.ndarray, after: Parts, gradients: Sequence[Tensor], options: dict[str, Any]) -> Row:
        """Columns of every update: losses and KL, the parts that an algorithm adds to its loss, gradient norms."""
        row = {
            "LossBefore": float(losses_before.mean()),
            "LossAfter": float(after["loss"].mean()),
            "KLInner": float(np.mean(inner_kls(after))),
            "KLOuter": float(after["kl_outer"].mean()),
        }
        row |= {f"Loss-{name[6:]}": float(v.mean()) for name, v in after.items() if name.startswith("added_")}
        if self.config.log_grad_norm:
            norms = [self._norms(gradient) for gradient in gradients]
            row |= {f"GradNorm-{name}": float(np.mean([one[name] for one in norms])) for name in norms[0]}
        return row

    def _norms(self, gradient: Tensor) -> Row:
        """L2 norm of the gradient: the whole, and of each part (policy, encoder)."""
        parts = self.spec.unflatten(gradient)
        groups = {name.split(".")[0] for name in parts}
        norms = {
            group: float(torch.cat([v.flatten() for n, v in parts.items() if n.split(".")[0] == group]).norm())
            for group in sorted(groups)
        }
        return {"all": float(gradient.norm())} | norms


class PolicyGradient(MetaUpdate):
    """One step of Adam on the plain surrogate, whose gradient is the policy gradient where the tasks were sampled."""

    epochs = 1

    def __init__(self, config: Config, spec: ParamSpec) -> None:
        super().__init__(config, spec)
        self.optimizer = Adam(config.learning_rate)

    def options(self, iteration: int) -> dict[str, Any]:
        """Arguments of the meta-objective in an iteration."""
        return {}

    def __call__(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, Row]:
        config, options = self.config, self.options(iteration)
        self.optimizer.learning_rate = config.learning_rate * config.learning_rate_anneal**iteration
        first_losses, gradients = [], []
        for epoch in range(self.epochs):
            for tasks in self._minibatches(evaluate.tasks, iteration, epoch):
                result = evaluate("meta_gradient", parameters, tasks=tasks, **options)
                gradients.append(torch.from_numpy(result["gradient"].mean(0)))
                parameters = self.optimizer.step(parameters, gradients[-1])
                if epoch == 0:
                    first_losses.append(result["loss"])
        after = evaluate("meta_loss", parameters, **options)
        return parameters, self.row(np.concatenate(first_losses), after, gradients, options)

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

    def __init__(self, config: Config, spec: ParamSpec) -> None:
        super().__init__(config, spec)
        self.epochs = config.num_promp_steps
        self.kl_coefficients = [config.init_inner_kl_penalty] * config.num_inner_grad_steps
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
            "ClipFraction": float(after["clip_fraction"].mean()),
            "ClipEps": options["clip_eps"],
            "KLCoeffOuter": self.outer_kl_coefficient,
        }
        row |= {f"KLCoeffInner_{k}": eta for k, eta in enumerate(self.kl_coefficients)}
        self._adapt_kl_coefficients(inner_kls(after), row["KLOuter"])
        return row

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

    g = ∇J, F the Fisher matrix of the adapted policies in θ (the algorithm's `fisher_product`) plus `cg_damping`,
    δ = `max_kl`, β = `ls_backtrack_ratio`; j is the first of 0 … `ls_max_steps` - 1 at which J has fallen and the mean
    of KL(π_old,K ‖ π_θ_K) is at most δ. Where there is none, θ stays.

    A value function and its step sizes, on which no policy depends, are a block of their own: F couples it to no
    other, and its part of s is scaled to the same δ by itself (Schulman et al. 2016, §5).
    """

    def __init__(self, config: Config, spec: ParamSpec) -> None:
        super().__init__(config, spec)
        of_values = {name: torch.full(shape, int(".value." in f".{name}")) for name, shape in spec.shapes.items()}
        blocks = spec.flatten(of_values)
        self.blocks = blocks if blocks.any() else None

    def __call__(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, Row]:
        config = self.config
        at_start = evaluate("meta_gradient", parameters)
        gradient = torch.from_numpy(at_start["gradient"].mean(0))
        if not torch.isfinite(gradient).all():
            raise NotFinite("the mean of the tasks' meta-gradients is not finite")

        def fisher(vector: Tensor) -> Tensor:
            product = evaluate("fisher_product", parameters, vector=vector.float())["product"].mean(0)
            return torch.from_numpy(product).double() + config.cg_damping * vector

        natural, product = conjugate_gradients(fisher, gradient.double(), config.cg_iters, self.blocks)
        curvature = dot_of_blocks(natural, product, self.blocks)
        scale = torch.where(curvature > 0, (2 * config.max_kl / curvature).sqrt(), 0.0)
        longest = natural * of_block(scale, self.blocks)
        best, after, fraction = parameters, at_start, 0.0
        for j in range(config.ls_max_steps if longest.any() else 0):
            candidate = parameters - (config.ls_backtrack_ratio**j * longest).float()
            result = evaluate("meta_loss", candidate)
            # A comparison with NaN is false, so that it is refused too.
            falls = -np.inf < result["loss"].mean() < at_start["loss"].mean()
            if falls and result["kl_outer"].mean() <= config.max_kl:
                best, after, fraction = candidate, result, config.ls_backtrack_ratio**j
                break
        row = self.row(at_start["loss"], after, [gradient], {})
        return best, row | {"LineSearchStep": fraction}


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
    enough = SMALLEST_RESIDUAL * squared
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
    """η/2 if KL < target/1.5, 2η if KL > 1.5·target (Schulman et al. 2017, §4)."""
    if kl < target / 1.5:
        return eta / 2
    if kl > 1.5 * target:
        return eta * 2
    return eta


def inner_kls(parts: Parts) -> list[float]:
    """KL at each inner step, mean over tasks."""
    names = [name for name in parts if name.startswith("kl_") and name != "kl_outer"]
    return [float(parts[name].mean()) for name in sorted(names, key=lambda name: int(name[3:]))]


UPDATES: dict[str, type[MetaUpdate]] = {"ppo": Proximal, "trpo": TrustRegion, "vpg": PolicyGradient}


def make_update(config: Config, spec: ParamSpec) -> MetaUpdate:
    """The update that `config.meta_update` names; "auto": the algorithm's default."""
    return UPDATES[config.chosen_update](config, spec)
