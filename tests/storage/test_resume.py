"""Continuing: by the same command, from the right place or not at all; and from no checkpoint that does not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.cli import train as cli
from mmaml.config.keys import Config
from mmaml.seeding import generator
from mmaml.storage import checkpoint
from mmaml.storage.checkpoint_format import CheckpointError
from mmaml.storage.compatibility import check_fits
from mmaml.worker import Worker
from tests.helpers.scripts import PROMP_SCRIPT, everything_in
from tests.helpers.support import SMALL, progress, run, small_config

Refused = Callable[..., str]
RESUME = ("--dump_path", "run", "--resume")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run_scripts/some_script.py"])
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: None)  # slow, and not what is tested


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run with arguments that are refused: one line, exit code 2, nothing written; the line."""

    def line(*arguments: str) -> str:
        before = everything_in(tmp_path)
        capsys.readouterr()
        assert cli.run("promp", list(arguments)) == 2
        assert everything_in(tmp_path) == before
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err

    return line


def command(**changes: Any) -> list[str]:
    return [*RESUME, "--overrides", json.dumps(SMALL | {"save_steps": 1, "n_itr": 3} | changes)]


def train(*arguments: str) -> None:
    assert cli.run("promp", list(arguments)) == 0


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_back(iteration: int) -> None:
    """As if the run in "run" had been killed before `iteration` was finished."""
    for number, path in checkpoint.by_iteration(Path("run/checkpoints")):
        if number > iteration:
            path.unlink()


def before_its_first_checkpoint() -> None:
    """As if the run in "run" had been killed then."""
    shutil.rmtree("run/checkpoints")
    log = Path("run/progress.csv")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))


def parameters(run: str) -> list[float]:
    return torch.cat([value.flatten() for value in checkpoint.load(run)["parameters"].values()]).tolist()


# The same command again.


def test_the_same_command_continues_and_then_has_nothing_left_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    train(*command())
    whole, rows = parameters("run"), progress("run")
    for iteration in (2, 1):
        cut_back(iteration)
        train(*command())
        assert parameters("run") == whole
        assert [row["Step_1-AverageReturn"] for row in progress("run")] == [row["Step_1-AverageReturn"] for row in rows]
    kept = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path("run").rglob("*.*")}
    assert {Path("run/progress.csv"), Path("run/params.json"), Path("run/checkpoints/itr_000003.pt")} <= {*kept}
    for n_itr in (3, 1):
        capsys.readouterr()
        train(*command(n_itr=n_itr))
        assert f"3 iterations done, n_itr is {n_itr}; raise n_itr to continue\n" in capsys.readouterr().out
        assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path("run").rglob("*.*")} == kept
    train(*command(n_itr=4))
    assert [row["Itr"] for row in progress("run")] == ["0", "1", "2", "3"]


def test_a_damaged_newest_checkpoint_is_passed_over(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    train(*command())
    whole = parameters("run")
    flip(Path("run/checkpoints/itr_000003.pt"))
    capsys.readouterr()
    train(*command())
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "no effect under" not in line]
    assert "itr_000003.pt' cannot be read" in told and "'itr_000002.pt' is used instead" in told
    assert parameters("run") == whole
    for path in Path("run/checkpoints").iterdir():
        flip(path)
    text = refused(*command())
    assert (
        "dump_path: 'run/checkpoints/itr_000003.pt' cannot be read as a checkpoint (" in text
        and "any before it" in text
    )


