"""VariBAD's training: two optimisers and a buffer; learning that fails without the belief; runs; memory; keys."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms import varibad
from mmaml.algorithms.varibad import VariBAD
from mmaml.config import memory_check
from mmaml.config.loading import load_config
from mmaml.errors import ConfigError
from mmaml.policies.params import Params
from mmaml.sampling.normalisation import Scaling
from mmaml.storage.run_lock import RunLock
from mmaml.storage.starting import ready
from mmaml.updates.evaluate import Question
from tests.helpers.memory_probes import MODULE
from tests.helpers.support import assert_same_states, held_out_returns, progress, run
from tests.helpers.varibad import TRIALS, UNEVEN, collected, config_of, trials_of

# What trains what.


def test_ppo_trains_the_policy_alone_and_the_elbo_encoder_and_decoder() -> None:
    algo, block, flat = collected()
    options = {"clip_eps": 0.2, "mean": 0.0, "std": 1.0}
    gradient = block.answer(Question("meta_gradient", flat, options=options))["gradient"]
    assert gradient[:, algo.trained].any() and not gradient[:, algo.encoded].any()
    evaluate = block.evaluate()
    moved, row = algo.update(flat, evaluate, 0)
    assert (moved[algo.trained] != flat[algo.trained]).any() and (moved[algo.encoded] != flat[algo.encoded]).any()
    assert row["RewardError"] > 0 and row["BeliefKL"] > 0
    algo.config = algo.config.replace(vae_updates=0)
    still, row = algo.update(flat, evaluate, 0)
    assert torch.equal(still[algo.encoded], flat[algo.encoded])
    assert math.isnan(row["RewardError"]) and math.isnan(row["BeliefKL"])  # nothing was decoded


def test_ppo_asks_about_the_beliefs_that_were_acted_on_and_not_those_after_the_update() -> None:
    algo, block, flat = collected(vae_normalize_rewards=True)
    evaluate, asked = block.evaluate(), []

    def noted(question: Question) -> Any:
        asked.append(question.parameters[algo.trained.stop :])
        return evaluate(question)

    moved, _ = algo.update(flat, evaluate.through(noted), 0)
    believed = flat[algo.trained.stop :]
    assert asked and all(torch.equal(one, believed) for one in asked)
    assert (moved[algo.encoded] != flat[algo.encoded]).any() and (moved[algo.scales] != flat[algo.scales]).all()


def test_the_logged_reward_error_is_summed_over_the_rewards_of_a_trial() -> None:
    algo, block, flat = collected(vae_updates=2)
    algo.reward_error = lambda predicted, rewards: 1 + 0 * predicted  # type: ignore[method-assign]
    _, row = algo.update(flat, block.evaluate(), 0)
    assert row["RewardError"] == pytest.approx(algo.config.lane_length)


def test_the_steps_of_encoder_and_decoder_shrink_as_those_of_the_policy_do() -> None:
    moved = []
    for iteration in (0, 1):
        algo, block, flat = collected(learning_rate_anneal=1e-3, vae_updates=1)
        after, _ = algo.update(flat, block.evaluate(), iteration)
        moved.append((after - flat)[algo.encoded].abs().max())
    assert float(moved[1]) == pytest.approx(1e-3 * float(moved[0]), rel=0.1)


def test_gradients_of_encoder_and_decoder_that_are_too_long_are_scaled_down_each_by_itself() -> None:
    """By the first moments of Adam, a tenth of the gradient; the same trials are drawn in each case."""
    found = []
    for norm in (None, 1e9, 0.01, 1e-4):
        algo, block, flat = collected(vae_updates=1, vae_max_grad_norm=norm)
        algo.update(flat, block.evaluate(), 0)
        moment = algo.optimizer.state_dict()["state"][0]["exp_avg"]
        found.append([10 * moment[algo.variational.slice_of(network)] for network in ("encoder", "decoder")])
    whole, unbounded, *scaled = found
    for index, gradient in enumerate(whole):
        assert float(gradient.norm()) > 0.01 and torch.equal(unbounded[index], gradient)
        for norm, shorter in zip((0.01, 1e-4), scaled, strict=True):
            torch.testing.assert_close(shorter[index], norm * gradient / gradient.norm())


def test_each_step_of_each_iteration_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials, latent vectors, and what is decoded: by numbers of its own, and again by the same."""
    algo, block, flat = collected(vae_updates=2, vae_buffer_size=12)
    noted, negative_elbo = [], algo.negative_elbo

    def note(params: Params, trials: dict[str, torch.Tensor], rng: np.random.Generator) -> Any:
        noted.append(rng.bit_generator.state["state"]["state"])
        return negative_elbo(params, trials, rng)

    monkeypatch.setattr(algo, "negative_elbo", note)
    for iteration in (0, 1, 0):
        algo.update(flat, block.evaluate(), iteration)
    assert len({*map(str, noted[:4])}) == 4 and [*map(str, noted[4:])] == [*map(str, noted[:2])]


