"""What is read of runs: which are one experiment, where returns come from, what is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mmaml.errors import UsageError
from mmaml.report.gather import Gathered, differing_keys, gather
from mmaml.report.summary import estimates
from tests.helpers.reported import write_evaluation, write_run

RETURNS = [[-800, -8], [-700, -6], [-600, -4]]
EVALUATED = np.array([[-9.0, -5.0], [-7.0, -3.0]])


def gathered(*paths: Path) -> Gathered:
    return gather([("", path) for path in paths])


def test_runs_that_differ_only_in_their_seeds_are_one_experiment(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "slow" / str(seed), RETURNS, seed=seed, learning_rate=5e-5)
        write_run(tmp_path / "fast" / str(seed), RETURNS, seed=seed, learning_rate=1e-3, cpu=seed == 1)
    found = gathered(tmp_path, tmp_path / "fast" / "1")
    assert [[run.config["seed"] for run in one.runs] for one in found.experiments] == [[1, 2], [1, 2]]
    assert [one.label for one in found.experiments] == ["mmaml, learning_rate 0.001", "mmaml, learning_rate 5e-05"]
    assert differing_keys(found.runs) == ["learning_rate"]
    run, other = found.experiments[0].runs
    assert (run.seconds, run.cpu_seconds, run.ranks, run.commit) == (6, 9, 2, "0123abc-dirty")
    assert dict(run.versions)["torch"] == "2.13.0" and other.cpu_seconds is None


def test_returns_are_those_of_evaluations_if_all_seeds_have_one(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), RETURNS, seed=seed) for seed in (1, 2)]
    (one,) = gathered(*runs).experiments
    assert not one.evaluated
    np.testing.assert_array_equal(one.seeds[0].returns, [[-700, -6]])
    write_evaluation(runs[0], EVALUATED, [0, 1])
    found = gathered(*runs)
    assert not found.experiments[0].evaluated
    assert found.notices == ("mmaml: evaluations are not there for all runs; its returns are those of training.",)
    write_evaluation(runs[1], EVALUATED + 1, [0, 1], success=0.25)
    found = gathered(*runs)
    assert found.experiments[0].evaluated and not found.notices
    np.testing.assert_array_equal(found.experiments[0].seeds[1].returns, EVALUATED + 1)
    assert found.experiments[0].success == (0.25, 0.25)
    write_evaluation(runs[1], EVALUATED[:, :1], [0, 1])
    found = gathered(*runs)
    assert not found.experiments[0].evaluated and "differ in stages, tasks, rollouts or step sizes" in found.notices[0]


def test_evaluations_with_other_step_sizes_are_not_averaged(tmp_path: Path) -> None:
    for seed in (1, 2):
        run = write_run(tmp_path / str(seed), RETURNS, seed=seed)
        write_evaluation(run, EVALUATED, [0, 1], inner_lr=[0.1 * seed])
    found = gathered(tmp_path)
    assert not found.experiments[0].evaluated and "step sizes" in found.notices[0]


def test_steps_of_different_rollouts_are_noticed(tmp_path: Path) -> None:
    for name, rollouts in {"maml": 20, "promp": 5}.items():
        run = write_run(tmp_path / name, RETURNS, algorithm=name)
        write_evaluation(run, EVALUATED, [0, 1], rollouts_per_task=rollouts)
    why = "A step of adaptation is taken from different numbers of episodes: maml 20, promp 5."
    assert gathered(tmp_path).notices == (why,)
    write_evaluation(run, EVALUATED, [0, 1], rollouts_per_task=5, by_episode=True)
    assert not gathered(tmp_path).notices, "trials of a task only sharpen the measurement"


def test_seeds_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for seed in (10, 2, 1):
        write_run(tmp_path / f"seed_{seed}", RETURNS, seed=seed)
    assert [run.config["seed"] for run in gathered(tmp_path).runs] == [1, 2, 10]


def test_a_run_that_went_on_after_its_evaluation_is_noticed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "1", RETURNS)
    write_evaluation(run, EVALUATED, [0, 1], iteration=3)
    assert not gathered(run).notices
    write_evaluation(run, EVALUATED, [0, 1], iteration=2)
    found = gathered(run)
    assert found.experiments[0].evaluated
    assert found.notices == (f"mmaml: evaluated before the latest iteration: {run} (after 2 of 3).",)


def test_a_seed_counts_once(tmp_path: Path) -> None:
    """The same numbers twice would make intervals too narrow; the run that went further is the one that is kept."""
    shorter = write_run(tmp_path / "a", RETURNS[:2], seed=1, n_itr=2)
    longer = write_run(tmp_path / "b", RETURNS, seed=1)
    write_run(tmp_path / "c", RETURNS, seed=2)
    found = gathered(tmp_path)
    assert [run.path for run in found.runs] == [str(longer), str(tmp_path / "c")]
    assert found.notices == (f"{shorter} repeats seed 1 of {longer}, and is left out.",)


def test_of_a_run_and_a_continuation_as_long_the_continuation_counts(tmp_path: Path) -> None:
    first, goes_on = (write_run(tmp_path / name, RETURNS) for name in ("a", "b"))
    header, *rows = (goes_on / "progress.csv").read_text().splitlines()
    later = [f"{3 + index},{1000 * (4 + index)},{row.split(',', 2)[2]}" for index, row in enumerate(rows)]
    (goes_on / "progress.csv").write_text("\n".join([header, *later]) + "\n")
    found = gathered(tmp_path)
    assert [run.path for run in found.runs] == [str(goes_on)]
    assert found.notices == (f"{first} repeats seed 1 of {goes_on}, and is left out.",)


def test_a_run_all_of_whose_iterations_met_nan_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "1", RETURNS)
    diverged = write_run(tmp_path / "2", [[], []], seed=2)
    found = gathered(tmp_path)
    assert [run.config["seed"] for run in found.runs] == [1]
    assert found.notices == (f"{diverged} has no iteration with returns, and is left out.",)
    with pytest.raises(UsageError, match=rf"^RUN: no iteration of '{re.escape(str(diverged))}' has returns; read its"):
        gathered(diverged)


def test_runs_behind_links_are_found_once(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "elsewhere" / str(seed), RETURNS, seed=seed)
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / f"seed_{seed}").symlink_to(tmp_path / "elsewhere" / str(seed))
    (tmp_path / "elsewhere" / "above").symlink_to(tmp_path)
    for path in (tmp_path / "runs", tmp_path):
        assert [run.config["seed"] for run in gathered(path).runs] == [1, 2]


def test_runs_with_different_labels_are_different_experiments(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, RETURNS) for name in ("old", "new")]
    other = write_run(tmp_path / "other", RETURNS, seed=2)
    found = gather([("Old", paths[0]), ("New", paths[1]), ("", other)])
    assert [(one.label, len(one.runs)) for one in found.experiments] == [("Old", 2), ("New", 1)]
    assert not found.notices


def test_runs_that_have_not_had_all_iterations_are_noticed(tmp_path: Path) -> None:
    stopped = write_run(tmp_path / "1", RETURNS, n_itr=10)
    write_run(tmp_path / "2", RETURNS, seed=2)
    assert gathered(tmp_path).notices == (f"mmaml: fewer iterations than n_itr: {stopped} (3 of 10).",)


def test_a_run_that_goes_on_from_another_has_had_its_iterations_too(tmp_path: Path) -> None:
    """In a directory of its own its log begins where the other's ends, so that it lacks the CPU time until then."""
    run = write_run(tmp_path / "run", RETURNS)
    log = run / "progress.csv"
    header, *rows = log.read_text().splitlines(keepends=True)
    log.write_text(header + rows[-1])
    write_evaluation(run, EVALUATED, [0, 1], iteration=3)
    found = gathered(run)
    assert not found.notices
    assert (found.runs[0].iterations, found.runs[0].seconds, found.runs[0].cpu_seconds) == (3, 6, None)
    write_evaluation(run, EVALUATED, [0, 1], iteration=2)
    assert gathered(run).notices == (f"mmaml: evaluated before the latest iteration: {run} (after 2 of 3).",)


