"""What a job finds on a machine, or does not: a network, shared memory, a home, a Slurm job that is another's."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mmaml.launcher import install, job, machine, mpirun
from mmaml.launcher.protocol import SIZE_VARIABLES
from tests.helpers.scripts import ROOT
from tests.helpers.support import SMALL, progress

HERE = os.uname().nodename
FOREIGN = {
    "SLURM_JOBID": "7",
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "1",
    "SLURM_NODELIST": "no-such-machine",
    "SLURM_JOB_NODELIST": "no-such-machine",
    "SLURM_TASKS_PER_NODE": "1",
    "SLURM_JOB_CPUS_PER_NODE": "4",
    "SLURM_NNODES": "1",
}
SECONDS = 120.0  # no test takes as long, unless something hangs


def command(*words: str) -> list[str]:
    """The words that start this project's mpirun."""
    found = install.open_mpi(Path(sys.executable).parent)
    assert found is not None
    return [*install.command(found), *words]


def ran(
    words: Sequence[str], folder: Path, variables: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program that has ended, with other variables than this process; None: without it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    changed = inherited | {"PYTHONPATH": str(ROOT)} | dict(variables or {})
    environment = {name: value for name, value in changed.items() if value is not None}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture
def separate(tmp_path: Path) -> Callable[..., list[str]]:
    """The words that run a program in namespaces of its own, after a line of a shell that prepares them."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root may make namespaces, with the program unshare")
    if (made := ran(["unshare", "--net", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"], tmp_path)).returncode:
        pytest.skip(f"namespaces cannot be made here: {made.stderr.strip()}")

    def words(*kinds: str, prepare: str = "true") -> list[str]:
        return ["unshare", *kinds, "sh", "-ec", f'{prepare}; exec "$@"', "prepared"]

    return words


def small_run(folder: Path) -> list[str]:
    """The words of a small run into folder/run."""
    (folder / "small.json").write_text(json.dumps(SMALL | {"algorithm": "promp", "parallel": True, "n_itr": 1}))
    return [sys.executable, "-m", "mmaml", "train", "small.json", "--dump_path", "run"]


# A job of Slurm's that is another machine's.


@pytest.mark.parametrize(
    ("text", "names"),
    {
        "": [],
        "a": ["a"],
        "a,b-1": ["a", "b-1"],
        "n[1-3]": ["n1", "n2", "n3"],
        "n[08-11,20],m": ["n08", "n09", "n10", "n11", "n20", "m"],
        "r[1-2]n[5,7]x,q": ["r1n5x", "r1n7x", "r2n5x", "r2n7x", "q"],
        "n[x,2]": ["n2"],
    }.items(),
)
def test_lists_of_nodes(text: str, names: list[str]) -> None:
    assert [*machine.node_names(text)] == names


@pytest.mark.parametrize(
    ("nodes", "here", "foreign"),
    [
        ("a[1-2]", "a2", []),
        ("a[1-2]", "a2.cluster", []),
        ("a1.cluster", "a1", []),
        ("a[1-2]", "container", ["a1", "a2"]),
        ("", "container", []),
    ],
)
def test_a_job_of_this_machine_is_none_of_others(
    nodes: str, here: str, foreign: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(nodename=here))
    for name in ("SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        monkeypatch.setattr(os, "environ", {"SLURM_JOBID": "7", name: nodes})
        assert machine.foreign_nodes() == foreign
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_NODELIST": nodes})  # no job
    assert machine.foreign_nodes() == []


def test_ranks_stay_here_where_nothing_can_be_started_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def looked(arguments: list[str], known: bool, slurm: bool) -> tuple[str, str, str]:
        """What is said after a failure, what at once, and what Open MPI is told."""
        monkeypatch.setattr(os, "environ", dict(FOREIGN))
        monkeypatch.setattr(machine, "_is_known", lambda _: known)
        monkeypatch.setattr(machine, "_slurm_works", lambda: slurm)
        later = mpirun.stay_here(arguments)
        return later, capfd.readouterr().err, dict(os.environ).get("PRTE_MCA_ras", "")

    named = f"SLURM_JOB_NODELIST names no-such-machine, which is not this machine, {HERE}"
    later, at_once, told = looked(["-n", "2", "x"], known=False, slurm=False)
    assert (later, told) == (named, "^slurm") and at_once.count("\n") == 1
    assert at_once.startswith(f"notice: {named}, ") and "unset SLURM_JOBID" in at_once
    for known, slurm in ((True, False), (False, True)):
        assert looked(["-n", "2", "x"], known, slurm) == (named, "", "")
    assert looked(["--host", "a", "-n", "2", "x"], known=False, slurm=False) == ("", "", "")


def test_slurm_works_where_its_program_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not machine._slurm_works()
    for code in (1, 0):
        (tmp_path / "srun").write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / "srun").chmod(0o755)
        assert machine._slurm_works() == (code == 0)


@pytest.mark.ranks
def test_ranks_start_in_a_container_with_the_variables_of_a_job(tmp_path: Path) -> None:
    without_slurm = {**FOREIGN, "PATH": "/nowhere"}
    done = ran(command("-n", "2", sys.executable, "-c", "print('here')"), tmp_path, without_slurm)
    assert (done.returncode, done.stdout) == (0, "here\nhere\n"), done.stderr
    assert done.stderr.startswith("notice: SLURM_JOB_NODELIST names no-such-machine") and done.stderr.count("\n") == 1
    trained = ran([*small_run(tmp_path), "--ranks", "2"], tmp_path, without_slurm)
    assert trained.returncode == 0, trained.stderr
    assert "2 ranks on 1 machine" in trained.stdout.splitlines()[0]


# The network.


def test_a_network_that_works_is_no_problem() -> None:
    assert machine.network_problem() == ""


@pytest.mark.parametrize(("number", "refused"), [(errno.ENETUNREACH, True), (errno.EPERM, False)])
def test_only_a_network_that_is_down_is_refused(number: int, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(socket.socket):
        def connect(self, _: object) -> None:
            raise OSError(number, "")

    monkeypatch.setattr(socket, "socket", Broken)
    assert machine.network_problem().startswith("network: the loopback interface is down") == refused


@pytest.mark.ranks
def test_without_a_loopback_interface_there_is_one_line(separate: Callable[..., list[str]], tmp_path: Path) -> None:
    down = separate("--net")
    for words in (command("-n", "2", "true"), [*small_run(tmp_path), "--ranks", "2"]):
        done = ran([*down, *words], tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: network: the loopback interface is down") and done.stderr.count("\n") == 1
        assert "ip link set lo up" in done.stderr and "--ranks 1" in done.stderr
    assert not (tmp_path / "run").exists()
    done = ran([*down, *small_run(tmp_path), "--ranks", "1"], tmp_path)  # as it advises
    assert done.returncode == 0 and len(progress(tmp_path / "run")) == 1, done.stderr


# A home.


def test_a_home_is_that_of_the_system_or_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = types.SimpleNamespace(pw_dir=str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)
    assert machine.home(otherwise="/other") == str(tmp_path)
    entry.pw_dir = str(tmp_path / "missing")
    assert machine.home(otherwise="/other") == "/other"

    def unknown(_: int) -> object:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert machine.home(otherwise="/other") == "/other"


def test_a_home_that_is_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in (("/mine", "/mine"), ("", str(tmp_path)), (None, str(tmp_path))):
        monkeypatch.setattr(machine, "home", lambda otherwise: otherwise)
        monkeypatch.setattr(os, "environ", {} if before is None else {"HOME": before})
        mpirun.set_environment([], str(tmp_path))
        assert os.environ["HOME"] == after


@pytest.mark.ranks
@pytest.mark.parametrize("value", [None, ""])
def test_ranks_start_without_a_home(value: str | None, tmp_path: Path) -> None:
    done = ran([*small_run(tmp_path), "--ranks", "2"], tmp_path, {"HOME": value})
    assert done.returncode == 0 and len(progress(tmp_path / "run")) == 1, done.stderr


# Room for the messages between ranks.


def test_room_is_measured_in_the_folders_that_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"/dev/shm": 40, str(tmp_path): 16}  # MiB
    monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=free[path] << 8, f_frsize=1 << 12))
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for ranks, problem in ((1, False), (2, False), (3, True), (100, True)):
        assert bool(machine.room_problem(ranks)) == problem
    line = machine.room_problem(3)
    assert line.startswith("shared memory: 3 ranks need 48 MiB, but '/dev/shm' has 40 MiB and TMPDIR, ")
    assert f"'{tmp_path}', has 16 MiB;" in line and "\n" not in line
    free[str(tmp_path)] = 48
    assert not machine.room_problem(3)
    monkeypatch.setattr(os, "access", lambda path, _: path != str(tmp_path))
    assert machine.room_problem(3)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(os, "statvfs", lambda _: os.stat(tmp_path / "missing"))
    assert machine.room_problem(1)


def test_room_is_not_measured_where_others_have_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda _: 0)
    for variables, arguments, refused in (
        ({}, ["-n", "2", "x"], True),
        ({}, ["x"], True),
        ({}, ["-n", "2", "--hostfile", "h", "x"], False),
        ({}, ["--host", "a,b", "x"], False),
        ({"SLURM_JOB_NODELIST": "a,b"}, ["-n", "2", "x"], False),
        ({job.BACKING_VARIABLE: "/mine"}, ["-n", "2", "x"], False),
        ({"OMPI_MCA_btl": "self,tcp"}, ["-n", "2", "x"], False),
    ):
        monkeypatch.setattr(os, "environ", variables)
        assert bool(mpirun.room_problem(arguments)) == refused, (variables, arguments)


@pytest.mark.ranks
def test_without_room_there_is_one_line(separate: Callable[..., list[str]], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()

    def mounted(shared: str, temporary: str) -> list[str]:
        mounts = [
            f"mount -t tmpfs -o size={size} x {place}" for size, place in ((shared, "/dev/shm"), (temporary, small))
        ]
        return separate("--mount", prepare="; ".join(mounts))

    for words in (command("-n", "2", "true"), [*small_run(tmp_path), "--ranks", "2"]):
        done = ran([*mounted("4m", "8m"), *words], tmp_path, {"TMPDIR": str(small)})
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith("error: shared memory: 2 ranks need 32 MiB, but '/dev/shm' has 4 MiB and TMPDIR")
        assert f"'{small}', has 8 MiB" in done.stderr and done.stderr.count("\n") == 1
    done = ran([*mounted("4m", "100m"), *small_run(tmp_path), "--ranks", "2"], tmp_path, {"TMPDIR": str(small)})
    assert done.returncode == 0, done.stderr


# A process that a launcher has announced, but that meets no others.

LISTED = 'import os; print(sorted(os.listdir("/dev/shm")), sorted(os.listdir(os.environ["TMPDIR"])))'


@pytest.mark.parametrize("variable", SIZE_VARIABLES)
@pytest.mark.parametrize(("count", "code"), [("1", 0), ("4", 2)])
def test_nothing_is_left_of_a_process_that_meets_no_others(
    variable: str, count: str, code: int, separate: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "temporary").mkdir()
    alone = separate("--mount", prepare="mount -t tmpfs x /dev/shm")
    look = f"\"$@\"; code=$?; {sys.executable} -c '{LISTED}'; exit $code"
    words = [*alone, "sh", "-c", look, "looked", *small_run(tmp_path), "--n_itr=1", "--parallel=false"]
    done = ran(words, tmp_path, {variable: count, "TMPDIR": str(tmp_path / "temporary")})
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "[] []"
