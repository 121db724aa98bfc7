"""Ranks on several machines, which are namespaces of this one: started, stopped, cut off."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from mmaml.config.loading import load_config
from mmaml.launcher import job
from mmaml.storage import checkpoint
from tests.helpers.faults import MPIRUN, VALUES, finished, iterations, messages, result, started
from tests.helpers.hosts import SSHD_PATH, Hosts, HostsRefusedError
from tests.helpers.launching import Launch
from tests.helpers.support import run as train_here
from tests.helpers.waiting import wait_for_looks, wait_until

pytestmark = pytest.mark.ranks


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Three hosts. The daemons of Open MPI give up a silent connection after three seconds."""
    try:
        made = Hosts(tmp_path, 3)
    except HostsRefusedError as refusal:
        pytest.skip(f"several hosts: {refusal}")
    with made:
        yield made


def launch(hosts: Hosts, folder: Path, *ways: str, options: Sequence[str] = ()) -> Launch:
    keepalive = {"time": 1, "intvl": 1, "probes": 2}
    parameters = [
        word for name, value in keepalive.items() for word in ("--prtemca", f"oob_tcp_keepalive_{name}", str(value))
    ]
    options = [*options, *parameters, *hosts.options(slots=2)]
    launched = Launch(folder, *ways, ranks=6, options=options, place=hosts.enter(0)).ready()
    assert [facts["host"] for facts in launched.facts] == [f"node{rank // 2}" for rank in range(6)]
    return launched


def test_a_signal_stops_ranks_everywhere_and_nothing_remains(hosts: Hosts, tmp_path: Path) -> None:
    launched = launch(hosts, tmp_path)
    assert all(hosts.files(host) for host in range(3))
    launched.signal(signal.SIGTERM)
    output, errors = launched.process.communicate(timeout=60)
    assert (launched.process.returncode, output, errors) == (143, f"asked {int(signal.SIGUSR1)}\n", "")
    assert not os.path.exists(launched.facts[0]["folder"])
    wait_until(lambda: not any(hosts.processes(host) for host in (1, 2)))
    assert not any(hosts.files(host) for host in range(3))


@pytest.mark.slow
def test_hosts_that_are_lost_do_not_end_the_run(hosts: Hosts, tmp_path: Path) -> None:
    """One is cut off, the daemon of the other is killed."""
    launched = launch(hosts, tmp_path, "no-messages")
    hosts.cut(1)
    hosts.run(2, "pkill", "-KILL", "prted")
    wait_until(lambda: not any(hosts.processes(host) for host in (1, 2)))  # they do not stay behind either
    assert launched.process.poll() is None
    (tmp_path / "stop").touch()
    output, errors = launched.process.communicate(timeout=60)
    assert (launched.process.returncode, output, errors) == (0, "asked\n", "")
    assert not os.path.exists(launched.facts[0]["folder"])
    assert not hosts.files(0)


