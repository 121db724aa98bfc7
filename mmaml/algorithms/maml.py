"""MAML: model-agnostic meta-learning (Finn, Abbeel, Levine 2017), and what every gradient-based algorithm shares.

    θ_0 = θ,  θ_{k+1} = θ_k - α_k ∘ ∇L_in(θ_k; D_k),  k < K              L_in: `losses.policy_gradient`
    J(θ) = mean over tasks of  L_out(θ_K; D_K)                            L_out: `losses.surrogate`
           + mean over k < K of η_k KL(π_old,k ‖ π_θ_k) + η_out KL(π_old,K ‖ π_θ_K) + what an algorithm adds

D_k is sampled once an iteration, π_old,k being the policy that sampled it. How the master minimises J is the
configuration's `meta_update` (`mmaml.updates.outer_step`): by trust region (MAML-TRPO, the default here, without KL
terms), one step of Adam (MAML-VPG), or epochs of Adam on the clipped L_out (as ProMP). With `first_order`, ∇L_in is a
constant of the differentiation. With `trainable_inner_step_size`, α is learned, a positive number for each adapted
parameter (Meta-SGD). An algorithm says what is adapted, how a policy comes of it, and L_in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.base import Algorithm
from mmaml.algorithms.networks import policy_of
from mmaml.algorithms.shared_keys import ONE_EPISODE
from mmaml.config.declaration import Declaration, Key
from mmaml.config.keys import Config
from mmaml.config.value_types import FLAG
from mmaml.policies.distributions import Distribution
from mmaml.policies.params import Params, ParamSpec, pull_back
from mmaml.policies.policy import MLPPolicy
from mmaml.sampling.acting import Actor, memoryless
from mmaml.sampling.rollouts import Rollouts
from mmaml.sampling.statistics import episode_statistics
from mmaml.updates import losses
from mmaml.updates.curvature import Curvature
from mmaml.updates.evaluate import Evaluate
from mmaml.updates.inner_step import AdaptDerivative, adapt
from mmaml.updates.objective import Objective, results_with_gradient
from mmaml.updates.outer_step import make_update

DECLARATION = Declaration(
    keys={
        "trainable_inner_step_size": Key(
            "Adaptation",
            False,
            FLAG,
            "meta-learn α, a positive number for every adapted parameter, from inner_lr on",
        )
    },
    conditions=[ONE_EPISODE],
    default_update="trpo",
)
STEP_SIZE = "step_size."


class TaskState(NamedTuple):
    """Of M tasks: what inner steps change, and what the policy needs beside it and they leave alone; [M, …].

    memory: what has been sampled so far and the policy reads; no gradient flows to it.
    """

    params: Params
    shared: Params = {}
    memory: Any = None


class AdaptedTasks(NamedTuple):
    """M tasks after all inner steps, as the meta-objective sees them.

    meta: the meta-parameters; rollouts: all K+1 collections; state: that of the last. before, new: π at the start of
    every inner step, on its collection, and after the last. vector: that of the question.
    """

    meta: Params
    rollouts: Sequence[Rollouts]
    state: TaskState
    before: Sequence[Distribution]
    new: Distribution
    vector: Tensor | None


class MAML(Algorithm):
    """See the module's docstring."""

    functions: ClassVar[tuple[str, ...]] = ("meta_gradient", "meta_loss", "fisher_product", "returns")
    always_learns_step_sizes: ClassVar[bool] = False  # in place of `trainable_inner_step_size`
    context_size: int = 0

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.config = config
        shapes = self.build_networks(config, observation_size, action_size, actions)
        learned = self.always_learns_step_sizes or config.trainable_inner_step_size
        self.step_sizes = self.adapted_shapes() if learned else {}
        steps = {STEP_SIZE + name: shape for name, shape in self.step_sizes.items()}
        separate = self.separate_names()
        self.spec = ParamSpec(shapes | steps, {*separate, *(STEP_SIZE + name for name in separate)})
        self.meta_update = make_update(config, self.spec, inner_steps=config.num_inner_grad_steps)

    # What is meta-learned, and what of it is adapted.

    policy: MLPPolicy

    def build_networks(
        self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]
    ) -> dict[str, tuple[int, ...]]:
        """Build the networks; names and shapes of their meta-parameters."""
        self.policy = policy_of(config, actions, observation_size, action_size, self.context_size)
        return self.policy.shapes

    def adapted_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what inner steps change."""
        return self.policy.shapes

    def separate_names(self) -> Collection[str]:
        """Names of meta-parameters on which no policy depends."""
        return ()

    def init(self, rng: np.random.Generator) -> Params:
        rate = float(np.log(self.config.inner_rate(0)))
        return self.init_networks(rng) | {
            STEP_SIZE + name: torch.full(shape, rate) for name, shape in self.step_sizes.items()
        }

    def init_networks(self, rng: np.random.Generator) -> Params:
        """Meta-parameters at the start, but the step sizes."""
        return self.policy.init(rng)

    # A task: how it begins, acts and adapts.

    def begin(self, meta: Params, identity: Tensor) -> TaskState:
        """Linear in the meta-parameters."""
        return TaskState({name: meta[name] for name in self.policy.shapes})

    def policy_params(self, state: TaskState) -> Params:
        """Parameters of the policy of M tasks in their current state."""
        return state.params

    def actor(self, state: TaskState) -> Actor:
        params = self.policy_params(state)
        return memoryless(lambda step: self.policy.distribution(params, step.observation))

    def distribution(self, state: TaskState, data: Rollouts) -> Distribution:
        """π of the tasks' current state at every step of `data`: over [M, N·T, A]."""
        return self.policy.distribution(self.policy_params(state), data.flat("observations"))

    def adapt(self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts]) -> TaskState:
        return self.inner_step(meta, state, rollouts, create_graph=False)[0]

    def inner_step(
        self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts], create_graph: bool
    ) -> tuple[TaskState, Distribution]:
        """One step on the last of `rollouts`; also π of the state before it, on those rollouts."""
        loss, rates = step_loss_of(self, state, rollouts[-1]), self.step_size(meta, len(rollouts) - 1)
        values, first_order = values_of(state), self.config.first_order
        params, before = adapt(loss, values, list(state.params), rates, create_graph, first_order)
        return state._replace(params=params), before

    def step_loss(self, state: TaskState, data: Rollouts, params: Params) -> tuple[Tensor, Distribution]:
        """L_in of the state with other adapted parameters, [M], and its π on `data`."""
        new = self.distribution(state._replace(params=params), data)
        return self.inner_loss(new, data), new

    def inner_loss(self, new: Distribution, data: Rollouts) -> Tensor:
        """L_in: [M]."""
        return losses.policy_gradient(new.log_prob(data.flat("actions")), data.flat("advantages"), data.flat("weights"))

    def step_size(self, meta: Params, step: int) -> float | Params:
        """α of an inner step; if it is learned, for every adapted parameter, exp of a meta-parameter."""
        rate = self.config.inner_rate(step)
        if not self.step_sizes:
            return rate
        relative = rate / self.config.inner_rate(0)
        return {name: relative * meta[STEP_SIZE + name].exp() for name in self.step_sizes}

    # The meta-objective on a block of tasks.

    def objective(
        self,
        meta: Params,
        rollouts: Sequence[Rollouts],
        vector: Tensor | None = None,
        clip: bool = False,
        clip_eps: float = 0.0,
        kl_coefficients: Sequence[float] = (),
        outer_kl_coefficient: float = 0.0,
        create_graph: bool = True,
    ) -> Objective[Tensor]:
        """J of M tasks and its parts.

        clip: whether L_out is clipped; the clip fraction is that of clip_eps in either case.
        """
        *collections, last = rollouts
        state = self.begin(meta, last.identity)
        before: list[Distribution] = []
        inner_kl: list[Tensor] = []
        for k, data in enumerate(collections):
            state, start = self.inner_step(meta, state, rollouts[: k + 1], create_graph)
            inner_kl.append(losses.mean_kl(start, data))
            before.append(start)
        new = self.distribution(state, last)
        ratio, weights = losses.likelihood_ratio(new, last), last.flat("weights")
        if clip:
            surrogate = losses.clipped_surrogate(ratio, last.flat("advantages"), weights, clip_eps)
        else:
            surrogate = losses.surrogate(ratio, last.flat("advantages"), weights)
        clip_fraction = losses.clip_fraction(ratio, weights, clip_eps)
        outer_kl = losses.mean_kl(new, last)
        loss = surrogate + outer_kl_coefficient * outer_kl
        for k, eta in enumerate(kl_coefficients):
            if eta:  # 0 times a gradient costs as much as any other
                loss = loss + eta / len(kl_coefficients) * inner_kl[k]
        added = self.additions(AdaptedTasks(meta, rollouts, state, before, new, vector))
        loss = sum(added.values(), start=loss)
        return Objective(loss, surrogate, torch.stack(inner_kl, 1), outer_kl, clip_fraction, added)

    def additions(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """What the algorithm adds to J, by name, [M] each."""
        return {}

    def meta_gradient(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        """∇J per task, "gradient" [M, P], with the parts of J."""
        meta = self.spec.per_task(parameters, rollouts[0].tasks)
        return results_with_gradient(self.objective(meta, rollouts, vector, **options), self.spec, meta)

    def meta_loss(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None, **options: Any
    ) -> dict[str, Tensor]:
        """The parts of J per task, without its gradient."""
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            return self.objective(meta, rollouts, vector, create_graph=False, **options).results()

    def fisher_product(self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor) -> dict[str, Tensor]:
        """F v per task, "product" [M, P]: `FisherProducts`."""
        return FisherProducts(self, parameters, rollouts)(vector)

    def prepared(self, function: str, parameters: Tensor, rollouts: Sequence[Rollouts]) -> FisherProducts | None:
        return FisherProducts(self, parameters, rollouts) if function == "fisher_product" else None

    def divergence(self, state: TaskState, data: Rollouts) -> Tensor:
        """What a trust region bounds, as a function that is 0 at the state: KL(π, held ‖ π of the state), [M]."""
        new = self.distribution(state, data)
        return losses.mean_kl(new, data, old=type(new)(*(value.detach() for value in new)))

    def step_derivative(self, meta: Params, state: TaskState, rollouts: Sequence[Rollouts]) -> StepDerivative:
        """The derivative of `inner_step`."""
        return StepDerivative(self, meta, state, rollouts)

    def returns(self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None) -> dict[str, Tensor]:
        """Mean return of the whole episodes of each collection, "return" [M, K+1], and how many: "episodes"."""
        statistics = [episode_statistics(data.to("cpu")) for data in rollouts]
        return {
            name: torch.from_numpy(np.stack([row[key] for row in statistics], axis=1))
            for name, key in (("return", "mean"), ("episodes", "episodes"))
        }

    # The master's side.

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        return self.meta_update(parameters, evaluate, iteration)

    def state_dict(self) -> dict[str, Any]:
        return self.meta_update.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_update.load_state_dict(state)


class StepDerivative:
    """Derivative of an algorithm's `inner_step` in meta-parameters and state, as a linear map and its transpose.

    Changes of a state are those of its `params` and `shared` together, by name.
    """

    def __init__(self, algorithm: MAML, meta: Params, state: TaskState, rollouts: Sequence[Rollouts]) -> None:
        loss = step_loss_of(algorithm, state, rollouts[-1])
        rates = algorithm.step_size(meta, len(rollouts) - 1)
        self._rates = {name: rate.detach() for name, rate in rates.items()} if isinstance(rates, dict) else {}
        self._adapt = AdaptDerivative(
            loss, values_of(state), list(state.params), self._rates or rates, algorithm.config.first_order
        )

    def tangent(self, direction: Params, change: Params) -> Params:
        """Change of the state after the step, as meta-parameters move in `direction` and the state by `change`."""
        step_size = {name: rate * direction[STEP_SIZE + name] for name, rate in self._rates.items()}
        return change | self._adapt.tangent(change, step_size)

    def transposed(self, cotangent: Params) -> tuple[Params, Params]:
        """What a cotangent of the state after the step is in meta-parameters, those it touches, and in the state."""
        values, step_size = self._adapt.transposed(cotangent)
        held = {name: value + cotangent[name] for name, value in values.items() if name not in step_size}
        return {STEP_SIZE + name: rate * step_size[name] for name, rate in self._rates.items()}, values | held


class FisherProducts:
    """F v per task for many v; F = (∂θ_K/∂θ)ᵀ F_K (∂θ_K/∂θ), F_K the Fisher matrix of π_θ_K on D_K.

    Where θ sampled the collections, this is the Hessian of KL(π_old,K ‖ π_θ_K) in θ, the gradient of the KL
    being 0 there (Schulman et al. 2015, appendix C). It is never indefinite. What does not depend on v (adapted
    parameters, activations, first derivatives) is computed once; a product propagates v forwards through the inner
    steps and back.
    """

    def __init__(self, algorithm: MAML, parameters: Tensor, rollouts: Sequence[Rollouts]) -> None:
        *collections, last = rollouts
        self._algorithm, self._identity = algorithm, last.identity
        self._meta = algorithm.spec.per_task(parameters, last.tasks)
        self._start = algorithm.begin(self._meta, last.identity)
        meta = {name: value.detach() for name, value in self._meta.items()}
        state = with_values(self._start, {name: value.detach() for name, value in values_of(self._start).items()})
        self._steps = []
        for k in range(len(collections)):
            self._steps.append(algorithm.step_derivative(meta, state, rollouts[: k + 1]))
            state, _ = algorithm.inner_step(meta, state, rollouts[: k + 1], create_graph=False)
        self._divergence = Curvature(
            lambda values: (algorithm.divergence(with_values(state, values), last), ()),
            values_of(state),
            at_minimum=True,
        )

    def __call__(self, vector: Tensor) -> dict[str, Tensor]:
        """ "product" [M, P]."""
        algorithm, spec = self._algorithm, self._algorithm.spec
        with torch.no_grad():
            direction = {name: value.expand_as(self._meta[name]) for name, value in spec.unflatten(vector).items()}
            change = values_of(algorithm.begin(direction, self._identity))
            for step in self._steps:
                change = step.tangent(direction, change)
            cotangent = self._divergence.product(change)
            in_meta: Params = {}
            for step in reversed(self._steps):
                touched, cotangent = step.transposed(cotangent)
                in_meta = in_meta | {name: in_meta.get(name, 0) + value for name, value in touched.items()}
        start = values_of(self._start)
        names = [name for name in start if start[name].requires_grad]
        found = pull_back(
            [start[name] for name in names],
            list(self._meta.values()),
            [cotangent[name] for name in names],
            retain_graph=True,
            materialize_grads=True,
        )
        pulled = dict(zip(self._meta, found, strict=True))
        pulled |= {name: pulled[name] + value for name, value in in_meta.items()}
        return {"product": spec.flatten_per_task(pulled)}


def step_loss_of(algorithm: MAML, state: TaskState, data: Rollouts) -> Callable[[Params], tuple[Tensor, Distribution]]:
    """The algorithm's `step_loss` as a function of the values of a state."""

    def loss(values: Params) -> tuple[Tensor, Distribution]:
        at = with_values(state, values)
        return algorithm.step_loss(at, data, at.params)

    return loss


def values_of(state: TaskState) -> Params:
    """The adapted and shared values."""
    return state.params | state.shared


def with_values(state: TaskState, values: Params) -> TaskState:
    """The state with other adapted and shared values."""
    return state._replace(
        params={name: values[name] for name in state.params}, shared={name: values[name] for name in state.shared}
    )
