"""The documentation's job script in a Slurm cluster, whose machines are namespaces of this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmaml.config.loading import load_config
from mmaml.storage import checkpoint
from tests.helpers.faults import MPIRUN, PROGRAM, ROOT, VALUES, iterations, messages, result
from tests.helpers.hosts import SSHD_PATH, HostsRefusedError
from tests.helpers.scripts import SCRIPT, job_script
from tests.helpers.slurm import Slurm
from tests.helpers.support import run as train_here
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

# The first of a batch job's nodes has its script, mpirun and rank 0.
ONE, THREE = ["--nodes=1", "--ntasks=2"], ["--nodes=3", "--ntasks=6", "--ntasks-per-node=2"]
ENDLESS = VALUES | {"n_itr": 4000, "save_steps": 4000, "max_path_length": 50, "rollouts_per_meta_task": 10}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Slurm]:
    try:
        made = Slurm(tmp_path, nodes=3)
    except HostsRefusedError as refusal:
        pytest.skip(f"a Slurm cluster: {refusal}")
    with made:
        yield made


class Job:
    """The documentation's script as a job, with `values` for its run."""

    def __init__(self, cluster: Slurm, options: list[str], values: dict[str, object], mpirun: str = "mpirun") -> None:
        self.cluster, self.values = cluster, values
        self.folder = cluster.folder / "job"
        self.folder.mkdir()
        self.dump_path = str(self.folder / "run")
        arguments = f"--overrides '{json.dumps(values)}' --dump_path {self.dump_path} --resume"
        command = rf"{mpirun} python {PROGRAM} {SCRIPT} {arguments}"
        activate = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT}"
        script = job_script().replace("source .venv/bin/activate", activate)
        script, found = re.subn(r"^mpirun python .*--resume\b", lambda _: command, script, flags=re.MULTILINE)
        assert found == 1
        faults = json.dumps({"folder": str(self.folder / "faults"), "faults": {}})
        self.number = cluster.submit(script, *options, folder=self.folder, env=os.environ | {"FAULTS": faults})

    def wait_for_iterations(self, count: int) -> None:
        wait_until(lambda: iterations(self.dump_path) >= count or self.has_failed())

    def has_failed(self) -> bool:
        assert self.cluster.job(self.number)["JobState"] in ("PENDING", "RUNNING", "COMPLETING"), self.output
        return False

    @property
    def output(self) -> str:
        return "".join(file.read_text() for file in self.folder.glob("slurm-*.out"))

    def wait_for(self, *states: str) -> dict[str, str]:
        return self.cluster.wait_for(self.number, *states)

    def check_saved(self, messages_: list[str]) -> int:
        """That the run was stopped as it should be; how many iterations it has had."""
        done = iterations(self.dump_path)
        assert f"stopped by SIGTERM (after {done} iterations;" in messages_[-1], self.output
        assert len(messages_) == len([line for line in messages_ if "stopped by SIGTERM" in line]), messages_
        assert checkpoint.load(self.dump_path)["iteration"] == done
        return done

    def check_bits(self) -> None:
        """That the parameters are those of an undisturbed run in one process."""
        saved = checkpoint.load(self.dump_path)
        path = f"{self.dump_path}.alone"
        values = self.values | {"n_itr": saved["iteration"], "parallel": False, "dump_path": path}
        train_here(load_config(None, values, saved["config"]["algorithm"]))
        theirs, _ = result(path)
        assert all(torch.equal(saved["parameters"][name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("nodes", "mpirun"),
    [(ONE, "mpirun"), (THREE, "mpirun"), (THREE, "mpirun --prtemca plm ssh -x PYTHONPATH -x FAULTS")],
    ids=["one node", "three nodes", "three nodes, OpenSSH"],
)
def test_a_cancelled_job_saves_its_run_and_stays_cancelled(cluster: Slurm, nodes: list[str], mpirun: str) -> None:
    job = Job(cluster, nodes, ENDLESS, mpirun)
    job.wait_for_iterations(2)
    cluster.run("scancel", job.number)
    facts = job.wait_for("CANCELLED")
    wait_until(lambda: "COMPLETING" not in cluster.run("squeue", "-h", "-o", "%T"))
    assert (facts["Restarts"], facts["ExitCode"]) == ("0", "143:0")
    job.check_saved(messages(job.dump_path))
    job.check_bits()


@pytest.mark.parametrize("nodes", [ONE, THREE], ids=["one node", "three nodes"])
@pytest.mark.parametrize("by", ["the time limit's signal", "scontrol"])
def test_a_job_that_is_queued_again_goes_on_with_the_same_bits(cluster: Slurm, nodes: list[str], by: str) -> None:
    job = Job(cluster, nodes, ENDLESS)
    job.wait_for_iterations(2)
    how = ["scontrol", "requeue"] if by == "scontrol" else ["scancel", "--batch", "--signal=USR1"]
    cluster.run(*how, job.number)
    assert job.wait_for("PENDING")["Restarts"] == "1"
    done = job.check_saved(messages(job.dump_path))
    job.wait_for_iterations(done + 2)
    cluster.run("scancel", job.number)
    job.wait_for("CANCELLED")
    assert job.check_saved(messages(job.dump_path)) >= done + 2
    job.check_bits()


def test_the_time_limit_gives_its_signal(cluster: Slurm) -> None:
    """Slurm gives it up to a minute early, so that the run may be stopped in its start."""
    job = Job(cluster, ["--time=2", "--signal=B:USR1@60", *ONE], ENDLESS)
    wait_until(lambda: job.has_failed() or cluster.job(job.number)["Restarts"] == "1")
    cluster.run("scancel", job.number)
    job.wait_for("CANCELLED")


def test_a_preempted_job_saves_its_run_and_goes_on_afterwards(cluster: Slurm) -> None:
    job = Job(cluster, THREE, ENDLESS)
    job.wait_for_iterations(2)
    urgent = cluster.submit(
        "#!/bin/sh\ntrue\n", "--partition=urgent", "--nodes=3", "--exclusive", folder=job.folder, env=dict(os.environ)
    )
    cluster.wait_for(urgent, "COMPLETED")
    done = job.check_saved(messages(job.dump_path))
    job.wait_for_iterations(done + 2)
    cluster.run("scancel", job.number)
    job.wait_for("CANCELLED")
    job.check_bits()


@pytest.mark.parametrize("what", ["a rank", "a daemon", "a machine"])
def test_a_job_goes_on_without_what_it_loses_elsewhere(cluster: Slurm, what: str) -> None:
    job = Job(cluster, THREE, ENDLESS | {"n_itr": 25, "rank_timeout": 4.0})
    job.wait_for_iterations(2)
    if what == "a machine":
        cluster.hosts.cut(3)
    else:
        cluster.hosts.run(3, "pkill", "-KILL", "--newest", "python" if what == "a rank" else "prted")
    facts = job.wait_for("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "0"), job.output
    assert len(messages(job.dump_path)) == (1 if what == "a rank" else 2)
    job.check_bits()


def test_openssh_starts_the_python_of_this_environment(cluster: Slurm) -> None:
    """Its server gives commands a PATH of its own."""
    script = "import os, sys; print(os.uname().nodename, sys.executable)"
    hosts = ",".join(f"node{host}:1" for host in (1, 2, 3))
    command = [*cluster.hosts.enter(1), MPIRUN, "--host", hosts, "python", "-c", script]
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}:{SSHD_PATH}"}
    ended = subprocess.run(command, env=variables, capture_output=True, text=True)
    expected = [f"node{host} {sys.executable}" for host in (1, 2, 3)]
    assert (ended.returncode, sorted(ended.stdout.splitlines()), ended.stderr) == (0, expected, "")


def test_srun_starts_ranks_by_itself_without_a_box_of_messages(cluster: Slurm) -> None:
    job = Job(cluster, THREE, VALUES | {"n_itr": 2}, mpirun="srun --mpi=pmix")
    facts = job.wait_for("COMPLETED", "FAILED", "CANCELLED")
    if "PMIx library" in job.output or "plugin" in job.output:
        pytest.skip("srun: it has no PMIx (apt-get install libpmix-dev)")
    assert facts["JobState"] == "COMPLETED" and "-----" not in job.output, job.output
    job.check_bits()
