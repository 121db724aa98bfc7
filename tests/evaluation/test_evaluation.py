"""Evaluation: right statistics, fresh tasks, other numbers of rollouts and steps than in training."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmaml.config.loading import build_config
from mmaml.envs.base import Task
from mmaml.envs.point_mass import PointMass
from mmaml.errors import Failure, NotFinite, TasksFailed, UsageError
from mmaml.evaluation import held_out, summary
from mmaml.figures import recording
from mmaml.figures.family_pictures import picture_of
from mmaml.parallel.ranks import connect
from mmaml.trainer import train
from mmaml.worker import Worker
from tests.helpers.probes import GoesWrong, HeldOut, Still

SCRIPTS = Path(__file__).parents[2] / "run_scripts"
SMALL = {
    "n_itr": 2,
    "meta_batch_size": 4,
    "rollouts_per_meta_task": 3,
    "max_path_length": 12,
    "num_promp_steps": 1,
    "hidden_sizes": [8, 8],
    "cell_size": 6,
}


def _train(path: Path, **changes: Any) -> Path:
    train(build_config({**SMALL, "dump_path": str(path), **changes}), connect(parallel=False))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("evaluation") / "run", num_inner_grad_steps=1)


@pytest.fixture
def evaluate(tmp_path: Path, run: Path) -> Callable[..., dict[str, Any]]:
    """Run the script and read what it wrote."""
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]

    def call(**arguments: Any) -> dict[str, Any]:
        given = {"restore_path": run, "num_tasks": 7, "output": tmp_path / "result.json", **arguments}
        words = [(f"--{name}", *map(str, v if isinstance(v, tuple) else (v,))) for name, v in given.items()]
        assert main([word for group in words for word in group]) == 0
        return json.loads((tmp_path / "result.json").read_text())

    return call


def _returns(result: dict[str, Any]) -> np.ndarray:
    return np.array([task["return"] for task in result["tasks"]])


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.30265), (9, 2.26216), (39, 2.02269), (10**4, 1.9602)]
)
def test_students_quantile(degrees: int, expected: float) -> None:
    assert summary.student_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-4)
    assert summary.student_quantile(0.5, degrees) == pytest.approx(0.0, abs=1e-6)
    assert summary.student_quantile(0.025, degrees) == pytest.approx(-expected, rel=1e-4)


def test_the_interval_covers_the_mean_95_times_in_100() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    intervals = np.array([summary._spread(sample)["interval95"] for sample in samples])
    covered = (intervals[:, 0] < 3.0) & (intervals[:, 1] > 3.0)
    assert abs(covered.mean() - 0.95) < 0.015


def test_statistics_over_all_tasks_and_over_each_mode() -> None:
    rng = np.random.default_rng(0)
    returns, modes = rng.normal(size=(9, 3)), np.array([0, 2, 0, 0, 2, 5, 2, 0, 0])
    success = rng.random((9, 3))
    found = summary.summarise(returns, modes, success)
    assert [task["mode"] for task in found["tasks"]] == list(modes)
    np.testing.assert_array_equal(_returns(found), returns)
    assert list(found["modes"]) == ["0", "2", "5"]
    for group, chosen in [(found["overall"], modes >= 0), (found["modes"]["2"], modes == 2)]:
        assert group["num_tasks"] == chosen.sum()
        for k, step in enumerate(group["return"]):
            values = returns[chosen, k]
            assert step["adapt_steps"] == k
            assert step["mean"] == pytest.approx(values.mean())
            assert step["std"] == pytest.approx(np.std(values, ddof=1))
            assert step["success_rate"] == pytest.approx(success[chosen, k].mean())
            assert np.mean(step["interval95"]) == pytest.approx(values.mean())
    assert found["modes"]["5"]["return"][0] == {
        "adapt_steps": 0,
        "mean": returns[5, 0],
        "std": None,
        "interval95": None,
        "success_rate": success[5, 0],
    }
    json.dumps(found, allow_nan=False)


def test_modes_that_have_names_are_called_by_them() -> None:
    modes, returns = np.array([0, 0, 1, 1]), np.arange(4.0)[:, None]
    unknown, named = np.full((4, 1), np.nan), ("push-v3", "button-press-topdown-wall-v3")
    found = summary.summarise(returns, modes, unknown, mode_names=named)
    assert [group["name"] for group in found["modes"].values()] == list(named)
    rows = summary.table(found).splitlines()
    assert [row.split()[0] for row in rows[1:3]] == list(named) and len({len(row) for row in rows[1:]}) == 1
    assert rows[1].index(" 2 ") + 2 == rows[2].index(" 2 ") + 2 == rows[0].index("tasks") + len("tasks")
    assert "mode 1" in summary.table(summary.summarise(returns, modes, unknown))


def test_what_was_not_measured_is_left_out() -> None:
    nan = np.nan
    found = summary.summarise(np.array([[1.0], [nan], [3.0]]), np.array([0, 1, 0]), np.full((3, 1), nan))
    assert found["overall"]["return"][0]["mean"] == 2.0
    assert found["modes"]["1"]["return"] == [{"adapt_steps": 0, "mean": None, "std": None, "interval95": None}]
    assert found["tasks"][1] == {"mode": 1, "return": [None]}
    json.dumps(found, allow_nan=False)
    assert "success" not in summary.table(found)


def test_a_trial_is_worth_the_sum_of_its_episodes() -> None:
    """Which tables of bandits give. Its interval is that of the sum, whose episodes depend on each other."""
    returns = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    unknown = np.full((3, 2), np.nan)
    found = summary.summarise(returns, np.zeros(3, int), unknown, by_episode=True)
    assert found["overall"]["trial"]["mean"] == 5.0 and found["overall"]["trial"]["std"] == pytest.approx(2.0)
    rows = [line.split() for line in summary.table(found, by_episode=True).splitlines()[1:]]
    assert [row[:2] for row in rows[-2:]] == [["2", "3.00"], ["trial", "5.00"]]
    steps = summary.summarise(returns, np.zeros(3, int), unknown)
    assert "trial" not in steps["overall"] and "trial" not in summary.table(steps)


def test_the_table_is_aligned_and_complete() -> None:
    returns = np.array([[-1234.5, 1.25], [-1000.0, 2.0], [3.0, 4.0]])
    text = summary.table(summary.summarise(returns, np.array([0, 0, 1]), np.full((3, 2), 0.5)))
    header, *rows = text.splitlines()
    assert len(rows) == 6 and header.split() == [
        "tasks",
        "steps",
        "mean",
        "std",
        "95%",
        "interval",
        "success",
    ]
    for row, mean in zip(rows, ["-1117.25", "1.62", "3.00", "4.00", "-743.83", "2.42"], strict=True):
        assert row[: header.index("mean") + 4].split()[-1] == mean and row.endswith("50.0%")


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
    assert result["overall"]["return"][1]["mean"] == pytest.approx(_returns(result)[:, 1].mean())


def test_other_rollouts_and_steps_than_in_training(evaluate: Callable[..., Any]) -> None:
    assert _returns(evaluate(num_adapt_steps=0)).shape == (7, 1)
    result = evaluate(num_adapt_steps=4, rollouts_per_task=1)
    assert _returns(result).shape == (7, 5) and result["rollouts_per_task"] == 1
    assert np.isfinite(_returns(result)).all()


def test_fewer_rollouts_than_a_product_with_the_fisher_matrix_took(
    tmp_path: Path, evaluate: Callable[..., Any]
) -> None:
    path = _train(tmp_path / "run", algorithm="maml", fisher_rollouts=3, n_itr=1)
    assert evaluate(restore_path=path, rollouts_per_task=2)["rollouts_per_task"] == 2


def test_other_step_sizes_than_in_training(run: Path, evaluate: Callable[..., Any]) -> None:
    usual = evaluate(num_adapt_steps=2)
    assert usual["inner_lr"] == held_out.restore(run)[0].inner_lr
    assert evaluate(num_adapt_steps=2, inner_lr=usual["inner_lr"])["tasks"] == usual["tasks"]
    halved = evaluate(num_adapt_steps=2, inner_lr=(usual["inner_lr"], usual["inner_lr"] / 2))
    assert halved["inner_lr"] == [usual["inner_lr"], usual["inner_lr"] / 2]
    np.testing.assert_array_equal(_returns(halved)[:, :2], _returns(usual)[:, :2])
    assert (_returns(halved)[:, 2] != _returns(usual)[:, 2]).any()


def test_of_learned_step_sizes_only_ratios_can_be_changed(tmp_path: Path, evaluate: Callable[..., Any]) -> None:
    learned = _train(tmp_path / "learned", algorithm="meta_sgd")
    usual = evaluate(restore_path=learned, num_adapt_steps=2)
    other, ratio = (evaluate(restore_path=learned, num_adapt_steps=2, inner_lr=rates) for rates in (7, (7, 3.5)))
    assert other["tasks"] == usual["tasks"] != ratio["tasks"]


def test_more_steps_and_tasks_leave_earlier_numbers_as_they_are(evaluate: Callable[..., Any]) -> None:
    usual, longer = _returns(evaluate(num_adapt_steps=1)), _returns(evaluate(num_adapt_steps=3))
    np.testing.assert_array_equal(longer[:, :2], usual)


def test_another_seed_is_another_draw(evaluate: Callable[..., Any]) -> None:
    assert not np.isin(_returns(evaluate(seed=5)), _returns(evaluate())).any()


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
    other = _train(tmp_path / "still", env="tests.helpers.probes:Still", algorithm="promp")
    result = evaluate(restore_path=other, split="ood")
    assert result["split"] == "ood" and result["overall"]["return"][0]["success_rate"] == 1.0
    config, _ = held_out.restore(other)
    assert config.env_spec is not None and picture_of(config.env_spec.family) is None


def test_tasks_of_training_are_evaluated_where_they_are_asked_for(
    tmp_path: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the finite set that training drew; of a family that has no others, too, which says so."""
    finite = _train(tmp_path / "finite", algorithm="promp", num_train_tasks=5)
    modes = [task["mode"] for task in evaluate(restore_path=finite, num_tasks=10, split="train")["tasks"]]
    own = Counter(task.mode for task in Worker(held_out.restore(finite)[0]).sample_tasks(5, 0))
    assert Counter(modes) == {mode: 2 * count for mode, count in own.items()}
    other = _train(tmp_path / "run", env="tests.helpers.probes:Still", algorithm="promp")
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
        other = _train(tmp_path / "run", env="tests.helpers.probes:HeldOut", algorithm="promp")
    assert len(evaluate(restore_path=other)["tasks"]) == 7
    with pytest.raises(UsageError, match=r"^--split: expected a split of '.+:HeldOut', which has test"):
        held_out.check_split(held_out.restore(other)[0], "train")