def test_a_run_that_died_before_its_first_checkpoint_starts_over(
    capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    train(*command())
    whole = parameters("run")
    before_its_first_checkpoint()
    Path("run/checkpoints").mkdir()
    Path("run/checkpoints/.itr_000001.pt.unfinished").write_text("PK")
    Path("run/.lock").write_text("process 1 on a machine that lost its power")
    Path("run/slurm-1.out").write_text("mine")
    assert "seed: expected the values of the run" in refused(*command(seed=5))
    capsys.readouterr()
    train(*command())
    assert "notice: 'run' has no checkpoint yet; its run starts over\n" in capsys.readouterr().err
    assert parameters("run") == whole
    assert [row["Itr"] for row in progress("run")] == ["0", "1", "2"]
    assert Path("run/slurm-1.out").read_text() == "mine"


UNSAVED = '{"iterations": [2]}'


@pytest.mark.parametrize(
    ("iterations", "record", "starts_over"),
    [
        (range(0), None, True),
        (range(2), None, True),  # killed while it wrote the first
        (range(3), None, False),
        (range(3), UNSAVED, True),
        (range(5), UNSAVED, False),
        (range(3, 5), None, False),  # from another run's third iteration
        (range(3, 4), None, True),
        (range(9, 10), None, False),  # finished
        (range(10), UNSAVED, False),
        *((range(3), damaged, False) for damaged in ("", "[2]", '{"iterations": 2}', '{"iterations": [[2]]}')),
    ],
)
def test_a_run_that_had_a_checkpoint_does_not_start_over(
    iterations: range, record: str | None, starts_over: bool, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("run").mkdir()
    Path("run/params.json").write_text(json.dumps(SMALL | {"algorithm": "promp", "save_steps": 2, "n_itr": 10}))
    Path("run/progress.csv").write_text("Itr,Time\r\n" + "".join(f"{i},1.5\r\n" for i in iterations))
    if record is not None:
        Path("run/unsaved.json").write_text(record)
    monkeypatch.setattr("mmaml.trainer.train", lambda *_: None)
    if starts_over:
        train(*RESUME)
    else:
        text = refused(*RESUME)
        assert "dump_path: expected a checkpoint in 'run', whose progress.csv reaches iteration" in text


def test_another_programs_directory_is_not_one_to_start_over_in(refused: Refused) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/params.json").write_text(json.dumps(SMALL))
    Path("run/checkpoints/itr_1.ckpt.index").write_text("of TensorFlow")
    assert "dump_path: expected checkpoints itr_*.pt in 'run/checkpoints', got itr_1.ckpt.index" in refused(*RESUME)


def test_an_empty_directory_or_none_is_where_a_run_starts(tmp_path: Path) -> None:
    Path("run").mkdir()
    (tmp_path / "run" / ".params.json.unfinished").write_text("{")  # of one that was killed at once
    train(*command(n_itr=1))
    assert [row["Itr"] for row in progress("run")] == ["0"]
    assert not Path("run/.params.json.unfinished").exists()


def test_what_is_not_a_run_is_not_touched(refused: Refused) -> None:
    assert "resume: expected a dump_path" in refused("--resume")
    assert "dump_path: expected a path" in refused("--resume", "--overrides", '{"dump_path": 3}')
    assert 'resume: expected one of "never", "auto"' in refused("--overrides", '{"resume": "always"}')
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    Path("dangling").symlink_to("nowhere")
    for name in ("folder", "file", "dangling"):
        assert f"'{name}' already exists" in refused("--dump_path", name, "--resume")
    assert "dump_path" in refused("--dump_path", "x" * 300, "--resume")
    Path("run").mkdir()
    Path("run/params.json").write_text(json.dumps(SMALL))
    Path("run/checkpoints").symlink_to("/not/mounted")
    assert "check that its disk is mounted" in refused(*RESUME)
    Path("run/checkpoints").unlink()
    Path("run/params.json").write_text("{")
    assert "not valid JSON" in refused(*RESUME)


def test_other_values_are_refused_as_with_restore_path(refused: Refused) -> None:
    train(*command(n_itr=1))
    Path("file.json").write_text(json.dumps(SMALL | {"seed": 7, "n_itr": 2}))
    assert "seed: expected the values of the run that is continued, 'run': seed 1, got 7; drop them" in refused(
        *RESUME, "--config_file", "file.json"
    )
    Path("file.json").write_text(json.dumps(SMALL | {"n_itr": 2}))
    train(*RESUME, "--config_file", "file.json")
    assert len(progress("run")) == 2
    # Another script means another algorithm, unless the configuration names it.
    assert cli.run("mmaml", list(RESUME)) == 2
    assert cli.run("mmaml", [*RESUME, "--overrides", '{"algorithm": "promp"}']) == 0


def test_a_script_with_a_file_of_its_own_continues() -> None:
    Path("default.json").write_text(json.dumps(SMALL | {"seed": 3, "hidden_sizes": [5, 5]}))

    def deeper(count: int, before: train.Values) -> train.Values:
        return {"hidden_sizes": [before["hidden_sizes"][0]] * count}

    flags = {"--layers": cli.Flag("hidden_sizes", cli.integer(1), deeper), "--iterations": cli.Flag("n_itr")}
    script = cli.Script(flags=flags, config_file=Path("default.json"))
    for iterations in ("1", "2", "2"):
        assert cli.run("promp", [*RESUME, "--layers", "3", "--iterations", iterations], script) == 0
        assert len(progress("run")) == int(iterations)
    assert json.loads(Path("run/params.json").read_text())["hidden_sizes"] == [5, 5, 5]
    assert cli.run("promp", [*RESUME, "--layers", "2"], script) == 2


def test_a_start_from_another_run_is_continued_too(refused: Refused) -> None:
    train("--dump_path", "first", "--overrides", json.dumps(SMALL | {"n_itr": 1, "save_steps": 1}))
    again = [*RESUME, "--restore_path", "first", "--overrides", '{"n_itr": 3}']
    train(*again)
    assert [row["Itr"] for row in progress("run")] == ["1", "2"]
    whole = parameters("run")
    cut_back(2)
    train(*again)
    assert [row["Itr"] for row in progress("run")] == ["1", "2"]
    before_its_first_checkpoint()
    train(*again)
    assert [row["Itr"] for row in progress("run")] == ["1", "2"]
    assert parameters("run") == whole
    assert "resume: expected no restore_path within dump_path" in refused(
        *RESUME, "--restore_path", "run/checkpoints/itr_000002.pt"
    )


def test_the_key_in_a_file_is_as_good_as_the_flag() -> None:
    Path("file.json").write_text(json.dumps(SMALL | {"resume": "auto", "dump_path": "run", "n_itr": 1}))
    for iterations in (1, 2):
        train("--config_file", "file.json", "--overrides", json.dumps({"n_itr": iterations}))
        assert len(progress("run")) == iterations


# What can be written.


@pytest.mark.parametrize("place", ["/proc/run", "/sys/run", "/proc/a/b", "/dev/null/run", "a/" + "x" * 300])
def test_a_place_that_takes_no_files_is_refused(place: str, refused: Refused) -> None:
    assert "dump_path: expected a path that can be written" in refused("--dump_path", place)
    assert "te_save_path: expected a path that can be written" in refused("--te_save_path", place)
    assert refused("--dump_path", place, "--resume").startswith("error: dump_path: ")


# Checkpoints that are not of the run.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any]]:
    """A run's configuration and its checkpoint's state."""
    path = tmp_path_factory.mktemp("trained") / "run"
    config = small_config("promp", dump_path=str(path), n_itr=1)
    return config, run(config)


def complaint(config: Config, state: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_fits(state, Path("itr_000001.pt"), config, Worker(config).algorithm)
    assert "\n" not in str(caught.value) and "itr_000001.pt" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("algorithm", ["promp", "mmaml", "maml", "tesp", "maesn", "rllib_maml"])
def test_every_algorithms_own_checkpoints_fit(algorithm: str, tmp_path: Path) -> None:
    config = small_config(algorithm, dump_path=str(tmp_path / "run"), n_itr=1)
    new, worker = Worker(config), Worker(config)
    check_fits(run(config), tmp_path, config, new.algorithm)
    fresh = {
        "parameters": worker.algorithm.init(generator(0, "parameters")),
        "algorithm": worker.algorithm.state_dict(),
        "config": config.to_dict(),
    }
    check_fits(fresh, tmp_path, config, new.algorithm)


def test_another_configuration_is_named(trained: tuple[Config, dict[str, Any]]) -> None:
    config, state = trained
    other = state["config"] | {"env": "MetaPointEnvMomentum", "seed": 9, "hidden_sizes": [8, 9], "n_itr": 700}
    text = complaint(config, state | {"config": other})
    for part in (
        'env "MetaPointEnvMomentumModes", got "MetaPointEnvMomentum"',
        "seed 1, got 9",
        "hidden_sizes [8, 8], got [8, 9]",
    ):
        assert part in text
    assert "n_itr" not in text
    assert "sed: unknown key" in complaint(config, state | {"config": state["config"] | {"sed": 1}})
    # A checkpoint of before a key was there has its default.
    old = {name: value for name, value in state["config"].items() if name != "first_order"}
    check_fits(state | {"config": old}, Path("old"), config, Worker(config).algorithm)
    assert "first_order true, got false" in complaint(config.replace(first_order=True), state | {"config": old})


def test_other_parameters_are_named(trained: tuple[Config, dict[str, Any]]) -> None:
    config, state = trained
    first, second = list(state["parameters"])[:2]
    changed = dict(state["parameters"]) | {first: torch.zeros(3, 1), "stray": torch.zeros(2)}
    del changed[second]
    text = complaint(config, state | {"parameters": changed})
    assert f"{first} {list(state['parameters'][first].shape)}, got [3, 1]" in text
    assert f"{second} {list(state['parameters'][second].shape)}, got none" in text
    assert "no stray, got [2]" in text
    assert "got NaN or infinity" in complaint(
        config, state | {"parameters": state["parameters"] | {second: state["parameters"][second] * float("nan")}}
    )


def test_another_state_of_the_algorithm_is_named(trained: tuple[Config, dict[str, Any]]) -> None:
    config, state = trained

    def with_moment(**changes: Any) -> dict[str, Any]:
        optimizer = state["algorithm"]["optimizer"]
        moments = {name: value for name, value in (optimizer["state"][0] | changes).items() if value is not None}
        return state["algorithm"] | {"optimizer": optimizer | {"state": {0: moments}}}

    for algorithm, expected in [
        ({}, "algorithm: expected optimizer, kl_coefficients"),
        (with_moment(exp_avg=torch.zeros(3)), r"exp_avg: expected a tensor ["),
        (with_moment(exp_avg_sq=None), "algorithm.optimizer.state.0: expected step, exp_avg, exp_avg_sq, got"),
        (with_moment(step=torch.tensor(float("nan"))), "with NaN or infinity"),
        (with_moment(step="text"), "got text"),
        (
            state["algorithm"] | {"kl_coefficients": [1.0, 2.0]},
            "kl_coefficients: expected a list of 1, got a list of 2",
        ),
        (state["algorithm"] | {"kl_coefficients": [None]}, "kl_coefficients[0]: expected a finite number, got nothing"),
        (state["algorithm"] | {"outer_kl_coefficient": float("inf")}, "outer_kl_coefficient"),
        (state["algorithm"] | {"optimizer": 3}, "algorithm.optimizer: expected a dictionary"),
    ]:
        assert expected in complaint(config, state | {"algorithm": algorithm})


def test_a_foreign_checkpoint_in_the_folder_is_refused(refused: Refused) -> None:
    for name, seed in (("run", 1), ("other", 2)):
        train("--dump_path", name, "--overrides", json.dumps(SMALL | {"n_itr": seed, "seed": seed}))
    shutil.copy("other/checkpoints/itr_000002.pt", "run/checkpoints")
    alone = ("--overrides", '{"parallel": false}')
    assert "belongs to another run than 'run': expected seed 1, got 2" in refused(*RESUME, *alone)
    assert "expected seed 1, got 2" in refused("--restore_path", "run", "--dump_path", "new", *alone)


@pytest.mark.long
@pytest.mark.ranks
def test_ranks_resume_too_and_a_checkpoint_that_does_not_fit_ends_them_in_one_line() -> None:
    def launched(**changes: Any) -> subprocess.CompletedProcess[str]:
        values = {name: value for name, value in SMALL.items() if name not in ("parallel", "cell_size")}
        overrides = json.dumps(values | {"save_steps": 1, "algorithm": "promp"} | changes)
        arguments = [*RESUME, "--ranks", "2", "--overrides", overrides]
        program = [sys.executable, str(PROMP_SCRIPT), *arguments]
        return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)

    assert launched(n_itr=2).returncode == 0
    flip(Path("run/checkpoints/itr_000002.pt"))
    again = launched(n_itr=3)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("\n") == 1 and "'itr_000001.pt' is used instead" in again.stderr
    assert [row["Itr"] for row in progress("run")] == ["0", "1", "2"]
    foreign = checkpoint.load("run")
    foreign["parameters"]["policy.log_std"] = torch.zeros(3)
    checkpoint.write(Path("run/checkpoints"), 4, foreign)
    before = everything_in(Path("run"))
    refused = launched(n_itr=5)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1 and "policy.log_std [1, 2], got [3]" in refused.stderr
    assert everything_in(Path("run")) == before
