"""The runs of a sweep as jobs of submitit's, whose local jobs stand for those of Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmaml.cli import sweep
from mmaml.errors import UsageError
from mmaml.sweeps.grid import SweepRun
from mmaml.sweeps.slurm import MAX_TIMEOUTS, RunJob, submit
from tests.helpers.hosts import HostsRefusedError
from tests.helpers.scripts import ROOT
from tests.helpers.slurm import Slurm
from tests.helpers.waiting import wait_until

submitit = pytest.importorskip("submitit")


def test_every_run_is_a_job_that_writes_its_log(tmp_path: Path) -> None:
    def command(run: SweepRun) -> list[str]:
        return [sys.executable, "-c", f"print('this is {run.name}')"]

    runs = [SweepRun("choice/seed_1", ()), SweepRun("choice/seed_2", ())]
    numbers = submit(runs, command, tmp_path, None, {}, cluster="local")
    assert len({*numbers}) == 2
    for run in runs:
        log = tmp_path / f"{run.name}.log"
        # The job's Python may write the line in pieces.
        printed = wait_until(lambda log=log: log.exists() and (text := log.read_text()).endswith("\n") and text)
        assert printed == f"this is {run.name}\n"


def test_a_run_that_fails_is_a_job_that_fails(tmp_path: Path) -> None:
    executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
    failing = executor.submit(RunJob([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "run.log"))
    assert "exit status 3" in str(failing.exception())


def test_a_job_that_is_interrupted_is_queued_again_with_the_same_command(tmp_path: Path) -> None:
    job = RunJob(["mmaml", "train", "--resume"], tmp_path / "run.log")
    again = job.checkpoint()
    assert again.function is job and not again.args


def test_options_that_sbatch_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--slurm partitoin: is no option .*; did you mean 'partition'\?$"):
        submit([SweepRun("seed_1", ())], lambda run: [], tmp_path, None, {"partitoin": "short"}, cluster="local")
    assert not [*tmp_path.iterdir()]


# A cluster of two programs. The first refuses a script without a partition; the second only has to be there.
SBATCH = """#!/bin/sh
for script; do :; done
grep -q -e --partition "$script" || { printf 'sbatch: error: no partition\\nsbatch: error: none\\n' >&2; exit 1; }
cp "$script" "$(dirname "$0")/script"
echo Submitted batch job 77
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return programs


def test_the_command_submits_an_array_and_does_not_wait(cluster: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["navigation_2d_maml", "--seeds", "1-3", "--dump_path", "out", "--jobs", "2", "--slurm"]
    assert sweep.main([*words, "partition=short", "time=60.0", "mem_gb=4"]) == 0
    assert capfd.readouterr().out == "submitted 3 runs to Slurm, jobs 77_0 to 77_2 → out\n"
    script = (cluster / "script").read_text()
    for option in ("array=0-2%2", "partition=short", "time=60", "mem=4GB", "signal=USR2@90", "job-name=out"):
        assert f"#SBATCH --{option}\n" in script


NO_OPTION = "is no option of sbatch that submitit knows"
MINUTES = "expected minutes, a whole number ≥ 1"


def test_a_time_limit_is_given_once(cluster: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["navigation_2d_maml", "--dump_path", "out", "--slurm", "time=60", "timeout-min=60"]) == 2
    assert capfd.readouterr().err.startswith("error: --slurm time: is given twice, as timeout_min too; leave one")


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (
            "time=60",
            ": sbatch: error: no partition sbatch: error: none; sweep without --slurm on a machine that has no",
        ),
        ("tiem=60", f" tiem: {NO_OPTION}; did you mean 'time'?"),
        (
            "reservation=a",
            f""" reservation: {NO_OPTION}; additional_parameters='{{"reservation": VALUE}}' passes it on""",
        ),
        ("time=1-00:00:00", f" time: {MINUTES}, got '1-00:00:00'"),
        ("timeout-min=1.5", f" timeout_min: {MINUTES}, got 1.5"),
        ("mem_gb=lots", " mem_gb: expected a number > 0, got 'lots'"),
        ("cpus-per-task=two", " cpus_per_task: expected a whole number ≥ 1, got 'two'"),
        ("additional_parameters=x", " additional_parameters: expected a mapping, got 'x'"),
        ("ntasks-per-node=2", " ntasks_per_node: expected 1, as each run has one process, got 2"),
        ("array_parallelism=2", " array_parallelism: is how many runs go on at a time; use --jobs"),
        ("setup=module", ": submitit cannot use a value ("),
    ],
)
def test_what_slurm_or_submitit_refuses_is_one_line_and_nothing_is_written(
    option: str, error: str, cluster: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["navigation_2d_maml", "--dump_path", "new/out", "--slurm", option]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: --slurm{error}") and "\\n" not in line and len(line) < 200
    assert not Path("new").exists()


def test_a_job_is_put_back_into_the_queue_as_often_as_its_time_is_over(cluster: Path) -> None:
    """By default, submitit gives up after the third time."""
    options = ["partition=short", "time=60"]
    assert sweep.main(["navigation_2d_maml", "--seeds", "1-2", "--dump_path", "out", "--slurm", *options]) == 0
    submissions = [submitit.core.utils.DelayedSubmission.load(path) for path in Path("out").rglob("*submitted.pkl")]
    assert [(job._timeout_min, job._timeout_countdown) for job in submissions] == [(60, MAX_TIMEOUTS)] * 2


@pytest.mark.ranks
@pytest.mark.slow
def test_a_sweep_is_an_array_of_slurms(tmp_path: Path) -> None:
    """In a cluster, in which a run that is put back into the queue goes on."""
    values = {"algorithm": "promp", "env": "2DNavigation-v0", "meta_batch_size": 2, "rollouts_per_meta_task": 2}
    config, folder = tmp_path / "small.json", tmp_path / "out"
    config.write_text(json.dumps(values | {"max_path_length": 5, "n_itr": 200, "save_steps": 200}))
    try:
        cluster = Slurm(tmp_path, nodes=2)
    except HostsRefusedError as refusal:
        pytest.skip(f"a Slurm cluster: {refusal}")
    with cluster:
        words = [sys.executable, "-m", "mmaml", "sweep", str(config), "--seeds", "1-2", "--dump_path", str(folder)]
        words = [*cluster.hosts.enter(0), *words, "--slurm", "time=10"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        output = subprocess.run(words, capture_output=True, text=True, env=env)
        assert output.returncode == 0 and output.stdout.startswith("submitted 2 runs to Slurm, jobs "), output
        number = output.stdout.split()[6]
        first = folder / "seed_1"
        wait_until(lambda: (first / "progress.csv").exists())
        cluster.run("scontrol", "requeue", number)
        for seed in (1, 2):
            path = folder / f"seed_{seed}" / "progress.csv"
            wait_until(lambda path=path: path.exists() and len(path.read_text().splitlines()) == 201)
        assert [line.split(",")[0] for line in (first / "progress.csv").read_text().splitlines()[1:]] == [
            str(index) for index in range(200)
        ]