def test_tasks_that_repeat_others_for_lack_of_more_are_reported(
    tmp_path: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Intervals are of the mean over tasks that are drawn independently."""
    monkeypatch.setattr(HeldOut, "splits", ("train", "test"))
    other = _train(tmp_path / "run", env="tests.helpers.probes:HeldOut", algorithm="promp")
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


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in whose environments something may go wrong later."""
    values = {"env": "tests.helpers.probes:GoesWrong", "env_kwargs": {"tasks": []}, "algorithm": "promp", "n_itr": 1}
    return _train(tmp_path_factory.mktemp("probed") / "run", **values)


def _goes_wrong(monkeypatch: pytest.MonkeyPatch, *places: int, fault: str = "error") -> None:
    """From now on, in the tasks at these places."""
    draw = GoesWrong._draw_tasks

    def bad(self: GoesWrong, *arguments: Any) -> list[Task]:
        self.bad_tasks = places
        return draw(self, *arguments)

    monkeypatch.setattr(GoesWrong, "_draw_tasks", bad)
    monkeypatch.setattr(GoesWrong, "fault", property(lambda self: fault, lambda self, value: None), raising=False)


def test_tasks_whose_environment_fails_are_left_out_and_told(
    probed: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluate(restore_path=probed)
    _goes_wrong(monkeypatch, 1, 4)
    capsys.readouterr()
    partly = evaluate(restore_path=probed)
    assert partly["tasks"] == [task for place, task in enumerate(whole["tasks"]) if place not in (1, 4)]
    assert partly["overall"]["num_tasks"] == 5
    errors = capsys.readouterr().err
    assert errors.count("Traceback") == 1
    told = [line.partition(" failed")[0] for line in errors.splitlines() if line.startswith("warning")]
    assert told == [f"warning: the environment of task {place}" for place in (1, 4)]


@pytest.mark.parametrize(
    ("arguments", "fault", "expected"),
    [
        (["--inner_lr", "1e30"], "", "is -inf; lower inner_lr"),
        ([], "reward", "task 0 (mode 0), collection 0, step 0 of rollout 0: reward is nan; lower inner_lr"),
        ([], "error", "the environments of all 3 tasks failed; fix it"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    run: Path,
    probed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    fault: str,
    expected: str,
) -> None:
    if fault:
        _goes_wrong(monkeypatch, 0, 1, 2, fault=fault)
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    capsys.readouterr()
    assert main(["--restore_path", str(probed if fault else run), "--num_tasks", "3", *arguments]) == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert captured.out == "" and error.startswith("error: ") and expected in error
    assert captured.err.count("Traceback") == (fault == "error")


@pytest.mark.parametrize("error", [NotFinite("reward is nan"), TasksFailed([Failure(0, "as asked", "")])])
def test_trajectories_that_cannot_be_drawn_are_one_line(
    run: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Worker, "collect", fail)
    for words in (["plot.py", str(run)], ["visualize_policy.py", "--restore_path", str(run)]):
        assert runpy.run_path(str(SCRIPTS / words[0]))["main"](words[1:]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate.py", "--restore_path"],
        ["plot.py"],
        ["visualize_policy.py", "--restore_path"],
    ],
)
def test_tasks_that_cannot_be_drawn_are_one_line(
    run: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the traceback of the environment's code."""

    def fail(*_: Any) -> None:
        raise LookupError("no such tasks")

    monkeypatch.setattr(PointMass, "_draw_tasks", fail)
    capsys.readouterr()
    assert runpy.run_path(str(SCRIPTS / words[0]))["main"]([*words[1:], str(run)]) == 2
    *trace, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and 'sample_tasks failed for the split "test" (LookupError: no such' in error
    assert [line for line in trace if not line.startswith(" ")] == [
        "Traceback (most recent call last):",
        "LookupError: no such tasks",
    ]


def test_processes_of_an_unknown_launcher_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    assert runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"](["--restore_path", str(run)]) == 2
    assert "start them with this environment's mpirun: mpirun -n 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "RUN: expected a run's directory, got nothing"),
        (["--restore_path", "{tmp}/none"], "got '{tmp}/none', which does not exist"),
        (["--restore_path", "{tmp}"], "got '{tmp}', which contains none"),
        (["--restore_path", "{tmp}/" + 300 * "x"], "restore_path: '{tmp}/xxx"),
        (["--restore_path", "{run}/params.json"], "cannot be read as a checkpoint"),
        (
            ["--restore_path", "{run}", "--num_tasks", "0"],
            "--num_tasks: expected a whole number ≥ 1, got 0",
        ),
        (["--restore_path", "{run}", "--num_tasks", "many"], "--num_tasks"),
        (
            ["--restore_path", "{run}", "--num_adapt_steps", "-1"],
            "--num_adapt_steps: expected a whole number ≥ 0",
        ),
        (["--restore_path", "{run}", "--rollouts_per_task", "0"], "--rollouts_per_task"),
        (
            ["--restore_path", "{run}", "--split", "ood"],
            "--split: expected a split of 'MetaPointEnvMomentumModes', which has train, test, got 'ood'",
        ),
        (["--restore_path", "{run}", "--inner_lr", "0.1", "0"], "a number > 0 and ≤ 1e+30, got '0'"),
        (["--restore_path", "{run}", "--inner_lr", "-1"], "a number > 0 and ≤ 1e+30, got '-1'"),
        (["--restore_path", "{run}", "--inner_lr", "nan"], "a number > 0 and ≤ 1e+30, got 'nan'"),
        (["--restore_path", "{run}", "--inner_lr", "1e300"], "a number > 0 and ≤ 1e+30, got '1e300'"),
        (["--restore_path", "{run}", "--inner_lr", "fast"], "a number > 0 and ≤ 1e+30, got 'fast'"),
        (["--restore_path", "{run}", "--inner_lr"], "--inner_lr"),
        # Before it is looked for: with what a file is called while it is written, the name is too long.
        (["--restore_path", "{tmp}/none", "--output", 250 * "x"], "--output: expected a path that can be written"),
        (["--restore_path", "{run}", "--steps", "3"], "--steps"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, run: Path, capsys: Any, arguments: list[str], expected: str
) -> None:
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    capsys.readouterr()
    places = {"tmp": tmp_path, "run": run}
    assert main([argument.format(**places) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and expected.format(**places) in captured.err
