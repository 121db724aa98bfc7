"""The environment's mpirun as a supervisor: signals, losses, exit codes, and that nothing of a job remains."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmaml.launcher import job as job_files
from mmaml.parallel.launch import mpirun_command
from tests.helpers.launching import PROGRAM, SECONDS, Launch, parent
from tests.helpers.scripts import job_script
from tests.helpers.waiting import wait_for_looks, wait_until

pytestmark = pytest.mark.ranks


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    launched: list[Launch] = []

    def start(*arguments: Any, **options: Any) -> Launch:
        launched.append(Launch(tmp_path, *arguments, **options))
        return launched[-1].ready()

    yield start
    for left in launched:
        if left.process.poll() is None:
            left.process.kill()
            left.process.communicate()


@pytest.mark.parametrize(
    ("sent", "received", "code"),
    [
        (signal.SIGTERM, signal.SIGUSR1, 143),
        (signal.SIGHUP, signal.SIGUSR1, 143),
        (signal.SIGINT, signal.SIGUSR2, 130),
    ],
)
def test_a_signal_lets_the_ranks_stop_in_their_own_time(
    launch: Any, sent: int, received: int, code: int, tmp_path: Path
) -> None:
    job = launch()
    job.signal(sent)
    wait_until((tmp_path / "asked").exists)
    job.signal(sent)  # the same once more, as from a terminal and a shell
    assert job.end() == (code, f"asked {int(received)}\n", "")


def test_a_run_that_ends_well_after_a_signal_has_ended_well(launch: Any) -> None:
    job = launch("end-well")
    job.signal(signal.SIGTERM)
    assert job.end()[0] == 0


def test_a_run_that_fails_while_it_stops_has_failed(launch: Any) -> None:
    """Its last checkpoint could not be written, say: what waits for 143 to requeue the run is not to do so."""
    job = launch("end-well", "fail")
    job.signal(signal.SIGTERM)
    assert job.end()[0] == 5


def test_a_run_that_was_asked_to_stop_has_not_ended_well_unless_it_says_so(launch: Any) -> None:
    """Rank 0 may have been ended by what else the signal has done, such as to a connection or to its output."""
    job = launch("end-well", "plain-end")
    job.signal(signal.SIGTERM)
    assert job.end()[0] == 143


def test_the_second_signal_ends_everything_at_once(launch: Any, tmp_path: Path) -> None:
    """Signals that follow each other closely are one, so that it is sent until it counts as the second."""
    job = launch("deaf")
    (tmp_path / "pause").touch()  # a rank that waits for one that is stopped hears no signal
    wait_until((tmp_path / "paused").exists)
    os.kill(job.pid(1), signal.SIGSTOP)
    job.signal(signal.SIGTERM)
    wait_until((tmp_path / "asked").exists)
    (tmp_path / "pause").unlink()
    wait_for_looks(parent(parent(job.pid(0))), 3)
    assert job.process.poll() is None

    def has_ended() -> bool:
        job.signal(signal.SIGINT)  # does nothing where it has
        return job.process.poll() is not None

    wait_until(has_ended)
    assert job.end() == (143, "", "")


def test_signals_to_every_process_of_the_job_but_the_ranks_are_one(launch: Any) -> None:
    job = launch()
    for pid in (job.process.pid, mpirun := parent(job.pid(0)), parent(mpirun)):
        os.kill(pid, signal.SIGTERM)
    assert job.end() == (143, f"asked {int(signal.SIGUSR1)}\n", "")


# After the end. Rank 0 reports the exit code, or with "plain-end" leaves it to Open MPI; with "slow-end" its process
# goes on until the test lets it end. A supervisor that is quick has looked for longer than a second after LOOKS.
QUICK = {"SECONDS_TICK": 0.05}
LOOKS = 40


@pytest.mark.parametrize(("ways", "code"), [((), 0), (("plain-end",), 0), (("fail",), 5), (("fail", "plain-end"), 5)])
def test_a_run_that_has_ended_is_waited_for(launch: Any, tmp_path: Path, ways: tuple[str, ...], code: int) -> None:
    """However short other limits are, and without a word; also where the other ranks wait for rank 0 to end MPI."""
    settings = QUICK | {"SECONDS_AFTER_LOSS": 0, "SECONDS_TO_END": 1.0}
    if "plain-end" in ways:
        settings["SECONDS_OF_RANK_0"] = 0
    job = launch("slow-end", *ways, settings=settings)
    (tmp_path / "stop").touch()
    wait_until((tmp_path / "ended").exists)
    wait_for_looks(parent(parent(job.pid(0))), LOOKS)
    (tmp_path / "last breath").touch()
    assert job.end() == (code, "asked\n", "")


@pytest.mark.parametrize("fault", ["stopped", "endless"])
@pytest.mark.parametrize("ways", [("no-messages",), ("plain-end",), ("plain-end", "fail")])
def test_a_worker_that_hangs_is_killed_and_the_exit_code_is_rank_0s(
    launch: Any, tmp_path: Path, ways: tuple[str, ...], fault: str
) -> None:
    """Whose exit handlers go on meanwhile.

    With "plain-end" rank 0 waits in MPI's end for the rank that is killed. Now and then Open MPI never lets it go on:
    it is killed too then, with an exit code that nobody knows.
    """
    settings = {"SECONDS_STOPPED" if fault == "stopped" else "SECONDS_TO_END": 0.5, "SECONDS_OF_RANK_0": 10.0}
    job = launch("slow-end", "loop" if ways == ("no-messages",) else "never-end", *ways, settings=settings)
    if fault == "stopped":
        (tmp_path / "pause").touch()
        wait_until((tmp_path / "paused").exists)
        os.kill(job.pid(1), signal.SIGSTOP)
    (tmp_path / "stop").touch()
    wait_until(lambda: job_files.state_of(job.pid(1)) is None)
    (tmp_path / "last breath").touch()
    code, output, errors = job.end()
    stuck = "plain-end" in ways and "ranks 0, 1" in errors
    assert (code, output) == (5 if "fail" in ways and not stuck else 0, "asked\n")
    assert errors == f"warning: {'ranks 0, 1' if stuck else 'rank 1'} did not end with the run; killed\n"


def test_a_rank_0_that_never_ends_after_another_was_killed_is_killed_too(launch: Any, tmp_path: Path) -> None:
    """As where Open MPI does not let it out of its end."""
    settings = {"SECONDS_TO_END": 0.5, "SECONDS_OF_RANK_0": 0.5}
    job = launch("slow-end", "never-end", "plain-end", settings=settings)
    (tmp_path / "stop").touch()
    assert job.end() == (0, "asked\n", "warning: ranks 0, 1 did not end with the run; killed\n")


@pytest.mark.parametrize("others", [(), ("never-end",)])
@pytest.mark.parametrize("fault", ["stopped", "endless"])
def test_a_rank_0_that_hangs_after_the_end_is_killed(
    launch: Any, tmp_path: Path, fault: str, others: tuple[str, ...]
) -> None:
    """It alone is named: another rank may wait for it in MPI's end, and now and then goes on waiting without it."""
    settings = {"SECONDS_STOPPED" if fault == "stopped" else "SECONDS_OF_RANK_0": 0.5, "SECONDS_TO_END": 5.0}
    job = launch("slow-end", "fail", *others, settings=settings)
    (tmp_path / "stop").touch()
    wait_until((tmp_path / "ended").exists)
    if fault == "stopped":
        os.kill(job.pid(0), signal.SIGSTOP)
    assert job.end() == (5, "asked\n", "warning: rank 0 did not end with the run; killed\n")


