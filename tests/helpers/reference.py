"""The meta-objective of one task as the papers write it: loops, `torch.distributions` and plain autograd, float64.

Of the package it uses the rollouts and the config as data, and the names of the parameters; no computation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from mmaml.config.keys import Config
from mmaml.policies.distributions import Gaussian
from mmaml.sampling.rollouts import Rollouts

Values = dict[str, Tensor]


class Film(NamedTuple):
    """γ and β per hidden layer, [1, H] each; no β without `use_betas`."""

    scales: list[Tensor]
    shifts: list[Tensor]


class Steps(NamedTuple):
    """The real steps of one collection of one task, [n, …], and the distribution that sampled them."""

    observations: Tensor
    actions: Tensor
    advantages: Tensor
    old: Normal


class Objective(NamedTuple):
    """J of one task, its parts, and its gradient by name."""

    loss: float
    kls: list[float]
    kl_outer: float
    clip_fraction: float
    gradient: Values


# The policy.


def activation(x: Tensor, config: Config) -> Tensor:
    """f of the hidden layers."""
    return torch.tanh(x) if config.hidden_nonlinearity == "tanh" else torch.relu(x)


def policy(theta: Values, film: Film | None, observations: Tensor, config: Config) -> Normal:
    """π(a|s): hidden layers f(γ ⊙ (W x + b) + β), a linear mean, a free log-std."""
    x = observations
    depth = len(config.hidden_sizes)
    for layer in range(depth):
        x = x @ theta[f"policy.{layer}.weight"] + theta[f"policy.{layer}.bias"]
        if film is not None:
            x = film.scales[layer] * x
            if film.shifts:
                x = x + film.shifts[layer]
        x = activation(x, config)
    mean = x @ theta[f"policy.{depth}.weight"] + theta[f"policy.{depth}.bias"]
    log_std = theta["policy.log_std"].clamp(min=math.log(1e-6))
    if not config.learn_std:
        log_std = log_std.detach()
    return Normal(mean, log_std.exp().expand_as(mean))


# The task encoder.


def whole_input(rollouts: Rollouts, task: int) -> list[Tensor]:
    """[o, a, r] of every step, one tensor [L, F] an episode, padding left out."""
    lanes, horizon = rollouts.rewards[task].shape
    found: list[list[Tensor]] = []
    for lane in range(lanes):
        for t in range(horizon):
            if rollouts.mask[task, lane, t] == 0:
                continue
            if rollouts.episode_start[task, lane, t]:
                found.append([])
            found[-1].append(step_input(rollouts, task, lane, t))
    return [torch.stack(steps) for steps in found]


def published_input(rollouts: Rollouts, task: int) -> list[Tensor]:
    """The task's first 5 N steps, lane after lane, in N pieces of 5, each after T - 5 steps of zeros."""
    lanes, horizon = rollouts.rewards[task].shape
    steps = [step_input(rollouts, task, lane, t) for lane in range(lanes) for t in range(horizon)]
    zeros = [torch.zeros_like(steps[0])] * (horizon - 5)
    return [torch.stack(zeros + steps[5 * piece : 5 * piece + 5]) for piece in range(lanes)]


def step_input(rollouts: Rollouts, task: int, lane: int, t: int) -> Tensor:
    """[o, a, r] of one step."""
    at = (task, lane, t)
    return torch.cat([rollouts.observations[at], rollouts.actions[at], rollouts.rewards[at].reshape(1)])


def gru(params: Values, inputs: Tensor) -> Tensor:
    """Last state [1, H] of a GRU that reads [L, F] from a zero state."""
    p = {name.removeprefix("encoder.gru."): value for name, value in params.items()}
    h = torch.zeros(1, p["candidate.bias"].shape[-1], dtype=inputs.dtype)
    for x in inputs:
        gates = torch.sigmoid(x @ p["gates.input"] + h @ p["gates.recurrent"] + p["gates.bias"])
        reset, update = gates.chunk(2, dim=-1)
        candidate = torch.tanh(x @ p["candidate.input"] + p["candidate.bias"] + reset * (h @ p["candidate.recurrent"]))
        h = (1 - update) * candidate + update * h
    return h


def two_layers(params: Values, name: str, x: Tensor) -> Tensor:
    """W_1 relu(W_0 x + b_0) + b_1."""
    hidden = torch.relu(x @ params[f"{name}.0.weight"] + params[f"{name}.0.bias"])
    return hidden @ params[f"{name}.1.weight"] + params[f"{name}.1.bias"]


