"""An algorithm that remembers, through the contract: trials, credit over them, learning, buffers, stages."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml import task_block as task_block_module
from mmaml.evaluation.held_out import restore
from mmaml.figures import curves
from mmaml.sampling.normalisation import Scaling
from mmaml.storage import checkpoint
from mmaml.task_block import TaskBlock
from mmaml.updates.evaluate import Question
from mmaml.worker import Worker
from tests.helpers.recurrent_bandit import MODULE, RecurrentBandit
from tests.helpers.support import assert_same_states, held_out_returns, progress, run, sampled, small_config

EPISODES = 3
BANDIT: dict[str, Any] = {
    "env": f"{MODULE}:WaitingBandit",
    "meta_batch_size": 5,
    "rollouts_per_meta_task": 4,
    "max_path_length": 2,
    "episodes_per_trial": EPISODES,
    "init_inner_kl_penalty": 0.0,
    "entropy_coeff": 0.01,
    "gae_lambda": 0.95,
}
OPTIONS = {"clip_eps": 0.2, "mean": 0.1, "std": 0.7}
EVALUATE = Path(__file__).parents[2] / "run_scripts" / "evaluate.py"


def config_of(name: str = "RecurrentBandit", **overrides: Any) -> Any:
    return small_config(f"{MODULE}:{name}", **BANDIT | overrides)


def collected(**overrides: Any) -> tuple[RecurrentBandit, TaskBlock, torch.Tensor]:
    """One meta-batch, at parameters that are not those of the start."""
    config = config_of(**overrides)
    worker, parameters, _ = sampled(config)
    g = torch.Generator().manual_seed(1)
    moved = parameters + 0.3 * torch.randn(parameters.shape, generator=g)
    items = list(enumerate(worker.sample_tasks(config.meta_batch_size, 0)))
    worker.collect(moved, None, items, 0)
    assert worker.block is not None and isinstance(worker.algorithm, RecurrentBandit)
    return worker.algorithm, worker.block, moved


@pytest.mark.long
@pytest.mark.learn
@pytest.mark.parametrize("name, low, high", [("RecurrentBandit", 2.4, 2.5), ("Forgetful", 1.3, 1.7)])
def test_it_learns_to_the_known_optimum_and_without_a_memory_it_cannot(
    name: str, low: float, high: float, tmp_path: Path
) -> None:
    """The best return over E episodes is E - 1/2; half of E without a memory."""
    learning = {
        "num_promp_steps": 8,
        "num_minibatches": 4,
        "learning_rate": 3e-3,
        "clip_eps": 0.2,
        "max_grad_norm": 0.5,
    }
    sizes = {"meta_batch_size": 16, "rollouts_per_meta_task": 8, "cell_size": 16, "n_itr": 40}
    config = config_of(name, **learning | sizes, dump_path=str(tmp_path / "run"))
    state = run(config)
    returns = held_out_returns(config, state, 40).mean(0)
    assert returns.shape == (EPISODES,) and low <= returns.sum() <= high
    if name == "RecurrentBandit":
        assert returns[0] == pytest.approx(0.5, abs=0.1) and returns[1:].min() > 0.95
        longer = held_out_returns(config, state, 40, stages=EPISODES + 1).mean(0)
        assert longer.shape == (EPISODES + 1,) and longer[-1] > 0.8


def test_what_is_learned_from_is_what_was_seen_and_done() -> None:
    algo, block, parameters = collected()
    (data,) = block.rollouts
    meta = algo.spec.per_task(parameters, data.tasks)
    steps = data.steps()
    carried, states = None, algo.states(meta, data)
    for t in range(data.rewards.shape[2]):
        step = type(steps)(*(value[:, :, t] for value in steps))
        distribution, carried = algo.actor(meta)(step, carried)
        assert torch.equal(carried, states[t])
        torch.testing.assert_close(distribution.logits, data.distribution.logits[:, :, t])
    new, _ = algo.outputs(meta, data)
    torch.testing.assert_close(new.log_prob(data.flat("actions")), data.flat("log_probs"), rtol=1e-5, atol=1e-6)
    assert steps.episode_start[..., ::2].all() and not steps.episode_start[..., 1::2].any()
    assert torch.equal(steps.previous_reward[:, :, 1:], data.rewards[:, :, :-1]) and data.rewards.any()
    assert not steps.previous_action[:, :, 0].any() and not steps.previous_reward[:, :, 0].any()


def test_it_is_sampled_once_and_adapts_nothing() -> None:
    algo, block, parameters = collected()
    assert algo.collections == len(block.rollouts) == 1
    state = algo.begin(algo.spec.per_task(parameters, 5), block.rollouts[0].identity)
    assert algo.adapt(state, state, block.rollouts) is state


def test_a_trial_ends_where_its_last_episode_does() -> None:
    """Each lane is E episodes of one task, and only rewards after the trial count for nothing."""
    algo, block, parameters = collected(discount=0.9)
    (data,) = block.rollouts
    assert data.terminated[..., 1::2].all() and data.mask.all()
    meta = algo.spec.per_task(parameters, data.tasks)
    with torch.no_grad():
        values = algo.outputs(meta, data)[1].view(data.rewards.shape).double()
    expected, following = torch.zeros_like(values), 0.0
    for t in range(values.shape[-1] - 1, -1, -1):
        later = values[..., t + 1] if t < values.shape[-1] - 1 else 0.0
        delta = data.rewards[..., t] + 0.9 * later - values[..., t]
        expected[..., t] = following = delta + 0.9 * 0.95 * following
    torch.testing.assert_close(data.advantages.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(data.value_targets.double(), expected + values, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_advantages_over_the_trial_are_not_normalised_per_task() -> None:
    """The update normalises them over the meta-batch."""
    (plain, targets), *others = (
        algo.advantages(algo.spec.per_task(parameters, 5), block.rollouts[0], 2 * block.rollouts[0].rewards)
        for algo, block, parameters in (
            collected(discount=0.9, normalize_adv=False),
            collected(discount=0.9, normalize_adv=True),
            collected(discount=0.9, normalize_adv=True, positive_adv=True),
        )
    )
    for advantages, same_targets in others:
        assert torch.equal(advantages, plain) and torch.equal(same_targets, targets) and plain.any()


def test_a_task_is_computed_the_same_alone_as_in_a_block() -> None:
    _, block, parameters = collected()
    for function in ("meta_gradient", "meta_loss", "moments"):
        options = {} if function == "moments" else OPTIONS
        together = block.answer(Question(function, parameters, options=options))
        for task in range(5):
            alone = block.answer(Question(function, parameters, tasks=[task], options=options))
            for name, value in alone.items():
                np.testing.assert_array_equal(value[0], together[name][task])


def test_chunks_of_lanes_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of back-propagation through a trial is bounded, whatever the number of lanes."""
    _, block, parameters = collected(rollouts_per_meta_task=7)
    question = Question("meta_gradient", parameters, options=OPTIONS)
    whole = block.answer(question)
    seen = []
    monkeypatch.setattr(task_block_module, "CPU_CHUNK_STEPS", 3 * 6)
    states = RecurrentBandit.states
    monkeypatch.setattr(
        RecurrentBandit, "states", lambda self, meta, data: seen.append(data.rewards.shape) or states(self, meta, data)
    )
    parts = block.answer(question)
    assert {shape[0] for shape in seen} == {1} and {shape[1] for shape in seen} == {3, 4}
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, atol=1e-6)


