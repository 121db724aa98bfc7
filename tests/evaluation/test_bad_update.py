"""A meta-batch whose numbers went bad, written down and repeated."""

from __future__ import annotations

import errno
import os
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.algorithms.varibad import VariBAD
from mmaml.config.keys import Config
from mmaml.evaluation.bad_update import load_dump, repeat_update
from mmaml.seeding import generator
from mmaml.storage import checkpoint
from mmaml.storage.bad_update_file import write_dump
from mmaml.updates.evaluate import Evaluate
from mmaml.worker import Worker
from tests.helpers.probes import GoesWrong
from tests.helpers.support import small_config

SCRIPT = Path(__file__).parents[2] / "run_scripts" / "replay.py"
PROBE = {"env": "tests.helpers.probes:GoesWrong", "meta_batch_size": 4}
FINE = PROBE | {"env_kwargs": {"tasks": []}}
ITERATION = 3


def before(config: Config) -> tuple[Worker, dict[str, Any]]:
    """A worker, and the state of a run before its fourth iteration."""
    worker = Worker(config)
    state = {
        "iteration": ITERATION,
        "env_steps": 100,
        "seconds": 1.0,
        "parameters": worker.algorithm.init(generator(config.seed, "parameters")),
        "algorithm": worker.algorithm.state_dict(),
        "config": config.to_dict(),
    }
    return worker, state


def dumped(path: Path, config: Config, finding: str, sampled: bool = False, poison: Any = None) -> Path:
    """A dump at `path`; with rollouts, which `poison` may change, if the meta-batch was sampled."""
    worker, state = before(config)
    if sampled:
        items = list(enumerate(worker.sample_tasks(config.meta_batch_size, ITERATION)))
        worker.collect(worker.algorithm.spec.flatten(state["parameters"]), None, items, ITERATION)
        assert worker.block is not None
        if poison is not None:
            poison(worker.block.rollouts)
    write_dump(path, state, finding, worker.block and [collection.fields() for collection in worker.block.rollouts])
    return path


def script(*arguments: Any) -> int:
    return runpy.run_path(str(SCRIPT))["main"]([str(argument) for argument in arguments])


@pytest.mark.parametrize("refused", ["write", "replace"])
def test_a_dump_that_cannot_be_written_leaves_nothing(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((torch, "save") if refused == "write" else (os, "replace")), refuse)
    with pytest.raises(OSError, match="No space"):
        dumped(tmp_path / "bad_update_000003.pt", small_config("mmaml", **FINE), "why", sampled=True)
    assert not [*tmp_path.iterdir()]


def test_the_dump_is_a_checkpoint_with_finding_and_rollouts(tmp_path: Path) -> None:
    config = small_config("mmaml", **FINE)
    path = dumped(tmp_path / "bad_update_000003.pt", config, "why", sampled=True)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    (found, state), (worker, expected) = load_dump(path), before(config)
    assert found == config
    assert state["finding"] == "why" and state["iteration"] == ITERATION and state["config"] == expected["config"]
    for name, value in expected["parameters"].items():
        assert torch.equal(state["parameters"][name], value)
    items = list(enumerate(worker.sample_tasks(4, ITERATION)))
    worker.collect(worker.algorithm.spec.flatten(state["parameters"]), None, items, ITERATION)
    assert worker.block is not None
    for stored, again in zip(state["rollouts"], worker.block.rollouts, strict=True):
        assert stored.keys() == again.fields().keys()
        assert torch.equal(stored["actions"], again.actions) and torch.equal(stored["rewards"], again.rewards)
    assert "rollouts" not in load_dump(dumped(tmp_path / "other.pt", config, "why"))[1]


def test_every_task_and_tensor_of_bad_rollouts_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = {"fault": "reward", "tasks": [1, 3], "collection": 1, "step": 5, "lane": 2}
    config = small_config("promp", **PROBE | {"env_kwargs": kwargs})
    finding = "task 1 (mode 1), collection 1, step 5 of rollout 2: reward is nan"
    path = dumped(tmp_path / "bad.pt", config, finding)
    assert script(path) == 0
    printed = capsys.readouterr().out
    assert f"the run met\n  {finding}\nit meets\n  {finding} (1 of" in printed
    for task in (1, 3):
        for what in ("step 5 of rollout 2: reward is nan", "step 0 of rollout 0: advantage is nan"):
            assert f"task {task} (mode 1), collection 1, {what}" in printed
    assert "task 0 (" not in printed and "task 2 (" not in printed and "collection 0, " not in printed
    assert "largest |reward| of collection 0" in printed


def test_an_adaptation_too_far_is_told() -> None:
    kwargs = {"fault": "rewards", "value": "2e37", "tasks": [2]}
    values = {"env_kwargs": kwargs, "inner_lr": 1000.0, "baseline": "ZeroBaseline", "normalize_adv": False}
    config = small_config("promp", **PROBE | values)
    _, state = before(config)
    report = repeat_update(Path("bad.pt"), config, state)
    assert len(report.findings) == 1
    assert report.findings[0].startswith("task 2 (mode 0), inner step 1: adapted parameter policy.")


