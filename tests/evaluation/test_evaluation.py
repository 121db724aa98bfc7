"""Evaluation: fresh tasks, and other numbers of rollouts and steps than in training."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.config.loading import build_config
from mmaml.errors import UsageError
from mmaml.evaluation import held_out, summary
from mmaml.figures import recording
from mmaml.figures.family_pictures import picture_of
from mmaml.parallel.ranks import connect
from mmaml.worker import Worker
from tests.helpers.evaluating import SCRIPTS, returns_of, small_run
from tests.helpers.probes import HeldOut, Still


def test_the_result_goes_into_the_runs_folder(run: Path, evaluate: Callable[..., Any], capsys: Any) -> None:
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    capsys.readouterr()
    assert main(["--restore_path", str(run), "--num_tasks", "5"]) == 0
    output = capsys.readouterr().out
    result = json.loads((run / "evaluation.json").read_text())
    assert output.splitlines()[-1] == str(run / "evaluation.json")
    assert summary.table(result) in output
    assert result == evaluate(num_tasks=5)
    assert result["iteration"] == 2 and result["env_steps"] == 2 * 4 * 3 * 12 * 2
    assert sum(group["num_tasks"] for group in result["modes"].values()) == len(result["tasks"]) == 5
    assert result["overall"]["return"][1]["mean"] == pytest.approx(returns_of(result)[:, 1].mean())


def test_the_policy_sees_observations_as_the_statistics_of_its_run_normalise_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an evaluation, in videos and in pictures."""
    path = small_run(tmp_path / "run", algorithm="promp", normalize_observations=True, n_itr=1)
    config, state = held_out.restore(path)
    worker, collect, scalings = Worker(config), Worker.collect, []

    def noted(self: Worker, parameters: Any, scaling: Any, *arguments: Any, **options: Any) -> Any:
        scalings.append(scaling)
        return collect(self, parameters, scaling, *arguments, **options)

    monkeypatch.setattr(Worker, "collect", noted)
    with connect(parallel=False) as ranks:
        ranks.serve(worker)
        held_out.evaluate(ranks, worker, state, num_tasks=2, adapt_steps=0)
    recording.choose_episodes(worker, state, 1, "test")
    recording.sampled_stages(config, state, rollouts_per_task=1, stages=1)
    known, unknown = worker.statistics(state).vector(), worker.statistics().vector()
    assert known is not None and unknown is not None and not torch.equal(known, unknown)
    assert len(scalings) == 3 and all(torch.equal(one, known) for one in scalings)


def test_other_rollouts_and_steps_than_in_training(evaluate: Callable[..., Any]) -> None:
    assert returns_of(evaluate(num_adapt_steps=0)).shape == (7, 1)
    result = evaluate(num_adapt_steps=4, rollouts_per_task=1)
    assert returns_of(result).shape == (7, 5) and result["rollouts_per_task"] == 1
    assert np.isfinite(returns_of(result)).all()


def test_fewer_rollouts_than_a_product_with_the_fisher_matrix_took(
    tmp_path: Path, evaluate: Callable[..., Any]
) -> None:
    path = small_run(tmp_path / "run", algorithm="maml", fisher_rollouts=3, n_itr=1)
    assert evaluate(restore_path=path, rollouts_per_task=2)["rollouts_per_task"] == 2


def test_other_step_sizes_than_in_training(run: Path, evaluate: Callable[..., Any]) -> None:
    usual = evaluate(num_adapt_steps=2)
    assert usual["inner_lr"] == held_out.restore(run)[0].inner_lr
    assert evaluate(num_adapt_steps=2, inner_lr=usual["inner_lr"])["tasks"] == usual["tasks"]
    halved = evaluate(num_adapt_steps=2, inner_lr=(usual["inner_lr"], usual["inner_lr"] / 2))
    assert halved["inner_lr"] == [usual["inner_lr"], usual["inner_lr"] / 2]
    np.testing.assert_array_equal(returns_of(halved)[:, :2], returns_of(usual)[:, :2])
    assert (returns_of(halved)[:, 2] != returns_of(usual)[:, 2]).any()


def test_of_learned_step_sizes_only_ratios_can_be_changed(tmp_path: Path, evaluate: Callable[..., Any]) -> None:
    learned = small_run(tmp_path / "learned", algorithm="meta_sgd")
    usual = evaluate(restore_path=learned, num_adapt_steps=2)
    other, ratio = (evaluate(restore_path=learned, num_adapt_steps=2, inner_lr=rates) for rates in (7, (7, 3.5)))
    assert other["tasks"] == usual["tasks"] != ratio["tasks"]


def test_more_steps_and_tasks_leave_earlier_numbers_as_they_are(evaluate: Callable[..., Any]) -> None:
    usual, longer = returns_of(evaluate(num_adapt_steps=1)), returns_of(evaluate(num_adapt_steps=3))
    np.testing.assert_array_equal(longer[:, :2], usual)


def test_another_seed_is_another_draw(evaluate: Callable[..., Any]) -> None:
    assert not np.isin(returns_of(evaluate(seed=5)), returns_of(evaluate())).any()