def test_a_run_that_the_user_suspends_at_its_end_is_left_alone(launch: Any, tmp_path: Path) -> None:
    job = launch("slow-end", settings=QUICK | {"SECONDS_STOPPED": 1.0})
    (tmp_path / "stop").touch()
    wait_until((tmp_path / "ended").exists)
    supervisor = parent(parent(job.pid(0)))
    job.signal(signal.SIGTSTP)
    wait_until(lambda: all(state(job.pid(rank)) == "T" for rank in range(2)))
    wait_for_looks(supervisor, LOOKS)
    job.signal(signal.SIGCONT)
    wait_until(lambda: all(state(job.pid(rank)) != "T" for rank in range(2)))
    (tmp_path / "last breath").touch()
    assert job.end() == (0, "asked\n", "")


def test_time_in_which_a_process_waits_for_the_machine_is_not_its_own() -> None:
    def spent(*looks: tuple[str, int]) -> tuple[float, float]:
        """Of a process that is in such a state, and has computed so long, at looks of a second each."""
        before = job_files.Spent(job_files.ProcessState(1, "S", 7, 0), None, 1.0)
        for state, computed in looks:
            before = job_files.Spent(job_files.ProcessState(1, state, 7, computed), before, 1.0)
        return before.seconds, before.stopped

    assert spent(("S", 0), ("R", 5), ("S", 5), ("t", 5), ("T", 5)) == (5, 2)
    assert spent(("R", 0), ("D", 0), ("D", 3), ("R", 3)) == (0, 0)
    assert spent(("T", 0), ("S", 0), ("T", 0)) == (3, 1)
    another = job_files.ProcessState(1, "S", 8, 0)  # which has the same id
    assert job_files.Spent(another, job_files.Spent(another, None, 1.0), 1.0).seconds == 1
    assert job_files.Spent(another, job_files.Spent(job_files.ProcessState(1, "S", 7, 0), None, 1.0), 1.0).seconds == 0


