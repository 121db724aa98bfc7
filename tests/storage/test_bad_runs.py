"""Whole runs in which numbers or environments go bad: what is skipped, left out, counted, told, and kept."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml import trainer
from mmaml.algorithms.promp import ProMP
from mmaml.cli import train
from mmaml.envs.point_mass import PointMass
from mmaml.errors import NotFinite, RunStopped
from mmaml.evaluation.held_out import FRESH
from mmaml.figures.family_pictures import PICTURES
from mmaml.meta_batch import Master
from mmaml.parallel.ranks import Ranks, WorkerError
from mmaml.reporting.run_logger import RunLogger
from mmaml.storage import checkpoint
from mmaml.worker import Worker
from tests.helpers.faults import finished, messages, result, started
from tests.helpers.probes import GoesWrong
from tests.helpers.support import assert_same_states, progress, run, small_config

ROOT = Path(__file__).parents[2]
PROBE = "tests.helpers.probes:GoesWrong"


def _config(tmp_path: Path, wrong: dict[str, Any], **values: Any) -> Any:
    # Of 4 tasks those at the odd places, each in some iterations.
    wrong = {"tasks": [1, 3], "share": 0.3} | wrong
    values = {"n_itr": 8, "save_steps": 1, "max_bad_updates": 5, "max_failed_tasks": 99} | values
    return small_config("promp", env=PROBE, env_kwargs=wrong, dump_path=str(tmp_path / "run"), **values)


def _parameters(path: Path) -> list[dict[str, torch.Tensor]]:
    """Of every checkpoint, in order."""
    files = sorted((path / "checkpoints").iterdir())
    return [checkpoint.load(file)["parameters"] for file in files]


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_update_on_bad_numbers_is_skipped_counted_and_named(tmp_path: Path) -> None:
    state = run(_config(tmp_path, {"collection": 1, "step": 4, "lane": 2}))
    bad = [int(row["BadUpdates"]) for row in progress(tmp_path / "run")]
    skipped = [now > before for before, now in zip(bad, bad[1:], strict=False)]
    assert any(skipped) and not all(skipped) and state["counts"]["BadUpdates"] == bad[-1]
    saved = _parameters(tmp_path / "run")
    assert [_same(ours, theirs) for ours, theirs in zip(saved, saved[1:], strict=False)] == skipped
    told = [line for line in messages(str(tmp_path / "run")) if "its update is skipped" in line]
    assert len(told) == bad[-1]
    assert all(f"task {1}" in line or f"task {3}" in line for line in told)
    assert all("collection 1, step 4" in line and "reward is nan" in line for line in told)
    # What follows a skipped update is what would follow if there had been none: the optimiser's state is put back.
    assert all(torch.isfinite(value).all() for value in state["parameters"].values())


def test_a_bad_gradient_takes_back_the_whole_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second epoch: Adam has made a step by then."""
    meta_gradient, calls = ProMP.meta_gradient, [0]

    def poisoned(self: ProMP, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        found = meta_gradient(self, *arguments, **options)
        calls[0] += 1
        if calls[0] == 4:  # two epochs an iteration
            found["gradient"][2, 5] = torch.inf
        return found

    values: dict[str, Any] = {"n_itr": 3, "save_steps": 1, "num_promp_steps": 2}
    monkeypatch.setattr(ProMP, "meta_gradient", poisoned)
    state = run(small_config("promp", dump_path=str(tmp_path / "poisoned"), **values))
    first, second, third = _parameters(tmp_path / "poisoned")
    assert _same(first, second) and not _same(second, third)
    assert state["algorithm"]["optimizer"]["state"][0]["step"] == 4
    (told,) = messages(str(tmp_path / "poisoned"))
    assert "iteration 1: " in told and "task 2" in told and "policy.0.weight" in told


@pytest.mark.parametrize("algorithm", ["rl2", "varibad", "mgrl"])
def test_of_a_skipped_update_nothing_outlives_the_iteration(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of optimisers, buffer, trace and statistics; in the first iteration, before which there is nothing of them, too.

    The update has changed them all before its parameters are found not to be finite. Two that are not in a row do not
    end a run that two in a row would end.
    """
    values = {"n_itr": 3, "save_steps": 1, "max_path_length": 2, "normalize_observations": True, "max_bad_updates": 2}
    config = small_config(algorithm, dump_path=str(tmp_path / "run"), **values)
    kind = type(Worker(config).algorithm)
    update = kind.update

    def poisoned(self: Any, parameters: torch.Tensor, evaluate: Any, iteration: int) -> Any:
        updated, row = update(self, parameters, evaluate, iteration)
        return (updated if iteration == 1 else updated * torch.nan), row

    monkeypatch.setattr(kind, "update", poisoned)
    assert run(config)["counts"]["BadUpdates"] == 2
    first, second, third = (checkpoint.load(file) for file in sorted((tmp_path / "run" / "checkpoints").iterdir()))
    assert [state["env_steps"] for state in (first, second, third)] == [24, 48, 72]  # what was sampled counts
    assert_same_states(first["algorithm"], Worker(config).algorithm.state_dict())
    assert first["statistics"]["observations"]["count"] == 0 < second["statistics"]["observations"]["count"]
    for name in ("parameters", "algorithm", "statistics"):
        assert_same_states(third[name], second[name], name)


def test_too_many_bad_updates_in_a_row_end_the_run_with_its_last_good_state_and_a_replay(tmp_path: Path) -> None:
    config = _config(tmp_path, {"share": 1.0, "collection": 1}, max_bad_updates=3, save_steps=50)
    with pytest.raises(RunStopped):
        run(config)
    path = tmp_path / "run"
    state = checkpoint.load(path)
    assert state["iteration"] == 2 and state["bad_in_a_row"] == 2
    fresh = run(small_config("promp", env=PROBE, env_kwargs={"share": 0.0}, n_itr=1, dump_path=str(tmp_path / "fresh")))
    assert {name: value.shape for name, value in state["parameters"].items()} == {
        name: value.shape for name, value in fresh["parameters"].items()
    }
    (dump,) = path.glob("bad_update_*.pt")
    assert f"mmaml replay {dump};" in messages(str(path))[-1]
    replayed = subprocess.run(
        [sys.executable, "run_scripts/replay.py", str(dump)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert replayed.returncode == 0 and "reward" in replayed.stdout
    for dump in path.glob("bad_update_*.pt"):
        dump.unlink()
    with pytest.raises(RunStopped):  # one more in a row is enough
        run(_config(tmp_path, {"share": 1.0, "collection": 1}, max_bad_updates=3, restore_path=str(path)))
    (again,) = map(checkpoint.load, path.glob("bad_update_*.pt"))
    for name in ("iteration", "env_steps", "seconds", "counts", "bad_in_a_row"):
        assert again[name] == state[name]


def _stopped(tmp_path: Path, wrong: dict[str, Any], **values: Any) -> tuple[str, dict[str, Any] | None]:
    """A run whose first bad update ends it: why it says so, and what it left to repeat that, if anything."""
    with pytest.raises(RunStopped) as stop:
        run(_config(tmp_path, {"share": 1.0, "collection": 1} | wrong, max_bad_updates=1, **values))
    assert "stopped: an update met numbers that are not finite; " in str(stop.value)
    assert not [*(tmp_path / "run").glob(".bad_update*")]
    dump = tmp_path / "run" / "bad_update_000000.pt"
    assert (str(dump) in str(stop.value)) == dump.exists()
    return str(stop.value), checkpoint.load(dump) if dump.exists() else None


def test_a_bad_update_that_a_full_disk_does_not_take_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", refuse)
    why, _ = _stopped(tmp_path, {})
    assert "replay.py" not in why and "could not be saved for mmaml replay (No space left on device)" in why


@pytest.mark.parametrize("held", [[], [0, 2], [0, 1, 2, 3]])
def test_the_rollouts_of_a_bad_update_are_kept_only_if_all_tasks_were_sampled(
    held: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose environment failed is none of them."""
    monkeypatch.setattr(ProMP, "meta_gradient", _not_finite)
    collect = Worker.collect

    def partly(self: Worker, parameters: Any, vector: Any, items: Any, *arguments: Any, **options: Any) -> Any:
        found = collect(self, parameters, vector, items, *arguments, **options)
        if not held:
            raise NotFinite("as asked")
        return found

    monkeypatch.setattr(Worker, "collect", partly)
    if len(held) == 2:  # of a rank that answered before another found the number
        monkeypatch.setattr(Ranks, "indices", property(lambda ranks: held))
    _, dump = _stopped(tmp_path, {"tasks": []})
    assert dump is not None and ("rollouts" in dump) == (len(held) == 4)


def test_ranks_that_cannot_give_their_rollouts_cost_no_more_than_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        raise WorkerError("rank 1 of 2 failed in rollouts")

    monkeypatch.setattr(ProMP, "meta_gradient", _not_finite)
    monkeypatch.setattr(Master, "rollouts", lose)
    _, dump = _stopped(tmp_path, {"tasks": []})
    assert dump is not None and "rollouts" not in dump


def test_a_failed_task_is_no_reason_to_leave_out_the_others_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProMP, "meta_gradient", _not_finite)
    _, dump = _stopped(tmp_path, {"fault": "error", "tasks": [1]})
    assert dump is not None and [len(one["rewards"]) for one in dump["rollouts"]] == [3, 3]


def _not_finite(*_: Any, **__: Any) -> None:
    raise NotFinite("as asked")


def test_what_closing_meets_does_not_hide_why_a_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    config = _config(tmp_path, {"share": 1.0}, max_bad_updates=1)
    monkeypatch.setattr(GoesWrong, "close_extras", refuse)
    monkeypatch.setattr(RunLogger, "close", refuse)
    with pytest.raises(RunStopped):
        run(config)


@pytest.mark.parametrize(("restored", "written"), [("", []), ("checkpoints/itr_000001.pt", [1])])
def test_a_run_that_stops_before_its_first_iteration_keeps_the_newest_checkpoint_as_it_is(
    restored: str, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one, from which it was to go on, becomes the newest."""
    run(_config(tmp_path, {"share": 0.0}, n_itr=2))
    write, found = checkpoint.write, []

    def noted(directory: Path, iteration: int, state: dict[str, Any]) -> Path:
        found.append(iteration)
        return write(directory, iteration, state)

    def stop(*_: Any) -> None:
        raise RunStopped("as asked")

    monkeypatch.setattr(checkpoint, "write", noted)
    monkeypatch.setattr(trainer, "one_iteration", stop)
    with pytest.raises(RunStopped):
        run(_config(tmp_path, {"share": 0.0}, n_itr=4, restore_path=str(tmp_path / "run" / restored)))
    assert found == written
    assert checkpoint.load(tmp_path / "run")["iteration"] == (written or [2])[0]


def test_a_run_that_ends_itself_says_why_in_a_line_with_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, {"share": 1.0}, max_bad_updates=1)
    values = {key: value for key, value in config.to_dict().items() if value is not None}
    assert train.run("promp", ["--overrides", json.dumps(values)]) == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors and errors.count("stopped: ") == 1
    assert f"continue with --restore_path {config.dump_path}" in errors


@pytest.mark.parametrize("cause", ["no good row", "bad numbers"])
def test_pictures_that_cannot_be_drawn_fail_no_run_that_has_finished(
    cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, {"share": 1.0 if cause == "no good row" else 0.0}, n_itr=2)
    collect = Worker.collect

    def fail(self: Worker, parameters: Any, vector: Any, items: Any, iteration: int, *more: Any, **options: Any) -> Any:
        if iteration == FRESH:
            raise NotFinite("as asked")
        return collect(self, parameters, vector, items, iteration, *more, **options)

    if cause == "bad numbers":
        monkeypatch.setitem(PICTURES, GoesWrong, PICTURES[PointMass])  # so that it is drawn
        monkeypatch.setattr(Worker, "collect", fail)
    values = {key: value for key, value in config.to_dict().items() if value is not None}
    assert train.run("promp", ["--overrides", json.dumps(values)]) == 0
    assert checkpoint.load(tmp_path / "run")["iteration"] == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("warning: the run's pictures could not be drawn (")


def test_tasks_of_failing_environments_are_left_out_counted_and_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = run(_config(tmp_path, {"fault": "error"}))
    rows = progress(tmp_path / "run")
    failed = [int(row["FailedTasks"]) for row in rows]
    assert failed[-1] == state["counts"]["FailedTasks"] > 0
    new = [now - before for before, now in zip([0, *failed], failed, strict=False)]
    assert {0, 1} <= set(new)
    whole = max(int(float(row["Step_0-NumEpisodes"])) for row in rows)
    assert [float(row["Step_0-NumEpisodes"]) for row in rows] == [whole * (4 - left_out) / 4 for left_out in new]
    told = [line for line in messages(str(tmp_path / "run")) if "environment of task" in line]
    assert len(told) == failed[-1]
    assert capfd.readouterr().err.count("Traceback") == 1


def test_too_many_failed_tasks_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match="environments of 2 tasks failed"):
        run(_config(tmp_path, {"fault": "nameless error", "share": 1.0}, max_failed_tasks=2))
    assert checkpoint.load(tmp_path / "run")["iteration"] == 0
    with pytest.raises(RunStopped, match="environments of all 4 tasks failed"):
        run(_config(tmp_path / "all", {"fault": "error", "share": 1.0, "tasks": None}))


def test_tasks_that_cannot_be_drawn_end_the_run_with_a_checkpoint_and_one_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here for evaluations, after two iterations."""
    draw = GoesWrong._draw_tasks

    def training_only(self: GoesWrong, n: int, rng: Any, split: str) -> Any:
        if split != "train":
            raise LookupError("no such tasks")
        return draw(self, n, rng, split)

    monkeypatch.setattr(GoesWrong, "_draw_tasks", training_only)
    config = _config(tmp_path, {"share": 0.0}, eval_interval=3, save_steps=50)
    values = {key: value for key, value in config.to_dict().items() if value is not None}
    assert train.run("promp", ["--overrides", json.dumps(values)]) == 1
    assert checkpoint.load(tmp_path / "run")["iteration"] == 2
    told = 'stopped: sample_tasks failed for the split "test" (LookupError: no such tasks); fix it (after 2 iter'
    logged, errors = (tmp_path / "run" / "messages.log").read_text(), capfd.readouterr().err
    for text in (logged, errors):
        assert text.count(told) == text.count("Traceback") == 1
        assert text.endswith("LookupError: no such tasks\n")


@pytest.mark.long
@pytest.mark.ranks
@pytest.mark.parametrize(
    "wrong",
    [
        {"fault": "error"},
        pytest.param({"fault": "nameless error", "collection": 1}, marks=pytest.mark.slow),
        pytest.param({"collection": 1}, marks=pytest.mark.slow),
    ],
)
def test_what_goes_wrong_does_so_alike_on_any_number_of_ranks(wrong: dict[str, Any], tmp_path: Path) -> None:
    results, told = [], []
    for ranks in (0, 3):
        config = _config(tmp_path / str(ranks), wrong, num_minibatches=2, parallel=ranks > 0)
        with started(config.to_dict(), ranks) as process:
            ended = finished(process)
        assert ended.returncode == 0, ended.stderr
        results.append(result(str(config.dump_path)))
        told.append([line.partition("warning: ")[2] for line in messages(str(config.dump_path))])
    (ours, our_rows), (theirs, their_rows) = results
    assert _same(ours, theirs) and our_rows == their_rows
    assert told[0] == told[1] and told[0]