def test_tasks_are_none_of_those_that_training_saw(run: Path) -> None:
    config, _ = held_out.restore(run)
    worker = Worker(config)
    fresh = {tuple(task.values["goal"]) for task in worker.sample_tasks(50, held_out.FRESH, "test")}
    seen = {
        tuple(task.values["goal"])
        for iteration in range(5)
        for purpose in ("train", "test")
        for task in worker.sample_tasks(50, iteration, purpose)
    }
    assert len(fresh) == 50 and not fresh & seen


def test_a_family_of_its_own_with_success_and_other_splits(tmp_path: Path, evaluate: Callable[..., Any]) -> None:
    other = small_run(tmp_path / "still", env="tests.helpers.probes:Still", algorithm="promp")
    result = evaluate(restore_path=other, split="ood")
    assert result["split"] == "ood" and result["overall"]["return"][0]["success_rate"] == 1.0
    config, _ = held_out.restore(other)
    assert config.env_spec is not None and picture_of(config.env_spec.family) is None


def test_tasks_of_training_are_evaluated_where_they_are_asked_for(
    tmp_path: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the finite set that training drew; of a family that has no others, too, which says so."""
    finite = small_run(tmp_path / "finite", algorithm="promp", num_train_tasks=5)
    modes = [task["mode"] for task in evaluate(restore_path=finite, num_tasks=10, split="train")["tasks"]]
    own = Counter(task.mode for task in Worker(held_out.restore(finite)[0]).sample_tasks(5, 0))
    assert Counter(modes) == {mode: 2 * count for mode, count in own.items()}
    other = small_run(tmp_path / "run", env="tests.helpers.probes:Still", algorithm="promp")
    monkeypatch.setattr(Still, "splits", ("train",))
    assert evaluate(restore_path=other, split="train")["split"] == "train"
    expected = r"^--split: expected a split of '.+:Still', which has train, got 'test'; give --split train$"
    with pytest.raises(UsageError, match=expected):
        held_out.check_split(held_out.restore(other)[0], "test")


def test_a_family_that_has_no_tasks_to_train_on_any_more_is_evaluated_on_those_it_has(
    tmp_path: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(HeldOut, "splits", ("train", "test"))
        other = small_run(tmp_path / "run", env="tests.helpers.probes:HeldOut", algorithm="promp")
    assert len(evaluate(restore_path=other)["tasks"]) == 7
    with pytest.raises(UsageError, match=r"^--split: expected a split of '.+:HeldOut', which has test"):
        held_out.check_split(held_out.restore(other)[0], "train")


def test_tasks_that_repeat_others_for_lack_of_more_are_reported(
    tmp_path: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Intervals are of the mean over tasks that are drawn independently."""
    monkeypatch.setattr(HeldOut, "splits", ("train", "test"))
    other = small_run(tmp_path / "run", env="tests.helpers.probes:HeldOut", algorithm="promp")
    for count, lines in ((7, []), (6, [1]), (1, [6])):
        monkeypatch.setattr(HeldOut, "tasks_per_mode", count)
        capsys.readouterr()
        evaluate(restore_path=other)
        notices = [line for line in capsys.readouterr().err.splitlines() if line.startswith("notice: ")]
        assert len(notices) == len(lines)
        for line, repeats in zip(notices, lines, strict=True):
            assert f"so that {repeats} of the 7 repeat others" in line and f"with --num_tasks {count} " in line


@pytest.mark.parametrize(
    ("env", "names", "gaps"),
    [
        ("MetaPointEnvMomentumModes", ["mode 0", "mode 1", "mode 2", "mode 3"], None),
        ("2DNavigation-v0", ["task 0", "task 1", "task 2", "task 3"], None),
        ("MetaPointEnvWalls", ["mode 0", "mode 1", "mode 2", "mode 3"], (4, 2, 2)),
    ],
)
def test_trajectories_on_one_task_a_mode(run: Path, env: str, names: list[str], gaps: Any) -> None:
    config, _ = held_out.restore(run)
    config = build_config(config.to_dict() | {"env": env, "algorithm": "promp"})
    worker = Worker(config)
    parameters = worker.algorithm.init(np.random.default_rng(0))
    shown = recording.point_mass_trajectories(recording.sampled_stages(config, {"parameters": parameters}, 6))
    assert shown.names == names
    assert shown.positions.shape == (4, 2, 6, 12, 2) and shown.connected.shape == (4, 2, 6, 11)
    assert (shown.gaps is None) == (gaps is None) and (gaps is None or shown.gaps.shape == gaps)
    assert np.abs(shown.positions[..., 0, :]).max() <= 0.2
    if env == "MetaPointEnvMomentumModes":  # each reward is minus the distance of the next position
        distance = np.linalg.norm(shown.positions - shown.goals[:, None, None, None], axis=-1)
        unknown = -shown.returns - distance[..., 1:].sum(-1).mean(-1)
        np.testing.assert_allclose(unknown, distance[..., -1].mean(-1), atol=2.0)


def test_the_plot_script_draws_both_figures(run: Path, capsys: Any) -> None:
    assert runpy.run_path(str(SCRIPTS / "plot.py"))["main"]([str(run), "--rollouts_per_task", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(run / "learning_curves.png"),
        str(run / "trajectories.png"),
    ]
    assert (run / "trajectories.png").stat().st_size > 10_000