def encode(params: Values, rollouts: Rollouts, task: int, config: Config) -> Film:
    """h_ω: GRU over each episode, mean over the episodes, linear map to γ and β."""
    episodes = {"full": whole_input, "published": published_input}[config.encoder_input](rollouts, task)
    states = [gru(params, episode) for episode in episodes]
    if config.mlp_after_gru:
        states = [two_layers(params, "encoder.after_gru", state) for state in states]
    embedding = sum(states[1:], start=states[0]) / len(states)
    if config.mlp_after_pool:
        embedding = two_layers(params, "encoder.after_pool", embedding)
    values = embedding @ params["encoder.modulation.weight"] + params["encoder.modulation.bias"]
    parts = list(values.split(list(config.hidden_sizes) * (2 if config.use_betas else 1), dim=-1))
    scales, shifts = parts[: len(config.hidden_sizes)], parts[len(config.hidden_sizes) :]
    return Film([1 + scale for scale in scales] if config.shift_gammas else scales, shifts)


# Adaptation and J.


def real_steps(rollouts: Rollouts, task: int) -> Steps:
    """One task of a collection without its padding."""
    real = rollouts.mask[task] > 0
    assert isinstance(rollouts.distribution, Gaussian)
    mean, log_std = (value[task] for value in rollouts.distribution)
    mean = mean[real]
    old = Normal(mean, log_std.reshape(1, -1).exp().expand_as(mean))
    return Steps(rollouts.observations[task][real], rollouts.actions[task][real], rollouts.advantages[task][real], old)


def ratio_of(new: Normal, steps: Steps) -> Tensor:
    """π_new(a|s) / π_old(a|s) of every step, [n]."""
    return (new.log_prob(steps.actions).sum(-1) - steps.old.log_prob(steps.actions).sum(-1)).exp()


def kl_of(new: Normal, steps: Steps) -> Tensor:
    """mean_t KL(π_old ‖ π_new)."""
    return kl_divergence(steps.old, new).sum(-1).mean()


def inner_step(theta: Values, film: Film | None, steps: Steps, config: Config) -> tuple[Values, Tensor]:
    """θ - α ∇(-mean r Â), and the KL before the step."""
    new = policy(theta, film, steps.observations, config)
    loss = -(ratio_of(new, steps) * steps.advantages).mean()
    gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True, materialize_grads=True)
    adapted = {
        name: value - config.inner_lr * gradient
        for (name, value), gradient in zip(theta.items(), gradients, strict=True)
    }
    return adapted, kl_of(new, steps)


def outer_surrogate(ratio: Tensor, advantages: Tensor, clip_eps: float, config: Config) -> Tensor:
    """-mean r Â, or of PPO's pessimistic minimum with the clipped ratio."""
    plain = ratio * advantages
    if not config.clip_outer:
        return -plain.mean()
    return -torch.min(plain, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages).mean()


def objective(
    params: Mapping[str, Tensor],
    rollouts: Sequence[Rollouts],
    task: int,
    config: Config,
    clip_eps: float,
    kl_coefficients: Sequence[float],
    outer_kl_coefficient: float,
) -> Objective:
    """J of one task at `params` (float64, by name), from its K+1 collections."""
    meta = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    theta = {name: value for name, value in meta.items() if name.startswith("policy.")}
    film, kls = None, []
    for collection in rollouts[:-1]:
        theta, kl = inner_step(theta, film, real_steps(collection, task), config)
        kls.append(kl)
        if config.algorithm == "mmaml":
            film = encode(meta, rollouts[0], task, config)
    last = real_steps(rollouts[-1], task)
    new = policy(theta, film, last.observations, config)
    ratio, kl_outer = ratio_of(new, last), kl_of(new, last)
    loss = outer_surrogate(ratio, last.advantages, clip_eps, config) + outer_kl_coefficient * kl_outer
    for eta, kl in zip(kl_coefficients, kls, strict=True):
        loss = loss + eta * kl / len(kls)
    gradients = torch.autograd.grad(loss, list(meta.values()), materialize_grads=True)
    outside = (ratio < 1 - clip_eps) | (ratio > 1 + clip_eps)
    return Objective(
        loss=loss.item(),
        kls=[kl.item() for kl in kls],
        kl_outer=kl_outer.item(),
        clip_fraction=outside.double().mean().item(),
        gradient=dict(zip(meta, gradients, strict=True)),
    )
