"""VariBAD: variational Bayes-adaptive deep RL (Zintgraf et al. 2020, arXiv 1910.08348).

    b_t = [μ_t, log σ²_t]                             encoded from the first t steps, `mmaml.policies.belief`
    π(·|o_t, b_t), V(o_t, b_t)                        trained by PPO over whole trials, `mmaml.algorithms.recurrent`,
                                                      in which b_t is data
    ELBO_t = E_{m ~ N(μ_t, σ²_t)} [ Σ_k log p(r_k | m, step k) ] - w KL( N(μ_t, σ²_t) ‖ N(μ_{t-1}, σ²_{t-1}) )
    L(encoder, decoder) = mean over trials of  -Σ_{t=0…T} ELBO_t,        N(μ_{-1}, σ²_{-1}) = N(0, I)

The belief after any number t of steps has to predict the rewards of all steps k of the trial, also of later ones: so it
describes the task, and how uncertain it still is. L is minimised by an Adam of its own, in `vae_updates` steps an
iteration, each on `vae_batch_size` trials from a buffer of the newest. PPO trains policy and value function alone: its
gradient does not flow through b.

log p is -(r - r̂)² ("gaussian"), or the log-probability of whether the reward is positive ("bernoulli"). Where the last
step of an episode led is unknown if another episode of the trial follows: the next observation is the first of that
one. d says so to the encoder, and a decoder that reads the next observation leaves such steps out.

With `vae_normalize_rewards`, encoder and decoder read (r - mean) / std, clipped to ±10, in place of r, so that all
inputs have similar scales (LeCun et al. 1998, "Efficient BackProp", §4.3). mean and std, over the
rewards in the buffer, are parameters that no optimiser changes. Each iteration sets them anew before its steps of
encoder and decoder, and the next one acts with them.

With `vae_prefixes` or `vae_decoded_steps`, only that many t or k are drawn for each trial, without replacement, and
their sum is scaled up, so that L is the same on average. The published code does not scale it, and adds up its
KL over the trials of a batch; its weight of the KL corresponds to another w (docs/algorithms/varibad.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmaml.algorithms.networks import policy_of
from mmaml.algorithms.recurrent import TrialPPO, at_least_two_lanes
from mmaml.algorithms.shared_keys import CELL_SIZE, TRIAL
from mmaml.config.declaration import Condition, Key
from mmaml.config.keys import Config
from mmaml.config.value_types import FLAG, SIZES, choice, integer, number, optional
from mmaml.fault_points import reached
from mmaml.policies.belief import BeliefEncoder, RewardDecoder, draw, kl_of_beliefs
from mmaml.policies.distributions import Distribution
from mmaml.policies.mlp import MLP
from mmaml.policies.params import Params, ParamSpec
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.normalisation import MAX_NORMALISED, Moments, Scaling, moments_of, scaling_size
from mmaml.sampling.rollouts import Rollouts
from mmaml.seeding import generator
from mmaml.updates.adam import Adam
from mmaml.updates.buffer import Buffer
from mmaml.updates.evaluate import Evaluate
from mmaml.updates.outer_step import bounded, make_update


def _buffer_numbers(config: Config) -> int:
    """Two observations, an action, the reward and two flags of each step; twice, as a run holds a copy of the buffer,
    to which it returns from an update that fails.
    """
    assert config.env_spec is not None
    of_step = 2 * config.env_spec.observation_size + config.env_spec.action_size + 3
    return 2 * config.vae_buffer_size * config.lane_length * of_step


def _decoded_numbers(config: Config) -> int:
    """Outputs of the decoder's hidden layers, for each pair of a belief and a step of each trial of a batch."""
    beliefs, steps = config.lane_length + 1, config.lane_length
    beliefs, steps = min(config.vae_prefixes or beliefs, beliefs), min(config.vae_decoded_steps or steps, steps)
    return config.vae_batch_size * beliefs * steps * sum(config.decoder_hidden_sizes)


def _reads_little(config: Config) -> str:
    if config.max_path_length > 1 or config.episodes_per_trial == 1 or config.decoder_reads == "observation_action":
        return ""
    return (
        f'decoder_reads "{config.decoder_reads}" with max_path_length 1: only the last reward of a trial is decoded, '
        'since what follows the last step of an earlier episode is not observed; with "observation_action" all are'
    )


def _more_than_held(config: Config) -> str:
    if config.vae_batch_size <= config.vae_buffer_size:
        return ""
    return (
        f"vae_batch_size {config.vae_batch_size} with vae_buffer_size {config.vae_buffer_size}: a step of encoder and "
        "decoder takes no more trials than the buffer holds"
    )


