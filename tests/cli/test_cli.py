"""The training scripts from the outside: what they refuse, how they start ranks, how they continue a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.cli import train
from mmaml.launcher import protocol
from mmaml.parallel import launch
from mmaml.storage import checkpoint, starting
from tests.helpers.scripts import PROMP_SCRIPT, ROOT, SCRIPT, everything_in
from tests.helpers.support import SMALL, progress

CONFIG = ROOT / "configs" / "point_env_momentum_dense.json"
MPIRUN = Path(sys.executable).with_name("mpirun")
SMALL_JSON = json.dumps({k: v for k, v in SMALL.items() if k != "parallel"})
ALONE_JSON = json.dumps(SMALL)

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _as_a_run_script(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run_scripts/some_script.py"])


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run with arguments that are refused: one line, exit code 2, no rank started, nothing written; the line."""
    monkeypatch.setattr(os, "execv", lambda *command: pytest.fail(f"started {command}"))

    def line(*arguments: str) -> str:
        before = everything_in(tmp_path)
        capfd.readouterr()
        assert train.run("mmaml", list(arguments)) == 2
        assert everything_in(tmp_path) == before
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return line


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The arguments of the mpirun that a run would become."""

    class Became(Exception):
        pass

    def execv(program: str, command: list[str]) -> None:
        assert program == command[0]
        raise Became(command)

    monkeypatch.setattr(os, "execv", execv)

    def command(*arguments: str) -> list[str]:
        with pytest.raises(Became) as caught:
            train.run("mmaml", list(arguments))
        words = caught.value.args[0]
        return words[words.index("-n") :]

    return command


def mpirun(ranks: int, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def alone(*arguments: str) -> None:
    assert train.run("mmaml", [*arguments]) == 0


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--overrides", '{"n_iter": 5}'], "n_iter: unknown key; did you mean 'n_itr'?"),
        (["--overrides", '{"n_itr": "5"}'], 'n_itr: expected a whole number ≥ 1, got "5"'),
        (["--overrides", '{"algorithm": "tesp"}'], "num_inner_grad_steps: expected a whole number ≥ 2 with"),
        (["--overrides", '{"discount": 2}'], "discount: expected a number ≥ 0 and ≤ 1, got 2"),
        (["--overrides", '{"env": "MetaPointEnvMomentum4Modes"}'], "did you mean 'MetaPointEnvMomentum"),
        (["--overrides", '{"env_kwargs": {"nois": 1}}'], "env_kwargs"),
        (["--overrides", "[1]"], "overrides: expected a JSON object"),
        (["--overrides", "{bad"], "overrides: is not valid JSON"),
        (["--config_file", "missing.json"], "config_file: cannot read 'missing.json'"),
        (["--config_file", "."], "config_file: cannot read '.'"),
        (["--config_file", str(SCRIPT)], "is not valid JSON"),
        (["--no_such_flag"], "--no_such_flag"),
        (["--ranks", "0"], "--ranks: expected a whole number ≥ 1, got 0"),
        (["--ranks", "two"], "--ranks"),
        (["--ranks", "2", "--overrides", '{"parallel": false}'], "parallel: expected true with 2 ranks"),
        (["--restore_path", "missing"], "restore_path: expected a checkpoint"),
        (["--dump_path", ""], "dump_path: expected a path"),
        (["--dump_path", "x" * 300], "dump_path: expected a path that can be written"),
        (["--te_save_path", "x" * 300], "te_save_path: expected a"),
        (["--restore_path", "x" * 300], "cannot be read"),
        (["--dump_path", "run", "--te_save_path", "run"], "te_save_path: 'run' will be a directory"),
        (["--dump_path", "a/run", "--te_save_path", "a"], "te_save_path: 'a' will be a directory"),
        (["--ranks", "41"], "ranks: expected at most one working rank a task, meta_batch_size = 40, got 41"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused(*arguments)


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert "dump_path: 'taken' already exists" in refused("--dump_path", "taken")
    assert "--restore_path dangling" in refused("--dump_path", "dangling")
    assert "dump_path: 'file' already exists" in refused("--dump_path", "file")
    assert "is not a directory" in refused("--dump_path", "file/run")
    assert "te_save_path: expected a file" in refused("--te_save_path", "taken")
    assert "te_save_path: expected a regular file, got 'pipe'" in refused("--te_save_path", "pipe")
    assert "te_save_path: 'file' already exists; choose another file" in refused("--te_save_path", "file")
    assert "te_save_path: expected a path" in refused("--te_save_path", "file/embeddings.npz")


def test_embeddings_take_the_place_of_those_of_a_run_that_is_continued_alone(tmp_path: Path, refused: Refused) -> None:
    flags = ["--dump_path", "run", "--te_save_path", "embeddings.npz"]
    overrides = SMALL | {"n_itr": 1, "num_embeddings": 3}
    assert train.run("mmaml", [*flags, "--overrides", json.dumps(overrides)]) == 0
    again = [*flags, "--restore_path", "run", "--overrides"]
    assert train.run("mmaml", [*again, '{"n_itr": 2, "num_embeddings": 4}']) == 0
    with np.load("embeddings.npz") as saved:
        assert len(saved["embedding"]) == 4
    branch = ["--dump_path", "other", "--restore_path", "run", "--overrides", '{"n_itr": 3}']
    for arguments in (["--dump_path", "other", *flags[2:]], branch, [*branch, *flags[2:]]):
        assert "te_save_path: 'embeddings.npz' already exists" in refused(*arguments)
    np.savez("others.npz", mine=np.zeros(3))
    (tmp_path / "text").write_text("PK\3\4 of my own")
    for name in ("others.npz", "text"):
        assert "already exists and holds no embeddings" in refused(*again, "{}", "--te_save_path", name)


@pytest.mark.ranks
def test_more_ranks_than_tasks_are_refused_before_work(tmp_path: Path) -> None:
    finished = mpirun(3, SCRIPT, "--overrides", json.dumps({"meta_batch_size": 2}), "--dump_path", "run")
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1
    assert "meta_batch_size = 2, got 3" in finished.stderr
    assert not everything_in(tmp_path)


@pytest.mark.ranks
def test_bad_input_under_mpirun_is_one_line_too(tmp_path: Path) -> None:
    finished = mpirun(2, SCRIPT, "--config_file", str(CONFIG), "--overrides", '{"n_iter": 5}')
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == "error: n_iter: unknown key; did you mean 'n_itr'?\n"
    assert not everything_in(tmp_path)


@pytest.mark.parametrize("variable", protocol.SIZE_VARIABLES)
def test_processes_of_an_unknown_launcher_are_refused(
    variable: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "2")
    assert "start them with this environment's mpirun: mpirun -n 2" in refused("--config_file", str(CONFIG))


def test_the_innermost_launcher_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert protocol.announced_ranks() == 8
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    launch.check_launcher(2)


def test_no_launcher_is_started_inside_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", lambda *command: pytest.fail("started mpirun inside a launcher"))
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    alone("--dump_path", "run", "--overrides", SMALL_JSON)
    assert len(progress("run")) == 2


def test_a_job_of_one_task_is_no_launcher(started: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is how one machine is asked for, with all its cores."""
    monkeypatch.setattr(train, "physical_cores", lambda: 6)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "32")
    assert protocol.announced_ranks() is None
    assert started("--config_file", str(CONFIG))[1] == "6"
    assert started("--config_file", str(CONFIG), "--ranks", "2")[1] == "2"
    for count, announced in (("0", None), ("x", None), ("", None), ("2", 2)):
        monkeypatch.setenv("SLURM_NTASKS", count)
        assert protocol.announced_ranks() == announced
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")  # within mpirun, in a job of two tasks
    assert protocol.announced_ranks() == 1


