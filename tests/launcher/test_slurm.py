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
from tests.helpers.faults import PROGRAM, ROOT, VALUES, iterations, messages, result
from tests.helpers.hosts import HostsRefusedError
from tests.helpers.scripts import SCRIPT, job_script
from tests.helpers.slurm import Slurm
from tests.helpers.support import run as train_here
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

# The first of a batch job's nodes has its script, mpirun and rank 0.
ONE, THREE = ["--nodes=1", "--ntasks=2"], ["--nodes=3", "--ntasks=6", "--ntasks-per-node=2"]
ENDLESS = VALUES | {"n_itr": 4000, "save_steps": 4000, "max_path_length": 50, "rollouts_per_meta_task": 10}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    try:
        made = Slurm(tmp_path_factory.mktemp("slurm"), nodes=3)
    except HostsRefusedError as refusal:
        pytest.skip(f"a Slurm cluster: {refusal}")
    with made:
        yield made


class Job:
    """The documentation's script as a job, in a new folder of the cluster's, with `values` for its run."""

    def __init__(self, cluster: Slurm, options: list[str], values: dict[str, object], mpirun: str = "mpirun") -> None:
        self.cluster = cluster
        self.folder = Path(subprocess.check_output(["mktemp", "-d", "-p", cluster.folder], text=True).strip())
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
        values = saved["config"] | {"n_itr": saved["iteration"], "resume": "never", "parallel": False}
        values |= {"dump_path": f"{self.dump_path}.alone"}
        train_here(load_config(None, values))
        theirs, _ = result(values["dump_path"])
        assert all(torch.equal(saved["parameters"][name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("nodes", [ONE, THREE], ids=["one node", "three nodes"])
def test_a_cancelled_job_saves_its_run_and_stays_cancelled(cluster: Slurm, nodes: list[str]) -> None:
    job = Job(cluster, nodes, ENDLESS)
    job.wait_for_iterations(2)
    cluster.run("scancel", job.number)
    facts = job.wait_for("CANCELLED")
    wait_until(lambda: "COMPLETING" not in cluster.run("squeue", "-h", "-o", "%T"))
    assert (facts["Restarts"], facts["ExitCode"]) == ("0", "143:0")
    job.check_saved(messages(job.dump_path))
    job.check_bits()