def test_the_newest_trials_are_kept() -> None:
    algo, block, flat = collected(vae_buffer_size=20)
    evaluate = block.evaluate()
    algo.update(flat, evaluate, 0)
    assert len(algo.buffer) == 12
    algo.update(flat, evaluate, 1)
    held = algo.state_dict()["buffer"]
    assert len(held["rewards"]) == 20
    for name, value in trials_of(block).items():
        assert torch.equal(held[name], torch.cat([value[4:], value]))


def test_earlier_trials_are_read_as_the_policy_sees_them_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same trials, normalised by one iteration's statistics and by another's, all are alike when drawn."""
    algo, block, flat = collected(**UNEVEN, normalize_observations=True, vae_updates=1, vae_batch_size=99)
    (data,) = block.rollouts
    seen, final, drawn_trials = data.observations, data.final_observations, []
    negative_elbo = algo.negative_elbo

    def noted(params: Params, trials: dict[str, torch.Tensor], rng: np.random.Generator) -> Any:
        drawn_trials.append(trials)
        return negative_elbo(params, trials, rng)

    monkeypatch.setattr(algo, "negative_elbo", noted)
    for iteration, (mean, std) in enumerate([([0.0, 0.0], [1.0, 1.0]), ([1.0, 2.0], [2.0, 4.0])]):
        scaling = Scaling(torch.tensor(mean).double(), torch.tensor(std).double(), 1.0)
        data.observations, data.final_observations = scaling.normalised(seen), scaling.normalised(final)
        algo.update(flat, dataclasses.replace(block.evaluate(), scaling=scaling.vector()), iteration)
    expected = trials_of(block)
    for name in ("observations", "next_observations"):
        assert len(drawn_trials[1][name]) == 2 * len(expected[name])
        kinds, counts = drawn_trials[1][name].unique(dim=0, return_counts=True)
        assert torch.equal(kinds, expected[name].unique(dim=0)) and (counts % 2 == 0).all()


@pytest.mark.parametrize("normalized", [True, False])
def test_normalised_rewards_train_encoder_and_decoder_alike_in_any_unit(normalized: bool) -> None:
    values = {"env": "GaussianBandit", "vae_normalize_rewards": normalized, "learning_rate": 1e-9}
    moved = []
    for unit, zero in ((1.0, 0.0), (0.01, 3.0)):
        algo, block, flat = collected(**values)
        rewards = block.rollouts[0].rewards
        rewards.mul_(unit).add_(zero)
        moved.append(algo.update(flat, block.evaluate(), 0)[0][algo.encoded])
    assert torch.allclose(*moved, rtol=1e-3, atol=1e-4) == normalized


def test_rewards_are_normalised_by_those_of_the_buffer_and_padding_is_none_of_them() -> None:
    """From the update on: PPO reads beliefs as they were acted on."""
    algo, block, flat = collected(**UNEVEN, vae_normalize_rewards=True, vae_updates=1, learning_rate=1e-9)
    (data,) = block.rollouts
    data.rewards[:] = 100 * torch.randn(data.rewards.shape, generator=torch.Generator().manual_seed(0)).abs()
    data.rewards[data.mask == 0] = 1e4
    real = data.rewards[data.mask > 0].double().numpy()
    assert 0 < len(real) < data.rewards.numel()
    evaluate = block.evaluate()
    for iteration in range(2):
        moved, _ = algo.update(flat, evaluate, iteration)
        np.testing.assert_allclose(moved[algo.scales], [real.mean(), real.std()], rtol=1e-6)
    params = algo.spec.per_task(moved, 1)
    read = algo.read_rewards(params, torch.tensor([[real.mean(), real.mean() - real.std(), 1e9, -1e9]]).float())
    torch.testing.assert_close(read, torch.tensor([[0.0, -1.0, 10.0, -10.0]]), rtol=1e-5, atol=1e-5)


def test_the_buffer_of_a_run_holds_by_what_each_trial_was_normalised(tmp_path: Path) -> None:
    config = config_of(**UNEVEN, normalize_observations=True, n_itr=3, dump_path=str(tmp_path / "run"))
    vectors = run(config)["algorithm"]["buffer"]["scaling"].view(3, -1, 4 * 2 + 1)
    assert torch.equal(vectors, vectors[:, :1].expand_as(vectors)) and len(vectors.unique(dim=0)) == 3
    assert vectors[0, 0].tolist() == [0.0] * 6 + [1.0] * 3  # nothing is known yet


def test_beliefs_get_better_at_telling_the_rewards(tmp_path: Path) -> None:
    """Of arms that give 1 or 0 for sure: known after one pull."""
    values = {"env": f"{MODULE}:Sure", "reward_likelihood": "bernoulli", "cell_size": 16, "kl_weight": 0.1}
    config = config_of(
        **values, meta_batch_size=20, n_itr=60, vae_updates=8, vae_learning_rate=5e-3, dump_path=str(tmp_path / "run")
    )
    run(config)
    errors = [float(row["RewardError"]) / config.lane_length for row in progress(tmp_path / "run")]
    # Without knowledge log 2 a step; with it, nothing but before the first pull: a sixth of all t.
    assert errors[0] > 0.6 and min(errors[-10:]) < 1.6 * np.log(2) / 6


class Unbelieving(VariBAD):
    """The same whose policy always acts on the prior."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.encoder.belief = lambda params, h: h.new_zeros(*h.shape[:2], 2 * self.config.belief_size)  # type: ignore[method-assign]

    def beliefs(self, params: Any, data: Any) -> torch.Tensor:
        return super().beliefs(params, data).zero_()


