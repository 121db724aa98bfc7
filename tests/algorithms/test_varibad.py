"""VariBAD: beliefs and the ELBO, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mmaml.algorithms.varibad import VariBAD, drawn, encoder_inputs, transitions
from mmaml.figures.family_pictures import picture_of
from mmaml.figures.grid_paths import beliefs_about_cells, grid_paths
from mmaml.figures.recording import SampledStages, sampled_stages
from mmaml.policies.belief import RewardDecoder, draw, kl_of_beliefs
from mmaml.policies.params import Params
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker
from tests.helpers.memory_probes import MODULE
from tests.helpers.support import sampled
from tests.helpers.varibad import UNEVEN, collected, config_of, trials_of


def elbo(algo: VariBAD, flat: torch.Tensor, trials: dict[str, torch.Tensor], seed: int = 0) -> torch.Tensor:
    """(error, KL), each a mean over trials."""
    params = algo.variational.per_task(flat[algo.encoded], 1)
    return torch.stack(
        [value.mean() for value in algo.negative_elbo(params, trials, np.random.default_rng(seed))]
    ).detach()


# Beliefs.


@pytest.mark.parametrize("env, length", [("BernoulliBandit", 1), (f"{MODULE}:Recall", 3)])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_policy_learns_from_the_beliefs_that_it_acted_on(env: str, length: int, normalized: bool) -> None:
    """To the bit, whether encoded step by step or as a trial."""
    algo, block, parameters = collected(env=env, max_path_length=length, vae_normalize_rewards=normalized)
    (data,) = block.rollouts
    meta = algo.spec.per_task(parameters, data.tasks)
    steps, beliefs, carried = data.steps(), algo.beliefs(meta, data), None
    for t in range(data.rewards.shape[2]):
        step = type(steps)(*(value[:, :, t] for value in steps))
        _, carried = algo.actor(meta)(step, carried)
        assert torch.equal(algo.encoder.belief(meta, carried), beliefs[t])
    new, _ = algo.outputs(meta, data)
    torch.testing.assert_close(new.log_prob(data.flat("actions")), data.flat("log_probs"), rtol=1e-5, atol=1e-6)
    trials = transitions(data)
    trials["rewards"] = algo.read_rewards(meta, trials["rewards"])
    following = encoder_inputs(trials)[:, :, :-1]
    assert torch.equal(following, algo.read_inputs(meta, steps)[:, :, 1:])  # the buffer's are read as those acted in
    assert beliefs[1:].std() > 0.01


def test_the_first_belief_of_all_is_the_prior() -> None:
    config = config_of()
    worker, parameters, _ = sampled(config)
    assert worker.block is not None and isinstance(worker.algorithm, VariBAD)
    data = worker.block.rollouts[0]
    meta = worker.algorithm.spec.per_task(parameters, data.tasks)
    assert not worker.algorithm.beliefs(meta, data)[0].any()  # mean 0, log-variance 0


def test_the_kl_of_beliefs_is_that_of_gaussians_and_nothing_for_equal_ones() -> None:
    later, earlier = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    normals = [Normal(each[:, :3], (0.5 * each[:, 3:]).exp()) for each in (later, earlier)]
    torch.testing.assert_close(kl_of_beliefs(later, earlier), kl_divergence(*normals).sum(-1))
    assert not kl_of_beliefs(later, later).any()


def test_latent_vectors_have_the_mean_and_variance_of_their_belief() -> None:
    belief = torch.tensor([0.5, -2.0, -1.0, 3.0])
    latent = draw(belief.expand(40_000, 4), torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(latent.mean(0), belief[:2], rtol=0.0, atol=0.1)
    torch.testing.assert_close(latent.var(0).log(), belief[2:], rtol=0.0, atol=0.05)


def test_embeddings_are_the_beliefs_after_the_trial() -> None:
    _, block, parameters = collected()
    embedded = block.answer(Question("embed", parameters))["embedding"]
    assert embedded.shape == (3, 2 * 2)
    alone = block.answer(Question("embed", parameters, tasks=[1]))["embedding"]
    np.testing.assert_array_equal(alone[0], embedded[1])
    block.rollouts[0].rewards[..., -1] += 1  # the last reward counts too
    assert (block.answer(Question("embed", parameters))["embedding"] != embedded).any()


def test_the_embedding_of_a_trial_that_ends_early_does_not_depend_on_its_padding() -> None:
    _, block, parameters = collected(**UNEVEN)
    (data,) = block.rollouts
    embedded = block.answer(Question("embed", parameters))["embedding"]
    data.rewards[data.mask == 0] += 1
    np.testing.assert_array_equal(block.answer(Question("embed", parameters))["embedding"], embedded)
    data.rewards[data.last_of_lane()] += 1
    assert (block.answer(Question("embed", parameters))["embedding"] != embedded).all()


def test_the_rewards_that_a_belief_expects_are_means_over_its_latent_vectors() -> None:
    algo, block, parameters = collected(env="GridNavi", max_path_length=3, decoder_reads="next_observation")
    (data,) = block.rollouts
    cells = torch.tensor([[0.0, 0.0], [2.0, 4.0], [3.0, 1.0]])
    after = torch.arange(5 * 3 + 1).expand(3, 4, -1)
    expected = algo.expected_rewards(parameters, data, after, cells)
    assert expected is not None and expected.shape == (3, 4, 5 * 3 + 1, 3)
    meta = algo.spec.per_task(parameters, 3)
    acted_on = algo.beliefs(meta, data)
    belief = acted_on[7, 1, 2].expand(20000, -1)
    noise = torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    one = {name: value[1:2] for name, value in meta.items()}
    with torch.no_grad():
        decoded = algo.decoder(one, draw(belief, noise)[None], cells[None])[0]
    torch.testing.assert_close(
        expected[1, 2, 7], decoded.mean(0), rtol=0, atol=float(3 * decoded.std(0).max() / 64**0.5)
    )
    assert torch.equal(expected[:, :, 0], expected[:1, :1, 0].expand(3, 4, 3))  # before the first step
    some = algo.expected_rewards(parameters, data, after[..., [7, 2]], cells)
    assert some is not None
    torch.testing.assert_close(some, expected[:, :, [7, 2]])
    algo.config = algo.config.replace(decoder_reads="transition")
    assert algo.expected_rewards(parameters, data, after, cells) is None


def test_rewards_that_are_normalised_are_expected_in_their_own_units() -> None:
    values = {"env": "GridNavi", "max_path_length": 3, "decoder_reads": "next_observation"}
    algo, block, parameters = collected(**values, vae_normalize_rewards=True)
    (data,) = block.rollouts
    after, cells = torch.arange(4).expand(3, 4, -1), torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    parameters[algo.scales] = torch.tensor([0.0, 1.0])
    expected = algo.expected_rewards(parameters, data, after, cells)
    data.rewards.mul_(4).sub_(2)  # the same rewards, in another unit and from another zero
    parameters[algo.scales] = torch.tensor([-2.0, 4.0])
    torch.testing.assert_close(algo.expected_rewards(parameters, data, after, cells), 4 * expected - 2)


def test_the_walks_on_a_grid_show_the_beliefs_at_the_ends_of_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no others are decoded."""

    def shown_with(**overrides: Any) -> SampledStages:
        config = config_of(env="GridNavi", max_path_length=3, **overrides)
        return sampled_stages(config, {"parameters": Worker(config).algorithm.init(np.random.default_rng(0))}, 4)

    decode, decoded = RewardDecoder.__call__, []

    def noted(self: RewardDecoder, params: Params, latent: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        decoded.append(len(latent))
        return decode(self, params, latent, data)

    monkeypatch.setattr(RewardDecoder, "__call__", noted)
    shown = shown_with(decoder_reads="next_observation")
    assert grid_paths(shown).by_episode and not decoded
    beliefs = beliefs_about_cells(shown)
    assert beliefs is not None and beliefs.shape == (4, 5, 5, 5) and decoded == [4 * 5]
    assert (beliefs.std((0, 1)) > 0).any()
    assert beliefs_about_cells(shown_with()) is None


@pytest.mark.parametrize(
    ("likelihood", "words"), [("gaussian", "expected reward"), ("bernoulli", "chance of a positive reward")]
)
def test_a_picture_of_beliefs_says_what_its_colours_mean(likelihood: str, words: str, tmp_path: Path) -> None:
    config = config_of(
        env="GridNavi", max_path_length=3, decoder_reads="next_observation", reward_likelihood=likelihood
    )
    shown = sampled_stages(config, {"parameters": Worker(config).algorithm.init(np.random.default_rng(0))}, 2)
    draw_picture = picture_of(type(shown.family))
    assert draw_picture is not None
    draw_picture(shown, tmp_path / "picture.svg", "title")
    assert f"<!-- {words} in a cell, after the episode -->" in (tmp_path / "picture.svg").read_text()


# The ELBO.


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_elbo_of_a_single_step_is_that_worked_out_by_hand(likelihood: str) -> None:
    algo, block, flat = collected(episodes_per_trial=1, reward_likelihood=likelihood)
    trials = trials_of(block)
    error, kl = algo.negative_elbo(algo.variational.per_task(flat[algo.encoded], 1), trials, np.random.default_rng(5))
    noise = torch.from_numpy(np.random.default_rng(5).standard_normal((len(error), 2, 2), np.float32))
    p = {name: value[0] for name, value in algo.variational.per_task(flat[algo.encoded], 1).items()}
    for lane in range(len(error)):
        x = torch.cat([trials[n][lane, 0] for n in ("next_observations", "actions")])
        x = torch.cat([x, trials["rewards"][lane], torch.zeros(1)])
        x = (x @ p["encoder.inputs.0.weight"] + p["encoder.inputs.0.bias"][0]).relu()
        g = (x @ p["encoder.gru.gates.input"] + p["encoder.gru.gates.bias"][0]).sigmoid()
        n = (x @ p["encoder.gru.candidate.input"] + p["encoder.gru.candidate.bias"][0]).tanh()
        h = (1 - g[4:]) * n
        beliefs = [state @ p["encoder.belief.weight"] + p["encoder.belief.bias"][0] for state in (torch.zeros(4), h)]
        prior = torch.zeros(4)
        read = torch.cat([trials["observations"][lane, 0], trials["actions"][lane, 0]])
        expected = torch.zeros(())
        for t, belief in enumerate(beliefs):
            m = draw(belief, noise[lane, t])
            y = (m @ p["decoder.latent.weight"] + read @ p["decoder.data.weight"] + p["decoder.data.bias"][0]).relu()
            y = (y @ p["decoder.rest.0.weight"] + p["decoder.rest.0.bias"][0]).relu()
            y = (y @ p["decoder.rest.1.weight"] + p["decoder.rest.1.bias"][0])[0]
            r = trials["rewards"][lane, 0]
            chance = y.sigmoid() if r > 0 else 1 - y.sigmoid()
            expected = expected + ((y - r).square() if likelihood == "gaussian" else -chance.log())
        torch.testing.assert_close(error[lane], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            kl[lane], kl_of_beliefs(beliefs[0], prior) + kl_of_beliefs(beliefs[1], beliefs[0]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("reads", ["observation_action", "next_observation", "transition"])
def test_its_gradient_agrees_with_finite_differences(reads: str) -> None:
    algo, block, flat = collected(env=f"{MODULE}:Recall", max_path_length=2, episodes_per_trial=2, decoder_reads=reads)
    trials = {name: value.double() for name, value in trials_of(block).items()}
    flat = flat.double()
    params = algo.variational.per_task(flat[algo.encoded], 1)
    error, kl = algo.negative_elbo(params, trials, np.random.default_rng(0))
    gradient = algo.variational.gradient_per_task((error + 0.7 * kl).mean(), params)[0]
    start = algo.encoded.start
    for index in range(0, algo.variational.total, 11):
        step = torch.zeros_like(flat)
        step[start + index] = 1e-6
        above, below = (elbo(algo, flat + way * step, trials) @ torch.tensor([1, 0.7]).double() for way in (1, -1))
        assert float(gradient[index]) == pytest.approx(float(above - below) / 2e-6, rel=1e-4, abs=1e-7)


def test_what_is_drawn_counts_on_average_for_all() -> None:
    """Each t with each k as often as any other."""
    algo, block, flat = collected()
    trials = {name: value[:2].repeat_interleave(3000, 0) for name, value in trials_of(block).items()}
    whole = elbo(algo, flat, trials)
    algo.config = algo.config.replace(vae_prefixes=2, vae_decoded_steps=3)
    some = elbo(algo, flat, trials, seed=1)
    assert float(some[0]) == pytest.approx(float(whole[0]), rel=0.02) and float(some[1]) == float(whole[1])
    rows, each = drawn(np.random.default_rng(0), 100, 7, 3)
    assert rows.shape == (100, 3) and each == 7 / 3 and all(len(set(row.tolist())) == 3 for row in rows)
    assert drawn(np.random.default_rng(0), 2, 7, 9)[0].shape == (2, 7)


def test_the_weight_of_the_kl_does_not_depend_on_how_many_trials_a_step_takes() -> None:
    algo, block, flat = collected(kl_weight=0.3)
    trials = {name: value[:1] for name, value in trials_of(block).items()}
    many = {name: value.repeat_interleave(4000, 0) for name, value in trials.items()}
    repeated = torch.stack([elbo(algo, flat, trials, seed) for seed in range(400)]).mean(0)
    torch.testing.assert_close(elbo(algo, flat, many), repeated, rtol=0.03, atol=0.0)
    params = algo.variational.per_task(flat[algo.encoded], 1)
    for each in (trials, many):  # as it is minimised
        loss, error, kl = algo.variational_loss(params, each, np.random.default_rng(0))
        torch.testing.assert_close(kl, elbo(algo, flat, trials)[1], rtol=1e-4, atol=0.0)
        torch.testing.assert_close(loss, error + 0.3 * kl)


def test_padding_and_ends_of_episodes_that_are_not_seen_count_for_nothing() -> None:
    algo, block, flat = collected(env=f"{MODULE}:Recall", max_path_length=2, decoder_reads="next_observation")
    trials = trials_of(block)
    assert trials["resets"][:, 1::2][:, :-1].all() and not trials["resets"][:, ::2].any()
    before = elbo(algo, flat, trials)
    others = {name: value.clone() for name, value in trials.items()}
    padding = slice(6, None)
    others["mask"][:, padding] = 0
    cut = elbo(algo, flat, others)
    for name in ("observations", "actions", "next_observations", "rewards"):
        others[name][:, padding] = 7.0
    assert torch.equal(elbo(algo, flat, others), cut) and (cut < before).all()

    def at_resets(predicted: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """Errors of 1 at the ends of episodes alone."""
        return (trials["resets"] > 0)[:, None].expand_as(predicted).to(predicted.dtype)

    algo.reward_error = at_resets  # type: ignore[method-assign]
    assert float(elbo(algo, flat, trials)[0]) == 0


def test_what_follows_is_marked_wherever_it_is_the_start_of_another_episode() -> None:
    """Also after a trial that ends early, and not where the last step of a full lane led to."""
    for collect in ("episodes", "lanes"):
        _, block, _ = collected(**UNEVEN | {"collect": collect})
        trials = trials_of(block)
        real = trials["mask"] > 0
        assert real[:, -1].any() and (collect == "lanes" or not real.all())
        starts = trials["next_observations"][..., 1] == 0  # steps that were taken
        assert torch.equal((trials["resets"] > 0)[real], starts[real])


def test_what_was_done_last_in_an_episode_is_decoded_where_the_decoder_does_not_read_what_followed() -> None:
    algo, block, flat = collected()
    trials = trials_of(block)
    assert trials["resets"][:, :-1].all()
    algo.reward_error = lambda predicted, rewards: torch.ones_like(predicted)  # type: ignore[method-assign]
    assert float(elbo(algo, flat, trials)[0]) == 6 * 5