@pytest.mark.parametrize("algorithm", ["promp", "mmaml", "tesp"])
def test_every_task_and_tensor_of_a_bad_gradient_is_told(algorithm: str) -> None:
    config = small_config(algorithm, learning_rate=1e25, num_promp_steps=3, **FINE)
    worker, state = before(config)
    report = repeat_update(Path("bad.pt"), config, state)
    assert not report.stored
    assert {line.split(",")[0] for line in report.findings} == {f"task {k}" for k in range(4)}
    assert all("meta_gradient, evaluation 2 of the update: " in line for line in report.findings)
    printed = "\n".join(report.largest)
    last = config.num_inner_grad_steps
    assert (
        f"largest likelihood ratio on collection {last}: " in printed
        and "largest |advantage| of collection 0" in printed
    )
    for name in worker.algorithm.spec.shapes:
        assert f"largest finite |gradient of {name}|: " in printed and f"largest finite |parameter {name}|: " in printed


def test_an_update_is_repeated_with_the_running_statistics_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which VariBAD normalises the trials of its buffer."""
    config = small_config("varibad", max_path_length=2, normalize_observations=True, **FINE)
    worker, state = before(config)
    statistics, flat = worker.statistics(), worker.algorithm.spec.flatten(state["parameters"])
    nothing = statistics.vector()
    statistics.update(worker.collect(flat, nothing, list(enumerate(worker.sample_tasks(4, 0))), 0))
    update, scalings = VariBAD.update, []

    def noted(self: VariBAD, parameters: torch.Tensor, evaluate: Evaluate, iteration: int) -> Any:
        scalings.append(evaluate.scaling)
        return update(self, parameters, evaluate, iteration)

    monkeypatch.setattr(VariBAD, "update", noted)
    repeat_update(Path("bad.pt"), config, state | {"statistics": statistics.state_dict()})
    (scaling,), expected = scalings, statistics.vector()
    assert scaling is not None and expected is not None and nothing is not None
    assert torch.equal(scaling, expected) and not torch.equal(scaling, nothing)


def test_the_largest_numbers_are_those_of_the_rollouts() -> None:
    config = small_config("promp", num_promp_steps=1, learning_rate=1e-9, **FINE)
    worker, state = before(config)
    report = repeat_update(Path("bad.pt"), config, state)
    assert report.findings == []
    items = list(enumerate(worker.sample_tasks(4, ITERATION)))
    worker.collect(worker.algorithm.spec.flatten(state["parameters"]), None, items, ITERATION)
    assert worker.block is not None
    data = worker.block.rollouts[1]
    row = int(data.rewards.abs().flatten(1).amax(1).argmax())
    assert f"largest |reward| of collection 1: {data.rewards.abs().max():.4g} (task {row})" in report.largest
    ratios = [float(line.split(": ")[1].split()[0]) for line in report.largest if "ratio" in line]
    assert len(ratios) == 2 and max(abs(ratio - 1) for ratio in ratios) < 1e-3


def test_finite_numbers_this_time_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dumped(tmp_path / "bad.pt", small_config("promp", **FINE), "task 1: once", sampled=True)
    assert script(path) == 1
    assert "all is finite this time" in capsys.readouterr().out


def test_the_stored_rollouts_stand_in_for_an_environment_that_does_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def poison(rollouts: Any) -> None:
        rollouts[1].log_probs[2, 0, 3] = -1e30  # finite, but the likelihood ratio is not

    path = dumped(tmp_path / "bad.pt", small_config("promp", **FINE), "task 2: once", sampled=True, poison=poison)
    report = repeat_update(path, *load_dump(path))
    assert report.stored
    assert {line.split(",")[0] for line in report.findings} == {"task 2"}
    assert "largest likelihood ratio on collection 1: inf (task 2)" in report.largest
    assert script(path) == 0
    assert "repeated on the stored rollouts" in capsys.readouterr().out


def test_tasks_that_fail_are_left_out_as_in_the_run() -> None:
    config = small_config("promp", **PROBE | {"env_kwargs": {"fault": "error", "tasks": [2]}})
    report = repeat_update(Path("bad.pt"), config, before(config)[1])
    assert report.findings == []
    assert report.largest[0] == "task 2 was left out: its environment failed (the probe fails as asked)"


def test_tasks_that_cannot_be_drawn_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dumped(tmp_path / "bad.pt", small_config("promp", **FINE), "why")
    draw = GoesWrong._draw_tasks  # of one task, as the start asks for
    monkeypatch.setattr(GoesWrong, "_draw_tasks", lambda self, n, *more: draw(self, n, *more) if n == 1 else 1 / 0)
    assert script(path) == 2
    *trace, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: env: sample_tasks failed")
    assert trace[0].startswith("Traceback") and trace[-1] == "ZeroDivisionError: division by zero"


def test_files_that_are_no_dump_are_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config("promp", **FINE)
    good = dumped(tmp_path / "bad.pt", config, "why", sampled=True)
    (tmp_path / "short.pt").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "text.pt").write_text("no checkpoint")
    state = before(config)[1]
    elsewhere = {**state, "finding": "why", "config": {**state["config"], "env": "nowhere:Nothing"}}
    crippled = {**state, "finding": "why", "rollouts": [{"actions": torch.zeros(3)}]}
    other = {**state, "finding": "why", "parameters": {"policy.0.weight": torch.zeros(2, 2)}}
    unlike = {**state, "finding": "why", "config": {**state["config"], "normalize_observations": True}}
    paths = [tmp_path / name for name in ("missing.pt", ".", "short.pt", "text.pt", 300 * "x")]
    for number, values in enumerate((state, elsewhere, crippled, other, unlike)):
        paths.append(checkpoint.write(tmp_path / str(number), ITERATION, values))
    for arguments in ([path] for path in paths):
        assert script(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: FILE: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert script() == 2 and script(good, "--what") == 2