def test_a_minibatch_of_lanes_is_a_mean_over_these() -> None:
    _, block, parameters = collected()
    halves = [
        block.answer(Question("meta_gradient", parameters, lanes=lanes, options=OPTIONS)) for lanes in ([0, 3], [1, 2])
    ]
    whole = block.answer(Question("meta_gradient", parameters, options=OPTIONS))
    for name in ("gradient", "loss", "value"):
        mean = (halves[0][name] + halves[1][name]) / 2
        np.testing.assert_allclose(mean, whole[name], rtol=1e-4, atol=1e-6)
        assert not np.allclose(halves[0][name], whole[name], rtol=1e-2)


def test_its_gradient_agrees_with_finite_differences() -> None:
    algo, block, parameters = collected(cell_size=3)
    data = block.rollouts[0].select(slice(1))
    data = type(data).from_fields({k: v.double() if v.is_floating_point() else v for k, v in data.fields().items()})
    flat, options = parameters.double(), OPTIONS | {"clip_eps": 10.0}
    gradient = algo.meta_gradient(flat, [data], None, **options)["gradient"][0]
    for index in range(0, len(flat), 7):
        step = torch.zeros_like(flat)
        step[index] = 1e-6
        above, below = (algo.meta_loss(flat + way * step, [data], None, **options)["loss"] for way in (1, -1))
        assert float(gradient[index]) == pytest.approx(float(above - below) / 2e-6, rel=1e-4, abs=1e-8)