# How ranks are started.


def test_it_starts_one_rank_per_core(started: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "physical_cores", lambda: 6)
    arguments = ["--config_file", str(CONFIG), "--dump_path", "run"]
    assert started(*arguments) == [
        *["-n", "6", sys.executable, "run_scripts/some_script.py"],
        *arguments,
    ]
    assert started("--ranks", "3")[1] == "3"
    assert started("--overrides", '{"meta_batch_size": 4}')[1] == "4"
    assert started("--overrides", '{"meta_batch_size": 4, "master_samples": false}')[1] == "5"
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "")
    assert train.run("mmaml", []) == 2


@pytest.mark.ranks
def test_the_documented_commands_train() -> None:
    arguments = ["--config_file", str(CONFIG), "--overrides", SMALL_JSON]
    finished = subprocess.run(
        [sys.executable, str(PROMP_SCRIPT), *arguments, "--ranks", "2"], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.startswith("notice: no effect under promp: cell_size, ")
    assert finished.stderr.count("\n") == 1
    (run,) = Path("data/pro-mp_run_point_mass").iterdir()
    assert run.name.startswith("MetaPointEnvMomentumModes-")
    assert json.loads((run / "params.json").read_text())["algorithm"] == "promp"
    assert len(progress(str(run))) == 2
    assert {path.name for path in run.glob("*.png")} == {"learning_curves.png", "trajectories.png"}
    assert not (run / ".lock").exists()


# Flags, and continuing a run.


def test_flags_win_over_overrides_and_they_over_the_file() -> None:
    Path("file.json").write_text(json.dumps(SMALL | {"seed": 5, "n_itr": 3, "dump_path": "from_file"}))
    alone("--config", "file.json", "--overrides", '{"n_itr": 1, "dump_path": "from_overrides"}')
    assert not Path("from_file").exists()
    assert json.loads(Path("from_overrides/params.json").read_text())["seed"] == 5
    # The object may come in several words.
    flags = ["--dump_path", "from_flag", "--te_save_path", "embeddings.npz", "--log_grad_norm"]
    alone("--config", "file.json", "--overrides", '{"n_itr":', "1,", '"num_embeddings":', "3}", *flags)
    assert len(progress("from_flag")) == 1
    assert any(column.startswith("GradNorm") for column in progress("from_flag")[0])
    assert Path("embeddings.npz").exists()
    assert not Path("data").exists()


def parameters(run: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(run)["parameters"]


def test_a_run_continues_where_it_was(refused: Refused) -> None:
    Path("file.json").write_text(ALONE_JSON)
    alone("--config", "file.json", "--dump_path", "whole", "--overrides", '{"n_itr": 4}')
    alone("--config", "file.json", "--dump_path", "run")
    kept = {path: path.read_bytes() for path in Path("run").rglob("*.pt")}
    assert "error: seed, learning_rate: expected" in refused(
        "--restore_path", "run", "--overrides", '{"seed": 2, "learning_rate": 1}'
    )
    assert "dump_path: 'whole' already exists" in refused("--restore_path", "run", "--dump_path", "whole")
    assert "restore_path: expected a path" in refused("--overrides", '{"restore_path": 3}')

    alone(
        "--restore_path",
        next(str(path) for path in kept),
        "--dump_path",
        "copy",
        "--overrides",
        '{"n_itr": 3}',
    )
    assert [row["Itr"] for row in progress("copy")] == ["2"]
    alone("--restore_path", "whole", "--dump_path", "nothing_left")
    assert {path.name for path in Path("nothing_left").iterdir()} == {"params.json"}
    alone("--restore_path", "run", "--overrides", '{"n_itr": 4}')
    assert [row["Itr"] for row in progress("run")] == ["0", "1", "2", "3"]
    assert all(path.read_bytes() == content for path, content in kept.items())
    for name, value in parameters("whole").items():
        assert torch.equal(value, parameters("run")[name])


def test_a_checkpoint_away_from_its_run_continues_in_a_new_directory(refused: Refused) -> None:
    alone("--dump_path", "run", "--overrides", ALONE_JSON)
    Path("elsewhere").mkdir()
    checkpoint.latest("run").rename("elsewhere/kept.pt")
    alone("--restore_path", "elsewhere/kept.pt", "--dump_path", "on", "--overrides", '{"n_itr": 3}')
    assert [row["Itr"] for row in progress("on")] == ["2"]
    lone = ["--restore_path", "elsewhere/kept.pt", "--overrides"]
    assert "that is continued, 'elsewhere/kept.pt': seed 1, got 5" in refused(*lone, '{"seed": 5}')
    alone(*lone, '{"n_itr": 3}')
    (new,) = Path("data/some_script").iterdir()
    assert [row["Itr"] for row in progress(new)] == ["2"]
    assert [path.name for path in Path("elsewhere").iterdir()] == ["kept.pt"]


def test_a_run_whose_params_are_damaged_continues_without_them(refused: Refused) -> None:
    alone("--dump_path", "run", "--overrides", ALONE_JSON)
    Path("run/params.json").write_text('{"n_itr":')
    error = refused("--restore_path", "run", "--overrides", '{"n_itr": 3}')
    assert "restore_path: 'run/params.json' is not valid JSON" in error and "delete it" in error
    Path("run/params.json").unlink()
    alone("--restore_path", "run", "--overrides", '{"n_itr": 3}')
    assert [row["Itr"] for row in progress("run")] == ["0", "1", "2"]


def test_default_directories_do_not_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting.time, "strftime", lambda _: "now")
    names = set()
    for _ in range(3):
        alone("--overrides", json.dumps(SMALL | {"n_itr": 1, "env": "tests.helpers.probes:TargetAction"}))
        names |= {path.name for path in Path("data/some_script").iterdir()}
    assert names == {"TargetAction-now", "TargetAction-now-2", "TargetAction-now-3"}


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "resolve", interrupted)
    assert train.run("mmaml", []) == 130
    assert capfd.readouterr().err == "stopped by SIGINT\n"
