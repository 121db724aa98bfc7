"""The environment's mpirun: what it hides of Open MPI's messages and what it lets through."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mmaml.launcher import job, local_ranks, machine, messages, mpirun, protocol, slurm
from tests.helpers.waiting import wait_until

PROGRAM = Path(sys.executable).with_name("mpirun")
RULE = messages.RULE + b"\n"
EXITED = (
    RULE
    + b"prterun detected that one or more processes exited with non-zero status,\n"
    + b"thus causing the job to be terminated. The first process to do so was:\n\n   Exit code:    2\n"
    + RULE
)
ABORTED = RULE + b'prterun has exited due to process rank 1 with PID 0 on node vm calling\n"abort". This may\n' + RULE
NOT_FINALIZED = RULE + b"prterun has exited due to process rank 1 exiting without calling finalize\n" + RULE
NOISE = b"[node0:27082] PRTE ERROR: Not found in file /prrte/src/mca/odls/base/odls_base_default_fns.c at line 1751\n"
KILLED = RULE + b"prterun noticed that process rank 1 exited on\nsignal 9 (Killed).\n" + RULE


def in_pieces(text: bytes, size: int) -> bytes:
    output, pending = b"", b""
    for start in range(0, len(text), size):
        written, pending = messages.filtered(pending + text[start : start + size])
        output += written
    return output + messages.filtered(pending, final=True)[0]


@pytest.mark.parametrize("size", [1, 2, 7, 80, 10_000])
def test_only_redundant_messages_are_dropped(size: int) -> None:
    for hidden in (EXITED, ABORTED, EXITED + ABORTED, EXITED + b"\0" + ABORTED + b"\0"):
        assert in_pieces(b"error: why\n" + hidden + b"after", size) == b"error: why\nafter"
    for shown in (KILLED, NOT_FINALIZED, b"----\n", RULE + b"a table\n" + RULE, EXITED[:-5], b"[a\r[b", b""):
        assert in_pieces(shown, size) == shown
        assert in_pieces(EXITED + shown, size) == shown


def test_lines_without_a_cause_are_dropped() -> None:
    assert messages.filtered(b"before\n" + NOISE + b"after") == (b"before\nafter", b"")


def test_what_is_no_message_is_not_held_back() -> None:
    for text in (b"50%\r", RULE + b"a table", b"password: "):
        assert messages.filtered(text) == (text, b"")


def test_ranks_are_counted_and_shared_memory_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["-n", "5", "python"], ["--bind-to", "core", "-np", "5"]):
        assert mpirun.rank_count(arguments, 3) == 5
    assert mpirun.rank_count(["python"], 3) == 3
    monkeypatch.setattr(os, "statvfs", lambda _: types.SimpleNamespace(f_bavail=1 << 14, f_frsize=1 << 12))
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert machine.has_room("/dev/shm", 4)  # 64 MB, as in many containers
    assert not machine.has_room("/dev/shm", 5)


def test_variables_that_decide_on_bits_and_on_programs_are_given_to_other_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": "", "OPENBLAS_CORETYPE": "Haswell", "MKL_CBWR": "AVX2", "OMP_X": "1"})
    arguments = ["-x", "MKL_CBWR=COMPATIBLE", "-x", "OMP_X", "python"]
    assert mpirun.for_other_machines(arguments) == ["-x", "OPENBLAS_CORETYPE", "-x", "PATH"]
    assert mpirun.for_other_machines(["-x", "PATH=/bin", *arguments]) == ["-x", "OPENBLAS_CORETYPE"]


def test_in_a_slurm_job_other_machines_are_reached_by_a_step_on_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are others and srun, and unless the user says otherwise."""
    (tmp_path / "srun").touch(0o755)
    job_of_two = {"PATH": str(tmp_path), "SLURM_JOBID": "7", "SLURM_JOB_NUM_NODES": "2", "HOME": str(tmp_path)}

    def shell(arguments: list[str], variables: dict[str, str]) -> tuple[str | None, str]:
        """The starter, and the program that relay.py starts."""
        monkeypatch.setattr(os, "environ", variables)
        mpirun.reach_through_relay(arguments)
        return variables.get("PRTE_MCA_plm"), variables["PRTE_MCA_plm_ssh_agent"].split()[-1]

    assert shell(["python"], job_of_two.copy()) == ("ssh", "srun")
    for changed in ({"SLURM_JOB_NUM_NODES": "1"}, {"PATH": "/"}, {"PRTE_MCA_plm_slurm_args": "--mem=0"}):
        assert shell(["python"], job_of_two | changed) == (None, "ssh")
    assert shell(["--prtemca", "plm", "ssh", "python"], job_of_two.copy()) == (None, "ssh")
    assert shell(["python"], job_of_two | {"PRTE_MCA_plm_ssh_agent": "blaunch"})[1] == "blaunch"

    monkeypatch.setattr(os, "environ", job_of_two | {"SLURM_CPUS_PER_TASK": "4"})
    command = slurm.command_of_step(["srun", "node2", "cd", "/x;", "prted", "--name", '"a b"'])
    assert command is not None and command[-4:] == ["--nodelist=node2", "sh", "-c", 'cd /x; prted --name "a b"']
    assert "SLURM_CPUS_PER_TASK" not in os.environ
    assert slurm.command_of_step(["ssh", "node2", "prted"]) is None


