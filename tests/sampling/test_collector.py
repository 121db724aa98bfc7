"""Sampling: what is stored, how lanes and episodes are told apart, and that tasks do not see each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmaml.meta_batch import Master
from mmaml.parallel.ranks import connect
from mmaml.policies.distributions import Gaussian
from mmaml.sampling.rollouts import Rollouts
from mmaml.updates import losses
from mmaml.worker import Worker
from tests.helpers.support import Log, progress, run, sampled, small_config

RAGGED = {"env": "tests.helpers.probes:RandomLengths", "max_path_length": 12, "rollouts_per_meta_task": 5}


@pytest.mark.parametrize("mode", ["lanes", "episodes"])
def test_episodes_are_told_apart_and_counted_in_whole(mode: str) -> None:
    worker, _, statistics = sampled(small_config("promp", collect=mode, **RAGGED))
    assert worker.block is not None
    for step, rollouts in enumerate(worker.block.rollouts):
        left, taken = rollouts.observations.unbind(-1)
        real = rollouts.mask > 0
        assert torch.equal(rollouts.episode_start, (taken == 0) & real)
        assert torch.equal(rollouts.terminated, (left == 1) & real)
        at_horizon = taken[..., -1] == 11
        assert torch.equal(rollouts.truncated[..., -1], at_horizon & (left[..., -1] > 1) & real[..., -1])
        assert not rollouts.truncated[..., :-1].any()
        done = rollouts.terminated | rollouts.truncated
        last_of_lane = torch.zeros_like(done)
        last_of_lane[..., -1] = real[..., -1]
        assert torch.equal(rollouts.episode_end, done | last_of_lane)
        lengths = (taken[done] + 1).double()
        np.testing.assert_allclose(
            np.average(statistics["return"][:, step], weights=statistics["episodes"][:, step]), lengths.mean().item()
        )
        if mode == "lanes":
            assert real.all()
        else:
            assert (rollouts.episode_start.sum(-1) == 1).all() and (done.sum(-1) == 1).all()
            assert torch.equal(real.sum(-1), done.float().argmax(-1) + 1)
        torch.testing.assert_close(rollouts.weights.sum((1, 2)), torch.ones(rollouts.tasks))
    assert (statistics["env_steps"] == sum(c.mask.sum((1, 2)).numpy() for c in worker.block.rollouts)).all()


@pytest.mark.parametrize("algorithm", ["promp", "mmaml"])
def test_ratio_is_1_at_the_sampling_parameters(algorithm: str) -> None:
    worker, parameters, _ = sampled(small_config(algorithm, num_inner_grad_steps=2, **RAGGED))
    assert worker.block is not None
    algo, rollouts = worker.algorithm, worker.block.rollouts
    meta = algo.spec.per_task(parameters, rollouts[0].tasks)
    state = algo.begin(meta, rollouts[0].identity)
    for k, data in enumerate(rollouts):
        new = algo.distribution(state, data)  # type: ignore[attr-defined]
        ratio = losses.likelihood_ratio(new, data)
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
        assert losses.mean_kl(new, data).abs().max() < 1e-6
        if k < 2:
            state = algo.adapt(meta, state, rollouts[: k + 1])


def test_ratio_is_1_in_double_precision() -> None:
    worker, parameters, _ = sampled(small_config("promp", **RAGGED))
    assert worker.block is not None
    data = worker.block.rollouts[0]
    data = Rollouts.from_fields({n: v.double() if v.is_floating_point() else v for n, v in data.fields().items()})
    algo = worker.algorithm
    state = algo.begin(algo.spec.per_task(parameters.double(), data.tasks), data.identity)
    new = algo.distribution(state, data)  # type: ignore[attr-defined]
    data.log_probs = new.log_prob(data.flat("actions")).detach().view(data.log_probs.shape)
    mean = new.mean.detach().view(data.actions.shape)
    data.distribution = Gaussian(mean, new.log_std.detach()[:, :1, None])
    ratio = losses.likelihood_ratio(new, data)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-12)
    torch.testing.assert_close(data.flat_distribution().log_prob(data.flat("actions")), data.flat("log_probs"))
    assert losses.mean_kl(new, data).abs().max() < 1e-12


def test_log_std_has_its_floor_when_sampling_and_in_the_loss() -> None:
    config = small_config("promp", **RAGGED)
    worker = Worker(config)
    algo = worker.algorithm
    params = algo.init(np.random.default_rng(0))
    params["policy.log_std"] = torch.full_like(params["policy.log_std"], -40.0)
    with connect(parallel=False) as ranks:
        ranks.serve(worker)
        Master(config, ranks, worker, Log()).collect(algo.spec.flatten(params), worker.sample_tasks(4, 0), 0)
    assert worker.block is not None
    data = worker.block.rollouts[0]
    torch.testing.assert_close(
        data.distribution.log_std, torch.full_like(data.distribution.log_std, float(np.log(1e-6)))
    )
    assert torch.isfinite(data.log_probs).all()


def test_a_task_is_sampled_the_same_whatever_else_is_in_its_block() -> None:
    config = small_config("mmaml", **RAGGED)
    together, parameters, _ = sampled(config)
    assert together.block is not None
    alone = Worker(config)
    tasks = alone.sample_tasks(config.meta_batch_size, 0)
    for position, task in enumerate(tasks):
        alone.collect(parameters, None, [(position, task)], iteration=0)
        assert alone.block is not None
        for ours, theirs in zip(alone.block.rollouts, together.block.rollouts, strict=True):
            for name, value in ours.fields().items():
                assert torch.equal(value[0].nan_to_num(), theirs.fields()[name][position].nan_to_num()), name


def test_iterations_collections_tasks_and_purposes_draw_different_numbers() -> None:
    config = small_config("promp")
    worker, parameters, _ = sampled(config)
    assert worker.block is not None
    seen = [worker.block.rollouts[k].actions[m] for k in range(2) for m in range(4)]
    for iteration, purpose in ((1, "train"), (0, "test")):
        tasks = worker.sample_tasks(4, iteration, purpose)
        worker.collect(parameters, None, list(enumerate(tasks)), iteration=iteration, purpose=purpose)
        seen += [worker.block.rollouts[0].actions[m] for m in range(4)]
    noise = torch.stack(seen).flatten(1)
    assert len(torch.unique(noise, dim=0)) == len(noise)


@pytest.mark.parametrize("scale, expected", [("family", 0.01), (1.0, 0.1), (None, 1.0)])
def test_normalization_scale_rescales_actions(scale, expected: float) -> None:
    """Momentum's bounds are ±0.1 and its family's scale 10: a policy's action 1 moves v by 0.01."""
    worker, _, _ = sampled(small_config("promp", normalization_scale=scale))
    assert worker.block is not None
    data = worker.block.rollouts[0]
    moved = data.observations[:, :, 1, 2:] - data.observations[:, :, 0, 2:]
    torch.testing.assert_close(moved, (expected * data.actions[:, :, 0]).clamp(-0.1, 0.1), rtol=1e-3, atol=1e-5)


def test_blow_ups_are_counted_where_there_is_physics(tmp_path: Path) -> None:
    """Tasks of one lane: the first blows up at each third of its steps."""
    sizes = {"rollouts_per_meta_task": 2, "max_path_length": 10, "meta_batch_size": 3, "num_inner_grad_steps": 1}
    _, _, statistics = sampled(small_config("promp", env="tests.helpers.probes:BlowsUp", **sizes))
    assert statistics["blow_ups"].tolist() == [[3, 3], [0, 0], [0, 0]]
    config = small_config(
        "promp", env="tests.helpers.probes:BlowsUp", n_itr=1, dump_path=str(tmp_path / "run"), **sizes
    )
    run(config)
    assert float(progress(tmp_path / "run")[0]["BlowUps"]) == 6
    _, _, statistics = sampled(small_config("promp", **sizes))
    assert np.isnan(statistics["blow_ups"]).all()