@pytest.mark.parametrize("options", [("--with-ft", "none"), ()])
def test_a_loss_that_ends_the_run_is_not_called_the_masters(
    hosts: Hosts, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Of a daemon, once nothing keeps the run from ending with it."""
    launched = launch(hosts, tmp_path, options=options)

    def running(program: bytes) -> list[int]:
        """The processes of the run whose program is a file of that name, each before those that it has started."""
        found = job.descendants(job.processes(), launched.process.pid, set())
        words = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in found}
        return [pid for pid in found if any(word.endswith(program) for word in words[pid])]

    wait_for_looks(running(b"/mpirun.py")[-1], 2)  # so that it knows its ranks
    for pid in [] if options else running(b"/relay.py"):
        with contextlib.suppress(ProcessLookupError):  # the loss of one ends others
            os.kill(pid, signal.SIGKILL)
    hosts.run(2, "sh", "-c", "pkill -KILL prted || true")  # which may have ended with its relay
    errors = launched.process.communicate(timeout=60)[1]
    assert launched.process.returncode not in (0, None)
    what = "a rank or a machine was lost, and without ULFM the run" if options else "rank 0, the master, or a machine"
    assert errors.splitlines()[-1].startswith(f"error: {what}"), errors


def test_the_python_of_this_environment_starts_everywhere(hosts: Hosts, tmp_path: Path) -> None:
    """Named as the documentation does. The remote shell knows no environment, and may find another Python."""
    script = "import os, sys; print(os.uname().nodename, sys.executable, os.environ['PATH'])"
    command = [MPIRUN, *hosts.options(), "-n", "3", "python", "-c", script]
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}:{SSHD_PATH}"}
    ended = subprocess.run([*hosts.enter(0), *command], env=variables, capture_output=True, text=True)
    expected = [f"node{host} {sys.executable} {variables['PATH']}" for host in range(3)]
    assert (ended.returncode, sorted(ended.stdout.splitlines()), ended.stderr) == (0, expected, "")


ORDERS = {"the launcher first": 1, "the ranks first": -1}


@pytest.mark.long
@pytest.mark.parametrize("order", ["the ranks first", pytest.param("the launcher first", marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", ["there", pytest.param("here", marks=pytest.mark.slow)])
def test_a_signal_to_every_process_everywhere_is_one(hosts: Hosts, tmp_path: Path, first: str, order: str) -> None:
    """Among them the remote shell and what it has started; as Slurm does when it cancels a job or requeues it."""
    values = VALUES | {"n_itr": 4000, "save_steps": 4000, "dump_path": str(tmp_path / "run")}
    values |= {"max_path_length": 100, "rollouts_per_meta_task": 20}  # for the signals to arrive within an iteration
    variables = ["-x", "PYTHONPATH", "-x", "FAULTS"]
    with started(values, 6, *variables, *hosts.options(slots=2), place=hosts.enter(0)) as process:
        wait_until(lambda: iterations(values["dump_path"]) >= 2)
        here = [process.pid, *job.descendants(job.processes(), process.pid, set())][:: ORDERS[order]]
        commands = [["kill", "-TERM", *map(str, here)]]
        commands += [hosts.enter(host) + ["kill", "-TERM", "--", "-1"] for host in (1, 2)]
        for command in commands[:: 1 if first == "here" else -1]:
            subprocess.run(command, check=True)
        ended = finished(process)
    assert ended.returncode == 143, ended.stderr
    done = iterations(values["dump_path"])
    told = messages(values["dump_path"])
    assert len(told) == 1 and f"stopped by SIGTERM (after {done} iterations;" in told[0], told
    assert checkpoint.load(values["dump_path"])["iteration"] == done


@pytest.mark.slow
def test_training_goes_on_without_a_host_that_is_cut_off(hosts: Hosts, tmp_path: Path) -> None:
    """Its ranks answer no more, and cannot be killed from here."""
    values = VALUES | {"n_itr": 40, "save_steps": 40, "rank_timeout": 4.0, "dump_path": str(tmp_path / "run")}
    variables = ["-x", "PYTHONPATH", "-x", "FAULTS"]
    with started(values, 6, *variables, *hosts.options(slots=2), place=hosts.enter(0)) as process:
        wait_until(lambda: iterations(values["dump_path"]) >= 2)
        hosts.cut(2)
        ended = finished(process)
    assert ended.returncode == 0, ended.stderr
    placement = json.loads((tmp_path / "run" / "params.json").read_text())["placement"]
    assert (placement["ranks"], placement["machines"]) == (6, 3)
    assert "/run · 6 ranks on 3 machines · " in ended.stdout.splitlines()[0]
    told = messages(values["dump_path"])
    assert len(told) == 2
    for line in told:
        assert re.search(r"rank [45] of 6 was lost in .+: no answer for 4 s \(on host node2, where it cannot be", line)
    train_here(load_config(None, values | {"dump_path": str(tmp_path / "alone"), "parallel": False}))
    (ours, rows), (theirs, expected) = result(values["dump_path"]), result(str(tmp_path / "alone"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rows == expected