def test_a_process_whose_name_is_no_text_is_seen() -> None:
    """Linux keeps 15 bytes of a name, which may cut a letter in two."""
    code = "open('/proc/self/comm', 'wb').write(b'x' * 14 + 'ß'.encode()); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stdout.readline()
        assert b"x\xc3" in Path(f"/proc/{program.pid}/comm").read_bytes()
        found = job_files.processes()[program.pid]
        assert found.parent == os.getpid() and job_files.lives(program.pid, found.started)
        assert not job_files.lives(program.pid, found.started - 1)
        program.communicate(b"\n")
    assert not job_files.lives(program.pid, found.started)


def state(pid: int) -> str:
    process = job_files.state_of(pid)
    return "gone" if process is None else process.state


def test_the_loss_of_the_master_ends_the_run(launch: Any) -> None:
    job = launch("loop", "no-messages", ranks=3)
    os.kill(job.pid(0), signal.SIGKILL)
    code, _, errors = job.end()
    assert code == 1
    assert errors.startswith("error: rank 0, the master, was lost; --restore_path")
    assert errors.count("\n") == 1


def test_the_loss_of_a_worker_is_the_masters_business(launch: Any, tmp_path: Path) -> None:
    job = launch("no-messages")
    os.kill(job.pid(1), signal.SIGKILL)
    wait_for_looks(parent(parent(job.pid(0))), 3)
    assert job.process.poll() is None
    (tmp_path / "stop").touch()
    assert job.end() == (0, "asked\n", "")


def test_without_ulfm_the_loss_of_a_rank_ends_the_run(launch: Any) -> None:
    job = launch(options=("--with-ft", "none"), ranks=3)
    os.kill(job.pid(2), signal.SIGSTOP)
    os.kill(job.pid(1), signal.SIGKILL)
    code, _, errors = job.end()
    assert code > 0
    assert "exited on\nsignal 9" in errors
    assert errors.splitlines()[-1].startswith("error: a rank was lost, and without ULFM the run; --restore_path")


def test_a_rank_lost_before_all_have_started_ends_the_run(tmp_path: Path) -> None:
    for ways, what in (("lost-in-start", "lost rank 1"), ("all-lost-in-start", "the ranks ended")):
        job = Launch(tmp_path, ways, ranks=3)
        output, errors = job.process.communicate(timeout=SECONDS)
        assert (job.process.returncode, output) == (1, "")
        assert errors == f"error: {what} before all had started; start the run again\n"