DECLARATION = varibad.DECLARATION


@pytest.mark.long
@pytest.mark.learn
@pytest.mark.parametrize("algorithm, low, high", [("varibad", 4.3, 4.6), (f"{__name__}:Unbelieving", 2.0, 3.0)])
def test_it_learns_which_arm_gives_and_without_its_belief_it_cannot(
    algorithm: str, low: float, high: float, tmp_path: Path
) -> None:
    """The best return of five pulls is 4.5, that without a memory 2.5; up to what 320 first pulls differ by chance."""
    sizes = {"meta_batch_size": 20, "rollouts_per_meta_task": 8, "n_itr": 60, "hidden_sizes": [16], "cell_size": 16}
    beliefs = {"reward_likelihood": "bernoulli", "kl_weight": 0.1, "vae_updates": 8, "vae_learning_rate": 5e-3}
    policy = {"learning_rate": 5e-3, "num_promp_steps": 8, "clip_eps": 0.2, "gae_lambda": 0.5}
    values = {"env": f"{MODULE}:Sure", "dump_path": str(tmp_path / "run")}
    config = config_of(algorithm, **sizes | beliefs | policy | values)
    returns = held_out_returns(config, run(config), 40).mean(0)
    assert low <= returns.sum() <= high


# The run.


def test_a_run_that_goes_on_is_the_run_that_did_not_stop(tmp_path: Path) -> None:
    """Both optimisers and the buffer are in the checkpoint."""
    values = {"save_steps": 1, "num_minibatches": 2, "vae_prefixes": 3, "vae_buffer_size": 30}
    values |= {"vae_normalize_rewards": True}
    whole = run(config_of(**values, n_itr=5, dump_path=str(tmp_path / "whole")))
    run(config_of(**values, n_itr=3, dump_path=str(tmp_path / "parts")))
    again = {"restore_path": str(tmp_path / "parts"), "dump_path": str(tmp_path / "parts")}
    assert_same_states(run(config_of(**values, n_itr=5, **again)), whole)


