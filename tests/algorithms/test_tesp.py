"""TESP: what is kept of a task's episodes, what the encoder makes of it, and what an inner step changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.algorithms import make_algorithm
from mmaml.algorithms.tesp import TESP, Memory
from mmaml.config.loading import load_config
from mmaml.evaluation.held_out import evaluate
from mmaml.parallel.ranks import connect
from mmaml.policies.distributions import Gaussian
from mmaml.sampling.rollouts import Rollouts
from mmaml.seeding import generator
from mmaml.worker import Worker
from tests.helpers.adapting import (
    assert_a_task_alone_has_the_bits_of_one_in_a_block,
    assert_the_policies_of_the_objective_sampled,
    collected,
)
from tests.helpers.objectives import VECTOR, assert_padding_is_read_by_nothing, setting
from tests.helpers.reference import gru
from tests.helpers.support import REQUIRED, held_out_returns, progress, run, small_config
from tests.helpers.synthetic import ragged_rollouts

KEEP = ("episode_buffer", "last_episodes", "all_episodes")


def _collections(collect: str = "lanes", **options: Any) -> list[Rollouts]:
    """Three ragged collections; rewards are whole numbers, so that many returns are equal."""
    found = [ragged_rollouts(collect=collect, seed=k, **options) for k in range(3)]
    for data in found:
        data.rewards = data.rewards.round()
    return found


def _algorithm(**overrides: Any) -> TESP:
    sizes = {"hidden_sizes": [5], "cell_size": 4, "embedding_size": 3, "env": "tests.helpers.probes:RandomLengths"}
    values = REQUIRED["tesp"] | sizes | overrides
    return make_algorithm(load_config(None, values, "tesp"), 3, 2, Gaussian)  # type: ignore[return-value]


def _memory(algo: TESP, collections: list[Rollouts]) -> Memory:
    memory = None
    for data in collections:
        memory = algo.remember(memory, data)
    assert memory is not None
    return memory


def _lived(data: Rollouts, task: int) -> list[tuple[float, bool, torch.Tensor]]:
    """The episodes of a task, in order of lane and time: return, whether it is whole, [o, a, r] of its steps."""
    found = []
    for lane in range(data.rewards.shape[1]):
        steps, total = [], 0.0
        for t in range(data.rewards.shape[2]):
            at = (task, lane, t)
            if data.mask[at] == 0:
                break
            if data.episode_start[at]:
                steps, total = [], 0.0
            steps.append(torch.cat([data.observations[at], data.actions[at], data.rewards[at].reshape(1)]))
            total += float(data.rewards[at])
            if data.episode_end[at]:
                found.append((total, bool(data.terminated[at] | data.truncated[at]), torch.stack(steps)))
    return found


def _expected(collections: list[Rollouts], task: int, keep: str, size: int) -> list[torch.Tensor]:
    if keep == "last_episodes":
        return [steps for _, _, steps in _lived(collections[-1], task)]
    lived = [episode for data in collections for episode in _lived(data, task)]
    if keep == "all_episodes":
        return [steps for _, _, steps in lived]
    whole = [(total, steps) for total, is_whole, steps in lived if is_whole]
    return [steps for _, steps in sorted(whole, key=lambda episode: -episode[0])][:size]


def _read(memory: Memory, task: int) -> list[torch.Tensor]:
    """What the encoder reads of a task: its episodes in order of lane and time."""
    found = []
    for lane in range(memory.steps.shape[2]):
        first = 0
        for t in range(len(memory.steps)):
            if memory.start[t, task, lane]:
                first = t
            if memory.end[t, task, lane]:
                found.append(memory.steps[first : t + 1, task, lane])
    return found


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("collect", ["lanes", "episodes"])
@pytest.mark.parametrize("size", [1, 5, 16, 1000])
def test_the_memory_holds_what_it_is_to_keep(collect: str, keep: str, size: int) -> None:
    collections = _collections(collect)
    algo = _algorithm(episodes_kept=keep, buffer_size=size)
    for count in (1, 2, 3):
        memory = _memory(algo, collections[:count])
        for task in range(3):
            expected = _expected(collections[:count], task, keep, size)
            found = _read(memory, task)
            assert len(found) == len(expected) > 0
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_the_buffer_takes_no_more_room_than_its_size() -> None:
    memory = _memory(_algorithm(buffer_size=5), _collections())
    assert memory.steps.shape == (9, 3, 5, 6)
    assert memory.steps.is_contiguous()


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("collect", ["lanes", "episodes"])
def test_the_embedding_is_a_linear_map_of_the_mean_last_state(collect: str, keep: str) -> None:
    collections = _collections(collect)
    algo = _algorithm(episodes_kept=keep, buffer_size=6)
    params = {name: value.double() for name, value in algo.init(np.random.default_rng(0)).items()}
    params["encoder.embedding.bias"] += 0.3
    embedding = algo.embedding(
        {name: value.expand(3, *value.shape) for name, value in params.items()}, _memory(algo, collections)
    )
    for task in range(3):
        states = [gru(params, steps) for steps in _expected(collections, task, keep, 6)]
        mean = torch.cat(states).mean(0, keepdim=True)
        expected = mean @ params["encoder.embedding.weight"] + params["encoder.embedding.bias"]
        torch.testing.assert_close(embedding[task], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep", KEEP)
def test_padding_is_read_by_nothing(keep: str) -> None:
    assert_padding_is_read_by_nothing("tesp", 3, episodes_kept=keep, buffer_size=3)


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("options", [{}, {"collect": "episodes", "embedding_size": 1}, {"first_order": True}])
def test_a_task_alone_has_the_bits_of_one_in_a_block(options: dict[str, Any], keep: str) -> None:
    ragged = {
        "env": "tests.helpers.probes:RandomLengths",
        "max_path_length": 23,
        "rollouts_per_meta_task": 5,
        "cell_size": 64,
    }
    assert_a_task_alone_has_the_bits_of_one_in_a_block(
        "tesp", num_inner_grad_steps=3, episodes_kept=keep, **ragged | options
    )


def test_an_inner_step_changes_the_encoder_alone_and_the_first_changes_nothing() -> None:
    algo, flat, rollouts, _ = setting("tesp", 2)
    meta = algo.spec.per_task(flat, 3)
    start = algo.begin(meta, rollouts[0].identity)
    warm = algo.adapt(meta, start, rollouts[:1])
    stepped = algo.adapt(meta, warm, rollouts[:2])
    assert all(torch.equal(warm.params[name], meta[name]) for name in algo.encoder_shapes)
    assert all((stepped.params[name] != meta[name]).any() for name in algo.encoder_shapes)
    assert all(torch.equal(stepped.shared[name], meta[name]) for name in algo.policy.shapes)
    assert {name.removeprefix("step_size.") for name in algo.step_sizes} == set(algo.encoder_shapes)
    assert set(meta) == set(algo.policy.shapes) | set(algo.encoder_shapes) | {"step_size." + n for n in algo.step_sizes}


def test_an_inner_step_is_on_the_embedding_of_the_episodes_before_it() -> None:
    """ω_2 = ω - exp(a) ∂/∂ω of -mean log π(a|[o, h(ω; B_1)]) Â on D_1, B_1 of D_0, by torch's own operations."""
    algo, flat, rollouts, _ = setting("tesp", 2)
    state = algo.begin(algo.spec.per_task(flat, 3), rollouts[0].identity)
    for k in range(2):
        state = algo.adapt(algo.spec.per_task(flat, 3), state, rollouts[: k + 1])
    params, data = algo.spec.unflatten(flat), rollouts[1]
    for task in range(3):
        encoder = {name: params[name].clone().requires_grad_() for name in algo.encoder_shapes}
        states = torch.cat([gru(encoder, steps) for steps in _expected(rollouts[:1], task, "episode_buffer", 16)])
        h = states.mean(0) @ encoder["encoder.embedding.weight"] + encoder["encoder.embedding.bias"]
        inputs = torch.cat([data.flat("observations")[task], h.expand(data.rewards[0].numel(), -1)], 1)
        first = torch.cat([params["policy.0.weight"], params["policy.context"]])
        y = torch.tanh(inputs @ first + params["policy.0.bias"])
        y = torch.tanh(y @ params["policy.1.weight"] + params["policy.1.bias"])
        new = Gaussian(y @ params["policy.2.weight"] + params["policy.2.bias"], params["policy.log_std"])
        gains = new.log_prob(data.flat("actions")[task]) * data.flat("advantages")[task] * data.flat("weights")[task]
        gradients = torch.autograd.grad(gains.sum(), list(encoder.values()))
        for (name, value), gradient in zip(encoder.items(), gradients, strict=True):
            expected = value + params[f"step_size.{name}"].exp() * gradient
            torch.testing.assert_close(state.params[name][task], expected.detach(), rtol=1e-10, atol=1e-12)