def test_an_srun_that_is_not_needed_any_more_ends_with_what_it_has_started() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE) as srun:
        assert srun.stdout is not None and srun.stdout.readline()
        (below,) = job.descendants(job.processes(), srun.pid, set())
        slurm.leave_step(srun.pid)
        assert srun.wait() in (0, -signal.SIGKILL)  # 0 where it notices first that what it waits for is gone
    wait_until(lambda: below not in job.processes() or job.processes()[below].state == "Z")


def test_of_several_exit_codes_the_largest_counts() -> None:
    """In whatever order a set has them: several ranks may report that they end the others."""
    assert protocol.exit_code({"starting", "ended"}) is None
    for codes in itertools.combinations((*range(1, 20), 130, 143), 2):
        assert protocol.exit_code({"started", "ended", *(f"ended.{code}" for code in codes)}) == max(codes)


def test_a_start_that_cannot_succeed_is_hopeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ranks on other machines too, of which nobody here sees how they are."""
    seen = local_ranks.LocalRanks(os.getpid(), str(tmp_path))
    assert not seen.hopeless()
    (tmp_path / "starting").touch()
    assert not seen.hopeless()
    with monkeypatch.context() as patched:
        patched.setattr(local_ranks, "SECONDS_TO_START", -1.0)
        assert seen.hopeless()
    variables = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "4"}
    with subprocess.Popen(["sleep", "60"], env=variables) as rank:
        seen.find()
        assert [*seen.living()] == [1] and not seen.hopeless()
        rank.kill()
    assert seen.lost() == [1] and seen.hopeless()
    (tmp_path / "started").touch()
    assert not seen.hopeless()


def test_a_folder_for_temporary_files_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(os, "environ", {"TMPDIR": "here"})
    folder, lock = job.make_folder()
    os.close(lock)
    assert Path(folder).parent == tmp_path / "here"
    mpirun.set_environment([], folder)
    assert os.environ["TMPDIR"] == str(tmp_path / "here")


def test_a_folder_for_temporary_files_need_not_be_one_that_can_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> list[str]:
        raise PermissionError

    monkeypatch.setattr(os, "listdir", refuse)
    job.remove_dead()


@pytest.mark.ranks
def test_a_rank_that_fails_has_the_last_word() -> None:
    ranks = (os.cpu_count() or 1) + 1  # more than cores
    script = (
        "import sys; from mpi4py import MPI; ranks = MPI.COMM_WORLD; rank = ranks.Get_rank();"
        "print('rank 1 failed', file=sys.stderr) if rank == 1 else None; ranks.Barrier(); sys.exit(3)"
    )
    finished = subprocess.run(
        [str(PROGRAM), "-n", str(ranks), sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (finished.returncode, finished.stdout) == (3, "")
    assert finished.stderr == "rank 1 failed\n"