def test_what_is_infinite_in_an_evaluation_counts_as_not_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", RETURNS)
    write_evaluation(run, EVALUATED, [0, 0], iteration=3)
    path = run / "evaluation.json"
    values = json.loads(path.read_text())
    values["tasks"][0]["return"][0] = np.inf
    path.write_text(json.dumps(values))
    (experiment,) = gathered(run).experiments
    means, intervals = estimates(experiment)
    np.testing.assert_array_equal(means[-1], [EVALUATED[1, 0], EVALUATED[:, 1].mean()])
    assert not np.isinf(intervals).any()


def test_the_last_iterations_are_averaged_without_those_not_measured(tmp_path: Path) -> None:
    rows = [[-99.0, -99.0]] * 5 + [[float(value), -1.0] for value in range(10)]
    run = write_run(tmp_path / "run", rows)
    (run / "progress.csv").write_text((run / "progress.csv").read_text().replace(",9.0,", ",,"))
    np.testing.assert_array_equal(gathered(run).experiments[0].seeds[0].returns, [[4, -1]])


def test_runs_of_a_sweep_that_have_not_begun_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep" / "seed_1", RETURNS)
    waiting = write_run(tmp_path / "sweep" / "seed_2", RETURNS, seed=2)
    (waiting / "progress.csv").unlink()
    found = gathered(tmp_path / "sweep")
    assert len(found.runs) == 1 and found.notices == (f"{waiting} has no finished iteration, and is left out.",)
    with pytest.raises(UsageError, match=r"^RUN: "):
        gathered(waiting)
    (waiting / "progress.csv").write_text("Itr,n_timesteps,Step_0-AverageReturn\r\n")  # as while it starts over
    assert gathered(tmp_path / "sweep").notices == found.notices


def test_labels_are_unequal(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        write_run(tmp_path / str(rate), RETURNS, learning_rate=rate)
    assert [one.label for one in gather([("ours", tmp_path)]).experiments] == ["ours (1)", "ours (2)"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"tasks": [], "overall": {"return": []}, "num_adapt_steps": 1}', '{"tasks": 3}', "[" * 9999),
        '{"tasks": [{"mode": 0, "return": [1, 2]}], "overall": {"return": [{}]}, "num_adapt_steps": 1}',
        '{"tasks": [{"mode": 0, "return": [1]}], "overall": {"return": [{"success_rate": "x"}]}, "num_adapt_steps": 0}',
        '{"tasks": [{"mode": Infinity, "return": [1]}], "overall": {"return": [{}]}, "num_adapt_steps": 0}',
    ],
)
def test_a_damaged_evaluation_is_refused(text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", RETURNS)
    (run / "evaluation.json").write_text(text)
    with pytest.raises(UsageError, match=r"evaluation.json' is not a whole evaluation; evaluate again, or remove it"):
        gathered(run)