def test_in_first_order_the_gradient_at_the_adapted_encoder_is_that_of_the_encoder() -> None:
    algo, flat, rollouts, _ = setting("tesp", 3, first_order=True)
    gradient = algo.spec.unflatten(algo.meta_gradient(flat, rollouts, VECTOR)["gradient"])
    meta = algo.spec.per_task(flat, 3)
    state = algo.begin(meta, rollouts[0].identity)
    for k in range(3):
        state = algo.adapt(meta, state, rollouts[: k + 1])
    state = state._replace(params={name: value.detach().requires_grad_() for name, value in state.params.items()})
    new = algo.distribution(state, rollouts[3])
    ratio = (new.log_prob(rollouts[3].flat("actions")) - rollouts[3].flat("log_probs")).exp()
    surrogate = -(ratio * rollouts[3].flat("advantages") * rollouts[3].flat("weights")).sum()
    penalty = 0.01 * algo.embedding(state.params, state.memory).square().mean((1, 2)).sum()
    expected = torch.autograd.grad(surrogate + penalty, list(state.params.values()))
    for name, value in zip(state.params, expected, strict=True):
        torch.testing.assert_close(gradient[name], value, rtol=1e-10, atol=1e-12)


def test_the_meta_objective_has_the_mean_square_of_the_last_embedding() -> None:
    without, flat, rollouts, arguments = setting("tesp", 2, embedding_penalty=0.0)
    with_it, *_ = setting("tesp", 2, embedding_penalty=0.7)
    before, after = (algo.meta_loss(flat, rollouts, VECTOR, **arguments) for algo in (without, with_it))
    meta = with_it.spec.per_task(flat, 3)
    state = with_it.begin(meta, rollouts[0].identity)
    for k in range(2):
        state = with_it.adapt(meta, state, rollouts[: k + 1])
    expected = 0.7 * with_it.embedding(state.params, state.memory).square().mean((1, 2))
    assert (expected > 1e-3).all()
    torch.testing.assert_close(after["loss"] - before["loss"], expected)
    torch.testing.assert_close(after["embedding"], expected)


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("collect", ["lanes", "episodes"])
def test_every_collection_is_sampled_by_the_policy_of_the_objective(collect: str, keep: str) -> None:
    values = {"env": "tests.helpers.probes:RandomLengths", "num_inner_grad_steps": 3, "inner_lr": 0.1, "buffer_size": 4}
    _, _, block, parameters = collected("tesp", collect=collect, episodes_kept=keep, **values)
    assert_the_policies_of_the_objective_sampled(block, parameters, shift=0.05, least_kl=1e-5)