def test_a_run_that_goes_on_is_the_run_that_did_not_stop(tmp_path: Path) -> None:
    """Both optimisers, the buffer and the running statistics are in the checkpoint."""
    values = {"normalize_observations": True, "normalize_rewards": True, "save_steps": 1, "num_minibatches": 2}
    whole = run(config_of(**values, n_itr=5, dump_path=str(tmp_path / "whole")))
    run(config_of(**values, n_itr=3, dump_path=str(tmp_path / "parts")))
    again = {"restore_path": str(tmp_path / "parts"), "dump_path": str(tmp_path / "parts")}
    assert_same_states(run(config_of(**values, n_itr=5, **again)), whole)
    assert len(whole["algorithm"]["buffer"]["rewards"]) == 3 * 5 * 4
    assert whole["statistics"]["observations"]["count"] == 5 * 5 * 4 * 6


def test_states_of_other_sizes_are_refused(tmp_path: Path) -> None:
    state = run(config_of(dump_path=str(tmp_path / "run")))
    algo = Worker(config_of()).algorithm
    for part, wrong in (
        ("buffer", {"actions": torch.zeros(2, 5, 2), "rewards": torch.zeros(2, 5)}),
        ("buffer", {"actions": torch.zeros(2, 6, 2)}),
        ("optimizer", state["algorithm"]["update"]["optimizer"]),
    ):
        with pytest.raises(ValueError, match="expected"):
            algo.load_state_dict(state["algorithm"] | {part: wrong})


@pytest.mark.parametrize("steps, stages", [((), EPISODES), (("--num_adapt_steps", "4"), 5)])
def test_it_is_evaluated_by_episode(
    steps: tuple[str, ...], stages: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config_of(dump_path=str(tmp_path / "run")))
    capsys.readouterr()
    main = runpy.run_path(str(EVALUATE))["main"]
    assert main(["--restore_path", str(tmp_path / "run"), "--num_tasks", "6", *steps]) == 0
    text = capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    returns = np.array([task["return"] for task in result["tasks"]])
    assert returns.shape == (6, stages) and ((returns >= 0) & (returns <= 1)).all()
    assert "episode" in text.splitlines()[4] and "steps" not in text.splitlines()[4]
    for episode in range(1, stages + 1):
        assert any(line[18:].split()[:1] == [str(episode)] for line in text.splitlines()[5:])


def test_its_log_and_its_curves_are_by_episode_beside_those_of_other_algorithms(tmp_path: Path) -> None:
    run(config_of(eval_interval=1, eval_num_tasks=4, dump_path=str(tmp_path / "remembers")))
    run(small_config("promp", dump_path=str(tmp_path / "adapts")))
    row = progress(tmp_path / "remembers")[-1]
    names = [f"{prefix}Step_{k}-AverageReturn" for prefix in ("", "Eval-") for k in range(EPISODES)]
    assert all(0 <= float(row[name]) <= 1 for name in names) and "Step_3-AverageReturn" not in row
    assert float(row["Step_0-NumEpisodes"]) == 5 * 4 and "KLInner" not in row
    runs = [curves.read_run(tmp_path / name, name) for name in ("remembers", "adapts")]
    assert runs[0][1].returns.shape[2] == EPISODES
    assert runs[0][1].by_episode and not runs[1][1].by_episode
    curves.plot_curves(curves.group_runs(runs), tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 1000


def test_the_policy_of_a_checkpoint_acts_on_normalised_observations(tmp_path: Path) -> None:
    run(config_of(normalize_observations=True, normalize_rewards=True, dump_path=str(tmp_path / "run")))
    config, state = restore(tmp_path / "run")
    worker = Worker(config)
    vector = worker.statistics(state).vector()
    scaling = Scaling.from_vector(vector)
    assert (
        scaling is not None
        and scaling.mean.item() == pytest.approx(0.5)
        and scaling.std.item() == pytest.approx(0.5, rel=1e-3)
    )
    parameters = worker.algorithm.spec.flatten(state["parameters"])
    worker.collect(parameters, vector, list(enumerate(worker.sample_tasks(2, 7))), 7)
    assert worker.block is not None
    observations = worker.block.rollouts[0].observations
    torch.testing.assert_close(scaling.original(observations).unique(), torch.tensor([0.0, 1.0]), rtol=0, atol=1e-5)
    assert observations.mean().abs() < 1e-3
    assert checkpoint.load(tmp_path / "run")["statistics"].keys() == {"observations", "returns"}


def test_running_statistics_of_another_family_are_refused(tmp_path: Path) -> None:
    """In one line, before any work."""
    state = run(config_of(normalize_observations=True, dump_path=str(tmp_path / "run")))
    worker = Worker(config_of(normalize_observations=True))
    moments = state["statistics"]["observations"]
    for wrong in ({}, {"observations": {}}, {"observations": moments | {"mean": torch.zeros(3)}}):
        with pytest.raises(checkpoint.CheckpointError, match="restore_path: the running statistics"):
            worker.statistics(state | {"statistics": wrong})
