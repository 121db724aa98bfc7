"""`mmaml sweep`: many runs from one command, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmaml.cli import sweep
from mmaml.storage.checkpoint_format import damage
from mmaml.sweeps.grid import SweepRun, sweep_runs
from tests.helpers.scripts import ROOT
from tests.helpers.waiting import wait_until

SMALL = {
    "algorithm": "promp",
    "env": "2DNavigation-v0",
    "meta_batch_size": 2,
    "rollouts_per_meta_task": 2,
    "max_path_length": 5,
    "n_itr": 2,
}


def words(*options: str) -> list[str]:
    return [sys.executable, "-m", "mmaml", "sweep", "small.json", "--dump_path", "out", *options]


@pytest.fixture
def here(empty_folder: Path) -> Path:
    (empty_folder / "small.json").write_text(json.dumps(SMALL))
    return empty_folder


def rows(path: Path) -> list[int]:
    """The iterations that a run has recorded."""
    if not (path / "progress.csv").exists():
        return []
    return [int(line.partition(",")[0]) for line in (path / "progress.csv").read_text().splitlines()[1:]]


@pytest.mark.long
def test_the_command_trains_every_run_and_has_nothing_left_to_do(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = [*words("--seeds", "5", "--grid", "discount=0.9,0.5")[4:], "--jobs", "2"]
    assert sweep.main(options) == 0
    folders = [here / "out" / f"discount-{value}" / "seed_5" for value in (0.9, 0.5)]
    for folder in folders:
        found = json.loads((folder / "params.json").read_text())
        assert (f"discount-{found['discount']}", f"seed_{found['seed']}") == (folder.parent.name, folder.name)
        assert rows(folder) == [0, 1]
    assert capfd.readouterr().out.endswith("2 of 2 runs finished\n")
    logs = {folder: Path(f"{folder}.log").read_text() for folder in folders}
    assert sweep.main(options) == 0
    assert capfd.readouterr().out.endswith("2 of 2 runs finished\n")
    assert {folder: Path(f"{folder}.log").read_text() for folder in folders} == logs  # nothing was started
    assert sweep.main([*options, "n_itr=3"]) == 0
    assert all(rows(folder) == [0, 1, 2] for folder in folders)
    files = {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()}
    assert sweep.main([*options, "n_itr=1"]) == 0
    assert capfd.readouterr().err == "notice: more iterations than n_itr in 2 runs, left unchanged\n"
    assert {path: path.read_bytes() for path in (here / "out").rglob("*") if path.is_file()} == files
    (here / "out" / "discount-0.5" / "seed_6").mkdir()
    capfd.readouterr()
    other_value = [*words("--seeds", "6,5", "--grid", "discount=0.9,0.5")[4:], "n_itr=3", "gae_lambda=0.5"]
    assert sweep.main(other_value) == 2
    assert "gae_lambda: expected the values of the run that is continued" in capfd.readouterr().err


@pytest.mark.long
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(here: Path) -> None:
    options = [*words("--seeds", "5")[4:], "save_steps=1"]
    assert sweep.main(options) == 0
    newest = here / "out" / "seed_5" / "checkpoints" / "itr_000002.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert damage(newest)
    assert sweep.main(options) == 0
    assert not damage(newest) and rows(here / "out" / "seed_5") == [0, 1]


def test_a_key_of_one_value_holds_for_all_runs(here: Path) -> None:
    options = sweep.parse(words("--grid", "discount=0.9,0.5", "n_itr=3", "env_kwargs.a=1")[4:])
    assert options.grid == {"discount": ["0.9", "0.5"]}
    assert options.overrides == {"n_itr": 3, "env_kwargs.a": 1}


def test_values_without_effect_are_noticed(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def arguments(run: SweepRun) -> list[str]:
        return ["small.json", "--dump_path", str(here / "out" / run.name), "--overrides", *run.words]

    grid = {"inner_lr": ["0.1", "0.2"], "algorithm": ["promp", "rl2"], "env_kwargs.radius": ["0.1", "0.2"]}
    sweep.checked(sweep_runs([1], grid), arguments, here / "out", grid)
    expected = "notice: no effect under rl2: inner_lr; its values give equal runs\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--grid", "discount=0.9,2"], "discount: expected a number ≥ 0 and ≤ 1, got 2"),
        (["--grid", "discount=0.9,.9"], "--grid: 'discount=0.9' and 'discount=.9' are the same; keep one of them"),
        (
            ["--grid", "maml_optimizer_steps=1,2", "num_promp_steps=1,2"],
            "--grid: 'maml_optimizer_steps=1 num_promp_steps=1' and 'maml_optimizer_steps=2 num_promp_steps=1' are the",
        ),
        (["--grid", "discont=0.9"], "discont: unknown key; did you mean 'discount'?"),
        (["--overrides", "discount=0.9", "--grid", "discount=1"], "--overrides: sets 'discount', which --grid sets"),
        (["seed=3"], "--overrides: sets 'seed', which differs from run to run; use --seeds"),
        (["--grid", "dump_path=a,b"], "--grid: sets 'dump_path', which differs from run to run; use --dump_path"),
        (["te_save_path=a.npz"], "--overrides: sets 'te_save_path', which would be the file of all runs; leave it out"),
        (["env_kwargs.noise=1", "--grid", "env_kwargs={},{}"], "--overrides: sets 'env_kwargs.noise', which --grid"),
        (["--overrides", "n_itr=1", "--grid", "n_itr=2"], "--overrides: sets 'n_itr', which --grid sets too; keep one"),
        (["--seeds", "9" * 5000], "--seeds: expected whole numbers, upwards, as 1-5 or 1,2,7, got '999"),
        (["--jobs", "0"], "--jobs: expected a whole number ≥ 1, got 0"),
        (["--slurm", "partition"], "--slurm: expected OPTION=VALUE …, got 'partition'"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(
    here: Path, capfd: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    assert sweep.main([*words()[4:], *options]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith(f"error: {reason}") and errors.count("\n") == 1
    assert not (here / "out").exists()


def test_a_sweep_is_not_put_into_a_run(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    (here / "out" / "params.json").write_text("{}")
    assert sweep.main(words()[4:]) == 2
    assert capfd.readouterr().err == (
        "error: --dump_path: 'out' is the directory of a run; choose another for the sweep\n"
    )


@pytest.mark.long
def test_a_sweep_that_is_stopped_goes_on_where_it_was(here: Path) -> None:
    """The runs write checkpoints; the same command continues those, and no iteration is done twice."""
    command = words("--seeds", "1-3", "--jobs", "2", "n_itr=100000", "save_steps=100000")
    folders = [here / "out" / f"seed_{seed}" for seed in (1, 2)]
    done = [0, 0]
    for _ in range(2):
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        wait_until(lambda: all(len(rows(folder)) > count + 2 for folder, count in zip(folders, done, strict=True)))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
        assert process.returncode == 143, output
        assert output.endswith("0 of 3 runs finished, 2 stopped, 1 not started\n")
        done[:] = [len(rows(folder)) for folder in folders]
        for folder, count in zip(folders, done, strict=True):
            assert rows(folder) == [*range(count)]
            assert (folder / "checkpoints" / f"itr_{count:06d}.pt").exists()