# What the two modes of `tests.helpers.probes.TargetAction` allow one policy that does not tell them apart: to act 0
# where one is to act 1 and the other -1; the variance 1 of an action costs as much again.
STEPS = 4
BEST_WITHOUT_EMBEDDING = -2.0 * STEPS
PROBE: dict[str, Any] = {
    "env": "tests.helpers.probes:TargetAction",
    "env_kwargs": {"modes": 2, "target": 1.0, "signal": 1.0},
    "meta_batch_size": 10,
    "rollouts_per_meta_task": 10,
    "max_path_length": STEPS,
    "hidden_sizes": [8],
    "learn_std": False,
    "n_itr": 15,
    "num_promp_steps": 5,
    "learning_rate": 1e-2,
    "num_inner_grad_steps": 2,
    "inner_lr": 0.01,
    "save_steps": 1000,
}


@pytest.mark.learn
@pytest.mark.parametrize("options", [{}, {"first_order": True, "episodes_kept": "last_episodes"}])
def test_it_solves_what_no_policy_without_an_embedding_can(options: dict[str, Any], tmp_path: Path) -> None:
    config = small_config("tesp", dump_path=str(tmp_path / "run"), **PROBE | options)
    before, *_, after = held_out_returns(config, run(config)).mean(0)
    noise = 3 * STEPS * np.sqrt(6.0) / np.sqrt(100 * 10 * STEPS)  # three standard errors of the mean return
    assert before < BEST_WITHOUT_EMBEDDING + noise
    assert after > BEST_WITHOUT_EMBEDDING + 2 + noise