DECLARATION = TRIAL.extended(
    keys={
        "cell_size": CELL_SIZE,
        "belief_size": Key("Belief", 5, integer(1), "L, entries of the latent vector of which a belief is held"),
        "encoder_hidden_sizes": Key("Belief", (32,), SIZES, "units of the encoder's layers before its GRU"),
        "decoder_hidden_sizes": Key("Belief", (64, 32), SIZES, "units of the reward decoder's hidden layers"),
        "decoder_reads": Key(
            "Belief",
            "next_observation",
            choice("next_observation", "observation_action", "transition"),
            "what the decoder reads of a step beside the latent vector: where it led to, what was done, or both",
        ),
        "reward_likelihood": Key(
            "Belief",
            "gaussian",
            choice("gaussian", "bernoulli"),
            'what is decoded: "gaussian", the reward; "bernoulli", whether it is positive',
        ),
        "vae_normalize_rewards": Key(
            "Belief",
            False,
            FLAG,
            "encoder and decoder read rewards with mean 0 and standard deviation 1 over the buffer, clipped to ±10",
        ),
        "kl_weight": Key("Belief", 1.0, number(0), "w, weight of the KL between successive beliefs"),
        "vae_learning_rate": Key(
            "Belief",
            1e-3,
            number(0, open_low=True),
            "Adam's step size for encoder and decoder, times learning_rate_anneal^iteration",
        ),
        "vae_max_grad_norm": Key(
            "Belief",
            None,
            optional(number(0, open_low=True)),
            "largest norm of the encoder's gradient, and of the decoder's; a longer one is scaled down; null: no limit",
        ),
        "vae_updates": Key("Belief", 3, integer(0), "steps of encoder and decoder an iteration"),
        "vae_batch_size": Key("Belief", 25, integer(1), "trials of the buffer in such a step"),
        "vae_buffer_size": Key("Belief", 1000, integer(1), "trials that the buffer holds, the newest"),
        "vae_prefixes": Key("Belief", None, optional(integer(1)), "how many t of ELBO_t are drawn; null: all"),
        "vae_decoded_steps": Key("Belief", None, optional(integer(1)), "how many k of an ELBO_t are drawn; null: all"),
    },
    conditions=[
        Condition(
            "vae_normalize_rewards",
            lambda config: not config.vae_normalize_rewards or config.reward_likelihood == "gaussian",
            expected="false",
            reason='decodes with reward_likelihood "bernoulli" whether a reward is positive',
        ),
    ],
    weights={"cell_size": lambda config: 3 * config.cell_size**2},
    kept={"vae_buffer_size": _buffer_numbers},
    computed={("vae_batch_size", "vae_prefixes", "vae_decoded_steps"): _decoded_numbers},
    notices=[_reads_little, _more_than_held],
    embeds=True,
    reads_rewards=lambda config: not config.vae_normalize_rewards,
)
READ = {
    "next_observation": ("next_observations",),
    "observation_action": ("observations", "actions"),
    "transition": ("observations", "actions", "next_observations"),
}
Trials = dict[str, Tensor]
REWARD_MEAN, REWARD_STD = "rewards.mean", "rewards.std"
SAMPLES = 64  # latent vectors that stand for a belief in pictures