@pytest.mark.parametrize("which", ["front", "supervisor", "mpirun"])
def test_whichever_process_is_killed_nothing_remains(launch: Any, which: str) -> None:
    """Also where it was started in the background by a shell, which has these signals ignored."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        job = launch("loop", ranks=3)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    os.kill(job.pid(2), signal.SIGSTOP)
    mpirun = parent(job.pid(0))
    os.kill({"front": job.process.pid, "supervisor": parent(mpirun), "mpirun": mpirun}[which], signal.SIGKILL)
    output, errors = job.process.communicate(timeout=SECONDS)
    if which == "front":  # its child has yet to clear up
        assert job.process.returncode == -signal.SIGKILL
        wait_until(lambda: not os.path.exists(job.facts[0]["folder"]))
    else:
        assert (job.process.returncode, output) == (128 + signal.SIGKILL, "")
        assert errors.startswith("error: ") and "--restore_path" in errors and errors.count("\n") == 1
    job.check_nothing_remains()


def test_an_exit_code_that_rank_0_does_not_report_is_that_of_open_mpi(launch: Any, tmp_path: Path) -> None:
    job = launch("fail", "plain-end")
    (tmp_path / "stop").touch()
    assert job.end() == (5, "asked\n", "")


def test_a_run_whose_ranks_end_before_they_report_anything_has_failed() -> None:
    """As where they cannot load a library. Open MPI's own exit code says nothing then."""
    command = [*mpirun_command(), "-n", "2", sys.executable, "-c", "raise SystemExit(3)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (1, "error: the ranks ended before the run began\n")


def test_a_program_that_reports_nothing_is_not_judged() -> None:
    script = "sleep $OMPI_COMM_WORLD_RANK; exit $((3 * OMPI_COMM_WORLD_RANK))"
    command = [str(PROGRAM), "-n", "2", "sh", "-c", script]
    assert subprocess.run(command, timeout=SECONDS).returncode == 3


def test_a_program_that_knows_no_signals_is_stopped_by_one() -> None:
    process = subprocess.Popen(
        [str(PROGRAM), "-n", "2", "sh", "-c", "echo started; exec sleep 60"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    process.terminate()
    process.communicate(timeout=SECONDS)
    assert process.returncode == 143


def test_at_a_terminal(launch: Any) -> None:
    """Ranks see the terminal's size; Ctrl-Z stops them and fg goes on; Ctrl-C asks them to stop."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, b"\x18\x00\x50\x00\0\0\0\0")

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    job = launch(stdin=end, stdout=end, stderr=end, preexec_fn=take_terminal)
    assert job.facts[0]["terminal"] == 80
    os.write(terminal, b"\x1a")
    wait_until(lambda: all(state(pid) == "T" for pid in (job.pid(0), job.pid(1), job.process.pid)))
    os.killpg(job.process.pid, signal.SIGCONT)
    wait_until(lambda: all(state(pid) != "T" for pid in (job.pid(0), job.pid(1), job.process.pid)))
    os.write(terminal, b"\x03")
    assert job.end()[0] == 130


def test_what_killed_jobs_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(job_files.BACKING_VARIABLE, str(tmp_path))
    (tmp_path / "another").mkdir()
    folders, locks = zip(*(job_files.make_folder() for _ in range(3)), strict=True)
    living, dead, new = folders
    for number, folder in enumerate((living, dead)):
        (tmp_path / f"segment{number}").touch()
        Path(folder, "session").mkdir()
        Path(folder, job_files.SEGMENTS).write_text(rf"segment[{number}]")
        os.utime(folder, (0, 0))
    for lock in locks[1:]:
        os.close(lock)
    job_files.remove_dead()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"another", "segment0", Path(living).name, Path(new).name}
    os.close(locks[0])


def test_the_example_for_slurm_is_queued_again_when_its_time_is_over(tmp_path: Path) -> None:
    """Not when it is cancelled, and not when it has ended; `scontrol` only notes what it is given."""
    script = job_script()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    programs = {
        "scontrol": 'echo "$@" > queued',
        "mpirun": 'sleep $1 & trap "kill $!; sleep 0.2; exit 143" TERM; touch ready; wait $!',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    for sent, code, queued in ((signal.SIGUSR1, 143, True), (signal.SIGTERM, 143, False), (None, 0, False)):
        process = subprocess.Popen(
            ["bash", "-c", script.replace("mpirun python", f"mpirun {0 if sent is None else 60}")],
            cwd=tmp_path,
            env=environment,
        )
        if sent is not None:
            wait_until((tmp_path / "ready").exists)
            process.send_signal(sent)
        assert process.wait(SECONDS) == code
        assert (tmp_path / "queued").exists() == queued
        for name in ("queued", "ready"):
            (tmp_path / name).unlink(missing_ok=True)