@pytest.mark.learn
@pytest.mark.parametrize("update", ["trpo", "vpg"])
def test_it_learns_by_other_meta_updates_too(update: str, tmp_path: Path) -> None:
    values = {"num_inner_grad_steps": 2, "n_itr": 1, "cg_iters": 2, "rollouts_per_meta_task": 6}
    config = small_config("tesp", meta_update=update, dump_path=str(tmp_path / "run"), **values)
    state = run(config)
    row = progress(tmp_path / "run")[0]
    assert float(row["LossAfter"]) < float(row["LossBefore"])
    assert float(row["Loss-embedding"]) > 0
    before = Worker(config).algorithm.init(generator(config.seed, "parameters"))
    assert all((state["parameters"][name] != value).any() for name, value in before.items())


def test_it_is_evaluated_for_more_steps_than_it_was_trained_for(tmp_path: Path) -> None:
    config = small_config("tesp", num_inner_grad_steps=2, dump_path=str(tmp_path / "run"))
    state = run(config)
    worker = Worker(config)
    with connect(parallel=False) as ranks:
        ranks.serve(worker)
        result = evaluate(ranks, worker, state, 5, 4)
    assert [step["adapt_steps"] for step in result["overall"]["return"]] == [0, 1, 2, 3, 4]


def test_embeddings_are_those_of_the_first_collection(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.npz"
    values = {"num_embeddings": 5, "embedding_size": 3, "num_inner_grad_steps": 2}
    run(small_config("tesp", dump_path=str(tmp_path / "run"), te_save_path=str(path), **values))
    with np.load(path) as saved:
        assert saved["embedding"].shape == (5, 3)
        assert np.unique(saved["embedding"], axis=0).shape[0] == 5
    algo, flat, rollouts, _ = setting("tesp", 2)
    meta = algo.spec.per_task(flat, 3)
    warm = algo.adapt(meta, algo.begin(meta, rollouts[0].identity), rollouts[:1])
    expected = algo.embedding(warm.params, warm.memory).squeeze(1)
    torch.testing.assert_close(algo.embed(flat, rollouts)["embedding"], expected)


def test_rates_are_counted_from_the_first_step_that_adapts() -> None:
    algo = _algorithm(inner_lr=[0.4, 0.2], num_inner_grad_steps=3)
    meta = {name: value[None] for name, value in algo.init(np.random.default_rng(0)).items()}
    rates = [algo.step_size(meta, step) for step in range(4)]
    assert [float(rate[name].mean()) for rate in rates for name in list(rate)[:1]] == pytest.approx(
        [0.4, 0.4, 0.2, 0.2]
    )
