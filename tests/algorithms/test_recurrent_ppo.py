"""PPO over whole trials: what is learned from is what was done, credit over the trial, gradients, padding.

What it learns: `test_recurrent_ppo_learning.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml import task_block as task_block_module
from mmaml.algorithms.recurrent import TrialPPO
from mmaml.config.loading import idle_keys
from mmaml.errors import ConfigError
from mmaml.policies import kernel
from mmaml.sampling.rollouts import Rollouts
from mmaml.task_block import TaskBlock
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker
from tests.helpers.memory_probes import BANDIT
from tests.helpers.support import (
    assert_same_states,
    progress,
    run,
    sampled,
    small_config,
)

ALGORITHMS = ["rl2", "snail", "epn"]  # whose memory PPO trains too
ALL = [*ALGORITHMS, "varibad"]
PROBES = "tests.helpers.probes:"
# Of unlike lengths, continuous actions.
RAGGED: dict[str, Any] = {"env": PROBES + "RandomLengths", "max_path_length": 6, "episodes_per_trial": 3}
FAMILIES = {"ragged": RAGGED, "padded": RAGGED | {"collect": "episodes"}, "bandit": BANDIT}
OPTIONS = {"clip_eps": 0.2, "clip": True, "mean": 0.1, "std": 0.7}
SIZES = {"meta_batch_size": 5, "rollouts_per_meta_task": 4}
# How far what is learned from may be from what was done: the products of SNAIL's attention have other shapes there, and
# those of VariBAD's policy, which is an MLP; the compiled kernel computes each row of an MLP alike.
TOLERANCES = {"rl2": 0.0, "snail": 1e-5, "epn": 0.0, "varibad": 0.0 if kernel.serves() else 1e-5}
# Sizes of few parameters.
FEW = {
    "rl2": {"cell_size": 3},
    "snail": {"filters": 3, "attention_size": 3},
    "epn": {"memory_embedding_size": 1, "planning_iterations": 2},
    "varibad": {"cell_size": 3, "encoder_hidden_sizes": [3], "belief_size": 2, "hidden_sizes": [3]},
}
# How far from the start parameters are: SNAIL adds up hundreds of channels.
MOVED = {"rl2": 0.3, "snail": 0.05, "epn": 0.1, "varibad": 0.1}


def with_readout(algorithm: str, size: int) -> dict[str, Any]:
    """Keys of a hidden layer over the memory, and of what RL² can read beside it."""
    return {"readout_size": size} | ({"previous_observation": size > 0} if algorithm == "rl2" else {})


def collected(algorithm: str, **overrides: Any) -> tuple[Any, TaskBlock, torch.Tensor]:
    """One meta-batch, at parameters that are not those of the start."""
    config = small_config(algorithm, **SIZES | overrides)
    worker, parameters, _ = sampled(config)
    moved = parameters + MOVED[algorithm] * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
    worker.collect(moved, None, list(enumerate(worker.sample_tasks(config.meta_batch_size, 0))), 0)
    assert worker.block is not None and isinstance(worker.algorithm, TrialPPO)
    return worker.algorithm, worker.block, moved


def in_double(data: Rollouts) -> Rollouts:
    fields = {name: value.double() if value.is_floating_point() else value for name, value in data.fields().items()}
    return Rollouts.from_fields(fields)


# What is learned from is what was done.


def test_what_is_read_is_the_observation_and_what_came_of_the_step_before() -> None:
    """x_t = [o_t, a_{t-1}, r_{t-1}, d_t], over the ends of episodes too; at a trial's start a = r = 0, d = 1."""
    algo, block, _ = collected("rl2", **RAGGED)
    (data,) = block.rollouts
    x, starts = algo.inputs(data.steps()), data.episode_start
    before = torch.cat([data.actions, data.rewards[..., None]], -1)
    before = torch.cat([torch.zeros_like(before[:, :, :1]), before[:, :, :-1]], 2)
    assert torch.equal(x, torch.cat([data.observations, before, starts[..., None].float()], -1))
    assert starts[..., 0].all() and before[starts].any(0).all() and not starts.all()