class VariBAD(TrialPPO):
    """See the module's docstring."""

    functions: ClassVar[tuple[str, ...]] = (*TrialPPO.functions, "embed")

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.config = config
        seen = observation_size + 2 * config.belief_size
        self.policy = policy_of(config, actions, seen, action_size)
        self.value = MLP("value", (seen, *config.hidden_sizes, 1), config.hidden_nonlinearity)
        inputs = observation_size + action_size + 2
        self.encoder = BeliefEncoder(
            "encoder", inputs, config.encoder_hidden_sizes, config.cell_size, config.belief_size
        )
        widths = {"observations": observation_size, "actions": action_size, "next_observations": observation_size}
        self.read = READ[config.decoder_reads]
        read = sum(widths[name] for name in self.read)
        self.decoder = RewardDecoder("decoder", config.belief_size, read, config.decoder_hidden_sizes)

        acting = ParamSpec(self.policy.shapes | self.value.shapes)
        self.variational = ParamSpec(self.encoder.shapes | self.decoder.shapes)
        scales = {REWARD_MEAN: (1, 1), REWARD_STD: (1, 1)} if config.vae_normalize_rewards else {}
        self.spec = ParamSpec(acting.shapes | self.variational.shapes | scales)
        self.trained = slice(0, acting.total)
        self.encoded = slice(acting.total, acting.total + self.variational.total)
        self.scales = slice(self.encoded.stop, self.spec.total)
        self.meta_update = make_update(config, acting, inner_steps=0)
        self.optimizer = Adam(config.vae_learning_rate, self.variational.total)
        length = config.lane_length
        entries: dict[str, tuple[int, ...]] = {name: (length, width) for name, width in widths.items()}
        entries |= dict.fromkeys(("rewards", "mask", "resets"), (length,))
        if config.normalize_observations:
            entries["scaling"] = (scaling_size(observation_size),)
        self.buffer = Buffer(entries, config.vae_buffer_size)

    def init(self, rng: np.random.Generator) -> Params:
        acting = self.policy.init(rng) | self.value.init(rng)
        variational = self.encoder.init(rng, self.config.lane_length) | self.decoder.init(rng)
        if not self.config.vae_normalize_rewards:
            return acting | variational
        return acting | variational | {REWARD_MEAN: torch.zeros(1, 1), REWARD_STD: torch.ones(1, 1)}

    # What encoder and decoder read.

    def read_rewards(self, params: Params, rewards: Tensor) -> Tensor:
        """Rewards [M, N, …] as encoder and decoder read them."""
        if not self.config.vae_normalize_rewards:
            return rewards
        mean, std = (params[name].view(-1, *[1] * (rewards.dim() - 1)) for name in (REWARD_MEAN, REWARD_STD))
        return ((rewards - mean) / std).clamp(-MAX_NORMALISED, MAX_NORMALISED)

    def read_inputs(self, params: Params, step: Step) -> Tensor:
        """Inputs of the encoder at some steps, [M, N, …, O+A+2]."""
        return self.inputs(step._replace(previous_reward=self.read_rewards(params, step.previous_reward)))

    # Acting.

    def actor(self, state: Params) -> Actor:
        def act(step: Step, carried: Any) -> tuple[Distribution, Any]:
            x = at_least_two_lanes(self.read_inputs(state, step))
            h = self.encoder.begin(x) if carried is None else self.encoder.step(state, x, at_least_two_lanes(carried))
            belief = self.encoder.belief(state, h)[:, : step.observation.shape[1]]
            seen = torch.cat([step.observation, belief], -1)
            return self.policy.distribution(state, seen), h[:, : step.observation.shape[1]]

        return act

    def beliefs(self, params: Params, data: Rollouts) -> Tensor:
        """b_t with which the policy acted at each step, [T, M, N, 2L]; no gradient."""
        with torch.no_grad():
            x = at_least_two_lanes(self.read_inputs(params, data.steps())).permute(2, 0, 1, 3).contiguous()
            return self.encoder.beliefs(params, self.encoder.states(params, x[1:]))[:, :, : data.rewards.shape[1]]

    def beliefs_of(self, params: Params, trials: Trials) -> Tensor:
        """b_0 … b_T of whole trials [M, N, T, …], as they are read: [T+1, M, N, 2L]; differentiable."""
        x = at_least_two_lanes(encoder_inputs(trials)).permute(2, 0, 1, 3).contiguous()
        return self.encoder.beliefs(params, self.encoder.states(params, x))[:, :, : trials["rewards"].shape[1]]

    def beliefs_after(self, params: Params, data: Rollouts, steps: Tensor) -> Tensor:
        """b after some numbers of steps [M, N, S] of each lane, 0 … T: [M, N, S, 2L]; differentiable."""
        trials = transitions(data)
        trials["rewards"] = self.read_rewards(params, trials["rewards"])
        beliefs = self.beliefs_of(params, trials).permute(1, 2, 0, 3)
        return beliefs.gather(2, steps[..., None].expand(*steps.shape, beliefs.shape[-1]))

    # Functions of the parameters.

    def outputs(self, params: Params, data: Rollouts) -> tuple[Distribution, Tensor]:
        beliefs = self.beliefs(params, data).permute(1, 2, 0, 3).flatten(1, 2)
        seen = torch.cat([data.flat("observations"), beliefs], -1)
        return self.policy.distribution(params, seen), self.value.of_data(params, seen).squeeze(-1)

    def embed(
        self, parameters: Tensor, rollouts: Sequence[Rollouts], vector: Tensor | None = None
    ) -> dict[str, Tensor]:
        """[μ, log σ²] after the trial, mean over a task's lanes: [M, 2L]."""
        with torch.no_grad():
            meta = self.spec.per_task(parameters, rollouts[0].tasks)
            steps = rollouts[0].mask.sum(-1, keepdim=True).long()
            last = self.beliefs_after(meta, rollouts[0], steps).squeeze(2)
            return {"embedding": torch.stack([task.mean(0) for task in last])}

    def negative_elbo(self, params: Params, trials: Trials, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Of B trials: Σ_t E[Σ_k -log p(r_k | m, step k)] and Σ_t KL_t, [B] each.

        params: encoder's and decoder's, [1, …]. trials: as `as_seen_now` gives them. rng: of the latent vectors, and of
        the t and k that are drawn.
        """
        config = self.config
        count, length = trials["rewards"].shape
        one_task = {name: value[None] for name, value in trials.items()}
        beliefs = self.beliefs_of(params, one_task)[:, 0].transpose(0, 1)  # [B, T+1, 2L]
        before = torch.cat([torch.zeros_like(beliefs[:, :1]), beliefs[:, :-1]], 1)
        lived = torch.cat([torch.ones(count, 1), trials["mask"]], 1)  # padding steps have no b_t
        kl = (kl_of_beliefs(beliefs, before) * lived).sum(1)

        prefixes, of_prefix = drawn(rng, count, length + 1, config.vae_prefixes)
        steps, of_step = drawn(rng, count, length, config.vae_decoded_steps)
        trial = torch.arange(count)[:, None]
        noise = torch.from_numpy(rng.standard_normal((count, prefixes.shape[1], config.belief_size), np.float32))
        latent = draw(beliefs[trial, prefixes], noise)
        predicted = self.decoder(params, latent, self.decoded_from(trials)[trial, steps])
        weights = (of_prefix * lived[trial, prefixes])[:, :, None]
        decoded = trials["mask"]
        if "next_observations" in self.read:
            decoded = decoded * (1 - trials["resets"])
        weights = weights * (of_step * decoded[trial, steps])[:, None]
        error = self.reward_error(predicted, trials["rewards"][trial, steps][:, None])
        return (error * weights).sum((1, 2)), kl

    def variational_loss(self, params: Params, trials: Trials, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """L of B trials, and its two parts, each a mean over the trials; arguments as of `negative_elbo`."""
        error, kl = (value.mean() for value in self.negative_elbo(params, trials, rng))
        return error + self.config.kl_weight * kl, error, kl

    def decoded_from(self, trials: Trials) -> Tensor:
        """What the decoder reads of each step, [B, T, …]."""
        return torch.cat([trials[name] for name in self.read], -1)

    def reward_error(self, predicted: Tensor, rewards: Tensor) -> Tensor:
        """-log p(r), up to a constant."""
        if self.config.reward_likelihood == "gaussian":
            return (rewards - predicted).square()
        return torch.nn.functional.softplus(predicted) - (rewards > 0) * predicted

    @property
    def expectation(self) -> str:
        bernoulli = self.config.reward_likelihood == "bernoulli"
        return "chance of a positive reward" if bernoulli else super().expectation

    def expected_rewards(
        self, parameters: Tensor, trials: Rollouts, steps: Tensor, observations: Tensor
    ) -> Tensor | None:
        """Means over latent vectors that the beliefs hold likely; "bernoulli": chances that a reward is positive."""
        if self.config.decoder_reads != "next_observation":
            return None
        with torch.no_grad():
            meta = self.spec.per_task(parameters, trials.tasks)
            beliefs = self.beliefs_after(meta, trials, steps)
            flat = beliefs.reshape(-1, 1, beliefs.shape[-1])
            noise = np.random.default_rng(0).standard_normal((1, SAMPLES, self.config.belief_size), np.float32)
            one = {name: value[:1] for name, value in meta.items()}
            read = observations.expand(len(flat), *observations.shape)
            found = self.decoder(one, draw(flat, torch.from_numpy(noise)), read)
            found = found if self.config.reward_likelihood == "gaussian" else found.sigmoid()
            if self.config.vae_normalize_rewards:
                found = found * one[REWARD_STD] + one[REWARD_MEAN]
            return found.mean(1).view(*steps.shape, -1)

    # On the master.

    def update(self, parameters: Tensor, evaluate: Evaluate, iteration: int) -> tuple[Tensor, dict[str, float]]:
        """PPO's epochs, with the beliefs as they were; then steps of encoder and decoder."""
        parameters, logged = super().update(parameters, evaluate, iteration)
        (data,) = evaluate.rollouts()
        self.buffer.add(self.to_keep(data, evaluate.scaling))
        scales = self.scales_of_rewards() if self.config.vae_normalize_rewards else parameters[self.scales]
        scaled_by = self.spec.unflatten(torch.cat([parameters[: self.scales.start], scales]))
        encoded, sums = parameters[self.encoded], np.zeros(2)
        # Beliefs that change faster than the policy can follow end a run that had learned.
        self.optimizer.learning_rate = self.config.vae_learning_rate * self.config.learning_rate_anneal**iteration
        for step in range(self.config.vae_updates):
            reached("master step", step=step)
            rng = generator(self.config.seed, "variational", iteration, step)
            trials = self.as_seen_now(self.buffer.draw(rng, self.config.vae_batch_size), evaluate.scaling, scaled_by)
            params = self.variational.per_task(encoded, 1)
            loss, error, kl = self.variational_loss(params, trials, rng)
            gradient = self.variational.gradient_per_task(loss, params)[0]
            encoded = self.optimizer.step(encoded, self.bounded_by_network(gradient))
            sums += [float(error.detach()), float(kl.detach())]
        error_mean, kl_mean = sums / self.config.vae_updates if self.config.vae_updates else (math.nan, math.nan)
        logged |= {"RewardError": error_mean / (self.config.lane_length + 1), "BeliefKL": kl_mean}
        return torch.cat([parameters[self.trained], encoded, scales]), logged

    def bounded_by_network(self, gradient: Tensor) -> Tensor:
        """The gradient of encoder and decoder, each no longer than `vae_max_grad_norm`."""
        parts = [gradient[self.variational.slice_of(network)] for network in ("encoder", "decoder")]
        return torch.cat([bounded(part, self.config.vae_max_grad_norm) for part in parts])

    def to_keep(self, data: Rollouts, scaling: Tensor | None) -> Trials:
        """Entries of the buffer: trials, each with the scaling by which its observations are normalised."""
        trials = {name: value.flatten(0, 1) for name, value in transitions(data).items()}
        if "scaling" not in self.buffer.shapes:
            return trials
        assert scaling is not None
        return trials | {"scaling": scaling.expand(len(trials["rewards"]), -1)}

    def scales_of_rewards(self) -> Tensor:
        """Mean and standard deviation of the rewards in the buffer, [2]."""
        held, moments = self.buffer.state_dict(), Moments(1)
        moments.add(*moments_of(held["rewards"][held["mask"] > 0].numpy()[:, None]))
        return torch.tensor([moments.mean[0], moments.std[0]], dtype=torch.float32)

    def as_seen_now(self, trials: Trials, scaling: Tensor | None, params: Params) -> Trials:
        """Trials of the buffer, with observations normalised as in this iteration, and rewards as they are read."""
        trials = trials | {"rewards": self.read_rewards(params, trials["rewards"])}
        now = Scaling.from_vector(scaling)
        if now is None or "scaling" not in trials:
            return trials
        return trials | {
            name: torch.stack([now.renormalised(*pair) for pair in zip(trials[name], trials["scaling"], strict=True)])
            for name in ("observations", "next_observations")
        }

    def state_dict(self) -> dict[str, Any]:
        own = {"optimizer": self.optimizer.state_dict(), "buffer": self.buffer.state_dict()}
        return {"update": self.meta_update.state_dict()} | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.meta_update.load_state_dict(state["update"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.buffer.load_state_dict(state["buffer"])


def transitions(data: Rollouts) -> Trials:
    """What a lane went through at each step, [M, N, T, …].

    resets: 1 where what follows is the first observation of another episode: after each episode but one that ends with
    the T-th step. Where fewer steps fill a trial, the environment is reset after them too.
    """
    following = torch.cat([data.observations[:, :, 1:], data.final_observations[:, :, None]], 2)
    resets = (data.terminated | data.truncated).to(data.rewards.dtype)
    resets[..., -1] = 0
    entries = {"observations": data.observations, "actions": data.actions, "rewards": data.rewards}
    return entries | {"next_observations": following, "mask": data.mask, "resets": resets}


def encoder_inputs(trials: Trials) -> Tensor:
    """What the encoder reads of each step: as `TrialPPO.inputs` of the step that follows, [..., T, O+A+2]."""
    numbers = [trials[name][..., None] for name in ("rewards", "resets")]
    return torch.cat([trials["next_observations"], trials["actions"], *numbers], -1)


def drawn(rng: np.random.Generator, rows: int, total: int, count: int | None) -> tuple[Tensor, float]:
    """Indices of `count` different ones of `total` in each row, [rows, count], and what one of them counts.

    All, in order, where count is None or no less than the total.
    """
    everything = np.tile(np.arange(total), (rows, 1))
    if count is None or count >= total:
        return torch.from_numpy(everything), 1.0
    return torch.from_numpy(rng.permuted(everything, axis=1)[:, :count]), total / count
