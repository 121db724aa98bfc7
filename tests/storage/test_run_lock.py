"""One process at a time writes a run; what it takes for that is gone when it ends, or means nothing any more."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmaml.cli import train
from mmaml.errors import UsageError
from mmaml.storage import starting
from mmaml.storage.layout import LOCK
from mmaml.storage.run_lock import RunLock
from tests.helpers.fuzzing import contents
from tests.helpers.support import SMALL, progress, small_config

ROOT = Path(__file__).parents[2]
RUN = json.dumps(SMALL | {"n_itr": 1})
HOLD = "import sys; from pathlib import Path; from mmaml.storage.run_lock import RunLock\nwith RunLock() as lock:\n"
HOLD += "    lock.acquire(Path(sys.argv[1]), False); print(flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run_scripts/some_script.py"])
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: None)  # slow, and not what is tested


@contextmanager
def another_process(folder: str) -> Iterator[subprocess.Popen[str]]:
    """One that writes the run in `folder`, until it is killed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        yield process
        process.kill()


def test_a_run_that_a_process_writes_is_closed_to_others_until_it_is_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.run("promp", ["--dump_path", "run", "--overrides", RUN]) == 0
    Path("empty").mkdir()
    for folder, arguments in {
        "run": ["--restore_path", "run"],
        "./run": ["--restore_path", "run/checkpoints/itr_000001.pt"],
        "../" + tmp_path.name + "/run": ["--dump_path", "run", "--resume"],
        "empty": ["--dump_path", "empty", "--resume"],
    }.items():
        with another_process(folder) as other:
            before = contents(tmp_path)
            capsys.readouterr()
            assert train.run("promp", [*arguments, "--overrides", '{"n_itr": 2, "parallel": false}']) == 2
            assert contents(tmp_path) == before
            holder = f"process {other.pid} on {socket.gethostname()}"
            line = capsys.readouterr().err
            assert line.startswith("error: dump_path: expected a run that no other process is writing, got '")
            assert f"which {holder} is writing" in line and line.count("\n") == 1
        assert Path(folder, LOCK).read_text() == holder
    # Of the dead there is only the file.
    assert train.run("promp", ["--restore_path", "run", "--overrides", '{"n_itr": 2}']) == 0
    assert train.run("promp", ["--dump_path", "empty", "--resume", "--overrides", RUN]) == 0
    assert len(progress("run")) == 2 and len(progress("empty")) == 1
    assert not [*tmp_path.rglob(LOCK)]


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting.time, "strftime", lambda _: "now")
    config = small_config("promp")
    data = Path(starting.DEFAULT_FOLDER)
    free = starting.default_dump_path(config, data, "some_script")  # as all of them find it
    config = config.replace(dump_path=str(free))
    with RunLock() as a, RunLock() as b, RunLock() as c:
        taken = [str(starting.locked(config, lock, named=False).dump_path) for lock in (a, b, c)]
        assert [path.removeprefix("data/some_script/MetaPointEnvMomentumModes") for path in taken] == [
            "-now",
            "-now-2",
            "-now-3",
        ]
        with pytest.raises(UsageError, match=r"^dump_path: '.*' already exists"):
            starting.locked(config, RunLock(), named=True)
    for number in range(1, 100):
        Path(str(config.dump_path) + (f"-{number}" if number > 1 else "")).mkdir(parents=True)
    assert starting.default_dump_path(config, data, "some_script").name.endswith("-now-100")


def test_a_run_that_began_and_ended_meanwhile_is_not_started_over() -> None:
    overrides = json.dumps(SMALL | {"n_itr": 1})
    options = train.parse(["--dump_path", "run", "--resume", "--overrides", overrides])
    config, _ = train.resolve(options, "promp")
    assert train.run("promp", ["--dump_path", "run", "--overrides", overrides]) == 0
    with RunLock() as lock, pytest.raises(UsageError, match=r"^dump_path: 'run' already exists"):
        starting.locked(config, lock, named=True)


def test_a_start_that_is_refused_later_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cuda = json.dumps(SMALL | {"device": "cuda"})
    for place in ([], ["--dump_path", "a/b/run"]):
        assert train.run("promp", [*place, "--overrides", cuda]) == 2
        assert not contents(tmp_path)
    Path("a").mkdir()
    assert train.run("promp", ["--dump_path", "a", "--resume", "--overrides", cuda]) == 2
    assert list(contents(tmp_path)) == ["a"]


def refuse(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def overtaken() -> Callable[..., None]:
    """A lock that comes when whoever had it before has just removed its file."""
    lock, first = fcntl.lockf, [True]

    def late(descriptor: int, operation: int) -> None:
        if first and first.pop():
            Path("run", LOCK).unlink()
        lock(descriptor, operation)

    return late


@pytest.mark.parametrize("lock", [refuse, overtaken()])
def test_a_disk_without_locks_and_one_that_changes_hands(
    lock: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", lock)
    with RunLock() as lock:
        assert lock.acquire(Path("run"), new=True)
        assert Path("run", LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not contents(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    Path("file").write_text("")
    for folder in ("file/run", "a/b/" + "x" * 300):
        with RunLock() as lock, pytest.raises(UsageError, match=r"dump_path: expected a path that can be written"):
            lock.acquire(Path(folder), new=True)
    assert list(contents(tmp_path)) == ["file"]