@pytest.mark.parametrize(("lanes", "readout_size"), [(1, 0), (2, 0), (3, 0), (7, 0), (1, 5), (4, 5)])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("algorithm", ALL)
def test_the_first_ratio_is_one(algorithm: str, family: str, lanes: int, readout_size: int) -> None:
    sizes = {"rollouts_per_meta_task": lanes} | with_readout(algorithm, readout_size)
    algo, block, parameters = collected(algorithm, **FAMILIES[family] | sizes)
    (data,) = block.rollouts
    for tasks in (slice(0, 5), slice(2, 4), slice(4, 5)):
        part = data.select(tasks)
        new, _ = algo.outputs(algo.spec.per_task(parameters, part.tasks), part)
        log_ratio = (new.log_prob(part.flat("actions")) - part.flat("log_probs")).detach()
        assert float(log_ratio[part.flat("mask") > 0].abs().max()) <= TOLERANCES[algorithm]
    results = block.answer(Question("meta_loss", parameters, options=OPTIONS | {"clip_eps": 2e-5}))
    assert not results["clip_fraction"].any()
    if TOLERANCES[algorithm] == 0:
        np.testing.assert_allclose(results["outer_kl"], 0, atol=1e-7)


@pytest.mark.parametrize("readout_size", [0, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_acting_step_by_step_is_unrolling(algorithm: str, readout_size: int) -> None:
    algo, block, parameters = collected(algorithm, **RAGGED | with_readout(algorithm, readout_size))
    (data,) = block.rollouts
    meta = algo.spec.per_task(parameters, data.tasks)
    x = algo.inputs(data.steps()).permute(2, 0, 1, 3)
    unrolled, carried = algo.unroll(meta, x), None
    values = algo.values_of_steps(meta, data).detach().unbind(2)
    for step, features, value in zip(x, unrolled, values, strict=True):
        found, carried = algo.step(meta, step, carried)
        assert float((found - features).abs().max().detach()) <= TOLERANCES[algorithm]
        read = algo.readout.of_step(meta, found, step)
        expected = (read @ meta["value.weight"] + meta["value.bias"]).squeeze(-1).detach()
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lanes_that_began_at_different_times_act_together(algorithm: str) -> None:
    """As they do in a loop of a user's own, who joins what the lanes carry; also where some go on for longer than in
    training while others remember little yet.
    """
    algo, block, parameters = collected(algorithm, **RAGGED)
    meta = algo.spec.per_task(parameters, 5)
    x = algo.inputs(block.rollouts[0].steps()).permute(2, 0, 1, 3).repeat(2, 1, 1, 1)[:22]
    alone = algo.unroll(meta, x)

    def joined(one: Any, other: Any) -> Any:
        if isinstance(one, tuple):
            return tuple(map(joined, one, other))
        return None if one is None else torch.cat([one[:, :2], other[:, 2:]], 1)

    ahead = behind = None
    for step in x[:4]:
        _, behind = algo.step(meta, step, behind)
    for step in x[:14]:
        _, ahead = algo.step(meta, step, ahead)
    carried = joined(ahead, behind)
    for t in range(8):
        found, carried = algo.step(meta, torch.cat([x[14 + t][:, :2], x[4 + t][:, 2:]], 1), carried)
        expected = torch.cat([alone[14 + t][:, :2], alone[4 + t][:, 2:]], 1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_lane_that_is_longer_than_in_training_acts_as_it_is_learned_from(algorithm: str) -> None:
    algo, block, parameters = collected(algorithm, **RAGGED)
    meta = algo.spec.per_task(parameters, 5)
    x = algo.inputs(block.rollouts[0].steps()).permute(2, 0, 1, 3).repeat(3, 1, 1, 1)
    unrolled, carried = algo.unroll(meta, x), None
    for step, features in zip(x, unrolled, strict=True):
        found, carried = algo.step(meta, step, carried)
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_episode_of_a_trial_is_remembered_in_its_last(algorithm: str) -> None:
    algo, block, parameters = collected(algorithm, **BANDIT)
    meta = algo.spec.per_task(parameters, 5)
    x = algo.inputs(block.rollouts[0].steps()).permute(2, 0, 1, 3)
    last, other = (algo.unroll(meta, torch.cat([first, x[1:]]))[-1] for first in (x[:1], x[:1] + 1))
    assert ((last - other).abs().amax(-1) > 1e-5).all()


def test_the_gru_reads_the_observation_before() -> None:
    """That of the step before, over the ends of episodes, and zeros at the start of a trial."""
    algo, block, parameters = collected("rl2", **RAGGED | {"previous_observation": True})
    data = block.rollouts[0]
    meta = algo.spec.per_task(parameters, 5)
    first, second = algo.inputs(data.steps()).permute(2, 0, 1, 3)[:2]
    features, (state, previous) = algo.step(meta, first, None)
    assert torch.equal(previous, data.observations[:, :, 0])
    other, _ = algo.step(meta, first, (torch.zeros_like(state), torch.zeros_like(previous)))
    assert torch.equal(other, features)
    expected, _ = algo.step(meta, second, (state, previous))
    other, _ = algo.step(meta, second, (state, previous + 1))
    assert not torch.isclose(other, expected).all(-1).any()


@pytest.mark.parametrize("algorithm, gru", [("rl2", "memory.gru"), ("varibad", "encoder.gru")])
def test_the_memory_lasts_for_the_trial_from_the_start(algorithm: str, gru: str) -> None:
    """And not for an episode alone, here of one step."""
    algo = Worker(small_config(algorithm, **BANDIT | {"cell_size": 64})).algorithm
    steps = algo.init(np.random.default_rng(0))[f"{gru}.gates.bias"][0, 64:].exp()
    assert 1 <= steps.min() < 3 and 6 < steps.max() <= 9 - 1 + 1e-5


def test_weights_of_the_input_are_scaled_at_the_start() -> None:
    plain, scaled = (
        sampled(small_config("rl2", **SIZES | RAGGED | {"input_init_scale": scale}))[0].algorithm.init(
            np.random.default_rng(1)
        )
        for scale in (1, 4)
    )
    changed = {name: scaled[name] / plain[name] for name in plain if not torch.equal(plain[name], scaled[name])}
    assert set(changed) == {"memory.gru.gates.input", "memory.gru.candidate.input"}
    assert all(bool((ratio == 4).all()) for ratio in changed.values())


# Credit.


def test_the_credit_of_a_lane_of_two_episodes_by_hand() -> None:
    """Rewards 1, 0 | 2, 4, V = 3 everywhere, γ = 1/2, λ = 1/2: δ = -1/2, -3/2, 1/2, 1, and Â goes on over the end."""
    algo, block, parameters = collected("rl2", **RAGGED | {"discount": 0.5, "gae_lambda": 0.5})
    data = block.rollouts[0].select(slice(1)).lanes(slice(1))
    cut = {name: value[:, :, :4] if value.shape[2:3] == (18,) else value for name, value in data.fields().items()}
    ends = torch.tensor([[[False, True, False, True]]])
    rewards = torch.tensor([[[1.0, 0.0, 2.0, 4.0]]])
    data = Rollouts.from_fields(cut | {"rewards": rewards, "terminated": ends, "mask": torch.ones(1, 1, 4)})
    named = algo.spec.unflatten(parameters)
    named["value.weight"], named["value.bias"] = torch.zeros_like(named["value.weight"]), torch.full((1, 1), 3.0)
    with torch.no_grad():
        found, targets = algo.advantages(algo.spec.per_task(algo.spec.flatten(named), 1), data, rewards)
    expected = torch.tensor([[[-0.828125, -1.3125, 0.75, 1.0]]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(targets, expected + 3)


def test_advantages_are_normalised_over_the_meta_batch() -> None:
    algo, block, parameters = collected("rl2", **FAMILIES["padded"])
    data = block.rollouts[0]
    mean, std = algo.normalisation(parameters, block.evaluate())
    real = data.advantages[data.mask > 0].double()
    assert mean == pytest.approx(float(real.mean())) and std == pytest.approx(float(real.std(correction=0)))
    assert float(data.mask.min()) == 0.0
    algo, block, parameters = collected("rl2", **RAGGED | {"normalize_adv": False})
    assert algo.normalisation(parameters, block.evaluate()) == (0.0, 1.0)


# Gradients.


@pytest.mark.parametrize(("family", "readout_size"), [("padded", 0), ("bandit", 0), ("padded", 4)])
@pytest.mark.parametrize("algorithm", ALL)
def test_the_gradient_agrees_with_finite_differences(algorithm: str, family: str, readout_size: int) -> None:
    own = FEW[algorithm] | {"entropy_coeff": 0.1} | with_readout(algorithm, readout_size)
    algo, block, parameters = collected(algorithm, **FAMILIES[family] | own)
    data = in_double(block.rollouts[0].select(slice(1)))
    flat, options = parameters.double(), OPTIONS | {"clip_eps": 10.0, "outer_kl_coefficient": 0.3}
    gradient = algo.meta_gradient(flat, [data], None, **options)["gradient"][0]
    assert not gradient[algo.trained.stop :].any()
    for index in range(0, algo.trained.stop, 5):
        step = torch.zeros_like(flat)
        step[index] = 1e-6
        above, below = (algo.meta_loss(flat + way * step, [data], None, **options)["loss"] for way in (1, -1))
        assert float(gradient[index]) == pytest.approx(float(above - below) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("algorithm", ALL)
def test_the_loss_is_that_of_its_parts(algorithm: str) -> None:
    keys = {"vf_loss_coeff": 0.3, "entropy_coeff": 0.2}
    algo, block, parameters = collected(algorithm, **FAMILIES["padded"] | keys)
    (data,) = block.rollouts
    moved = parameters + 0.1
    found = block.answer(Question("meta_loss", moved, options=OPTIONS | {"outer_kl_coefficient": 0.4}))
    with torch.no_grad():
        new, values = algo.outputs(algo.spec.per_task(moved, 5), data)
    for task in range(5):
        real = data.mask[task].flatten() > 0
        log_ratio = (new.log_prob(data.flat("actions")) - data.flat("log_probs"))[task][real].double()
        ratio, scaled = log_ratio.exp(), (data.advantages[task].flatten()[real].double() - 0.1) / 0.7
        surrogate = -torch.minimum(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled).mean()
        error = (values[task][real] - data.value_targets[task].flatten()[real]).double().square().mean()
        entropy = new.entropy()[task][real].double().mean()
        kl = data.flat_distribution().kl(new)[task][real].double().mean()  # type: ignore[arg-type]
        assert found["outer_kl"][task] == pytest.approx(float(kl), rel=1e-3)
        expected = surrogate + 0.3 * error - 0.2 * entropy + 0.4 * kl
        assert found["loss"][task] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("algorithm", ["rl2", "varibad"])
def test_an_update_minimises_the_clipped_loss_of_normalised_advantages(algorithm: str) -> None:
    """What it logs is J with all that the configuration and the meta-batch say of it, at the parameters it ends at."""
    keys = {"num_promp_steps": 3, "learning_rate": 0.1, "clip_eps": 0.2, "anneal_factor": 0.5}
    keys |= {"vae_updates": 0} if algorithm == "varibad" else {}
    keys |= {"init_outer_kl_penalty": 0.3, "entropy_coeff": 0.2, "entropy_anneal": 0.5}
    algo, block, parameters = collected(algorithm, **FAMILIES["padded"] | keys)
    (data,) = block.rollouts
    moved, logged = algo.update(parameters, block.evaluate(), 2)
    real = data.advantages[data.mask > 0]
    normalised = {"mean": float(real.mean()), "std": float(real.std(correction=0))}
    with torch.no_grad():
        loss = algo.objective(
            algo.spec.per_task(moved, 5),
            data,
            **normalised,
            clip=True,
            clip_eps=0.2 * 0.5**2,
            outer_kl_coefficient=0.3,
            entropy_scale=0.5**2,
        ).loss
    assert logged["ClipFraction"] > 0.1  # so that it matters
    assert logged["LossAfter"] == pytest.approx(float(loss.mean()), rel=1e-4)


def test_the_weight_of_the_entropy_shrinks_with_the_iteration() -> None:
    keys = {"entropy_coeff": 0.2, "entropy_anneal": 0.5, "num_promp_steps": 1, "meta_update": "vpg"}
    algo, block, parameters = collected("rl2", **FAMILIES["bandit"] | keys)
    logged = [algo.update(parameters, block.evaluate(), iteration)[1] for iteration in (0, 3)]
    (data,) = block.rollouts
    assert -logged[0]["Loss-entropy"] == pytest.approx(0.2 * float(data.flat_distribution().entropy().mean()), rel=0.05)
    assert logged[1]["Loss-entropy"] / logged[0]["Loss-entropy"] == pytest.approx(0.5**3, rel=0.01)


@pytest.mark.parametrize("algorithm", ALL)
def test_padding_and_other_tasks_change_nothing(algorithm: str) -> None:
    """To the bit."""
    _, block, parameters = collected(algorithm, **FAMILIES["padded"])
    moved = parameters + 0.01
    (data,) = block.rollouts
    padding = data.mask == 0
    assert padding.any()
    other = dict(data.fields())
    for name in ("observations", "actions", "rewards", "advantages", "value_targets", "log_probs", "mean"):
        value = other[name].clone()
        value[padding] = 0.7 - value[padding]
        other[name] = value
    changed = TaskBlock(block.algorithm, [Rollouts.from_fields(other)])
    for function, options in (("meta_gradient", OPTIONS), ("meta_loss", OPTIONS), ("moments", {})):
        whole = block.answer(Question(function, moved, options=options))
        for name, value in changed.answer(Question(function, moved, options=options)).items():
            np.testing.assert_array_equal(value, whole[name])
        for task in range(5):
            for name, value in block.answer(Question(function, moved, tasks=[task], options=options)).items():
                np.testing.assert_array_equal(value[0], whole[name][task])


def test_the_first_ratio_is_one_with_a_memory_that_is_shorter_than_the_trial() -> None:
    algo, block, parameters = collected("epn", memory_length=2, **RAGGED)
    (data,) = block.rollouts
    new, _ = algo.outputs(algo.spec.per_task(parameters, data.tasks), data)
    assert (new.log_prob(data.flat("actions")) == data.flat("log_probs"))[data.flat("mask") > 0].all()
    _, longer, _ = collected("epn", **RAGGED)
    assert not torch.equal(longer.rollouts[0].log_probs, data.log_probs), "what is forgotten changes the policy"


@pytest.mark.parametrize("algorithm", ALL)
def test_chunks_of_lanes_add_up_to_the_whole(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the memory of back-propagation through a trial is bounded, whatever the number of lanes."""
    _, block, parameters = collected(algorithm, **RAGGED | {"rollouts_per_meta_task": 7})
    question = Question("meta_gradient", parameters + 0.01, options=OPTIONS)
    whole = block.answer(question)
    monkeypatch.setattr(task_block_module, "CPU_CHUNK_STEPS", 3 * 18)
    for name, value in block.answer(question).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-4, atol=2e-6)


# Runs.


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_that_goes_on_is_the_run_that_did_not_stop(algorithm: str, tmp_path: Path) -> None:
    values = RAGGED | {"normalize_observations": True, "normalize_rewards": True, "num_minibatches": 2}
    values |= {"clip_eps": 0.2, "anneal_factor": 0.5}

    def config(**keys: Any) -> Any:
        return small_config(algorithm, **values | {"save_steps": 1} | keys)

    whole = run(config(n_itr=4, dump_path=str(tmp_path / "whole")))
    parts = str(tmp_path / "parts")
    run(config(n_itr=2, dump_path=parts))
    assert_same_states(run(config(n_itr=4, restore_path=parts, dump_path=parts)), whole)
    rows = progress(parts)
    assert {"Loss-value", "Loss-entropy", "ClipFraction", "Step_2-AverageReturn"} <= {*rows[-1]}
    assert [float(row["ClipEps"]) for row in rows] == pytest.approx([0.2 * 0.5**iteration for iteration in range(4)])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_keys_without_meaning_are_noticed_or_refused(algorithm: str) -> None:
    given = {"inner_lr": 0.2, "baseline": "ZeroBaseline", "hidden_sizes": [9], "use_betas": True, "first_order": True}
    given |= {"normalize_adv": False, "max_grad_norm": 0.5, "vf_loss_coeff": 0.1, "init_inner_kl_penalty": 0.1}
    idle = idle_keys(small_config(algorithm, **given), given)
    assert {*idle} == {*given} - {"normalize_adv", "max_grad_norm", "vf_loss_coeff"}
    with pytest.raises(ConfigError, match=f'^meta_update: expected "ppo" or "vpg" with algorithm "{algorithm}"'):
        small_config(algorithm, meta_update="trpo")