def test_the_embeddings_of_a_run_are_of_whole_trials(tmp_path: Path) -> None:
    run(
        config_of(
            n_itr=1, te_save_path=str(tmp_path / "embeddings.npz"), num_embeddings=6, dump_path=str(tmp_path / "run")
        )
    )
    embedded = np.load(tmp_path / "embeddings.npz")
    assert embedded["embedding"].shape == (6, 4) and embedded["means"].shape == (6, 5)
    assert len(np.unique(embedded["embedding"][:, 0])) == 6


def needs_of(config: Any) -> dict[tuple[str, ...], memory_check.Need]:
    assert config.env_spec is not None
    return {tuple(need.keys): need for need in memory_check.training(config, config.env_spec)}


def test_the_memory_of_the_buffer_is_that_of_its_trials_and_their_copy() -> None:
    algo, block, flat = collected(vae_buffer_size=12)
    algo.update(flat, block.evaluate(), 0)
    held = sum(value.nbytes for value in algo.buffer.state_dict().values())
    assert len(algo.buffer) == 12 and needs_of(algo.config)["vae_buffer_size",].bytes == 2 * held


@pytest.mark.parametrize(
    "some, beliefs, steps",
    [({}, 6, 5), ({"vae_prefixes": 2}, 2, 5), ({"vae_decoded_steps": 3}, 6, 3), ({"vae_prefixes": 99}, 6, 5)],
)
def test_the_memory_of_the_elbo_is_what_autograd_keeps_of_the_decoder(
    some: dict[str, int], beliefs: int, steps: int
) -> None:
    algo, block, flat = collected(**some, vae_batch_size=12)
    pairs = 12 * beliefs * steps
    kept: dict[int, int] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        if value.numel() == pairs * value.shape[-1] > pairs:
            kept[value.data_ptr()] = value.nbytes
        return value

    params = algo.variational.per_task(flat[algo.encoded], 1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        error, _ = algo.negative_elbo(params, trials_of(block), np.random.default_rng(0))
    assert error.requires_grad
    need = needs_of(algo.config)["vae_batch_size", "vae_prefixes", "vae_decoded_steps"]
    assert need.bytes == sum(kept.values()) == 4 * pairs * (5 + 4)


def test_embeddings_are_counted_as_whole_trials() -> None:
    config = config_of(te_save_path="embeddings.npz", num_embeddings=6)
    need = needs_of(config)[("num_embeddings", *memory_check.ROLLOUT_KEYS[1:4])]
    assert "6 tasks × 4 rollouts each × 1 time steps × 5 episodes" in need.what


@pytest.mark.parametrize("reads", ["next_observation", "transition", "observation_action"])
def test_a_run_says_at_its_start_that_it_has_next_to_nothing_to_decode(
    reads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = TRIALS | {"algorithm": "varibad", "decoder_reads": reads, "dump_path": str(tmp_path / "run")}
    for more, expected in ({}, reads != "observation_action"), ({"max_path_length": 2}, False):
        with RunLock() as lock:
            ready(load_config(None, given | more), lock, given | more)
        error = capsys.readouterr().err
        assert error.startswith(f'notice: decoder_reads "{reads}" with max_path_length 1: ') == expected
        assert bool(error) == expected


def test_a_run_says_at_its_start_that_its_buffer_does_not_fill_a_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = TRIALS | {"algorithm": "varibad", "max_path_length": 2, "vae_batch_size": 7}
    for size, expected in (6, True), (7, False):
        values = given | {"vae_buffer_size": size, "dump_path": str(tmp_path / str(size))}
        with RunLock() as lock:
            ready(load_config(None, values), lock, values)
        error = capsys.readouterr().err
        assert error.startswith(f"notice: vae_batch_size 7 with vae_buffer_size {size}: ") == expected == bool(error)


def test_keys_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="meta_update: expected"):
        config_of(meta_update="trpo")
    with pytest.raises(ConfigError, match="vae_normalize_rewards: expected false"):
        config_of(vae_normalize_rewards=True, reward_likelihood="bernoulli")
