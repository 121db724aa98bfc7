"""A disk that fills: what is there stays whole, the run goes on and says so, and nothing is lost once there is room."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmaml.errors import RunStopped, UsageError
from mmaml.reporting.run_logger import RunLogger
from mmaml.storage import checkpoint, files
from mmaml.storage.files import AppendedFile, Backlog
from mmaml.storage.saver import Saver, unsaved
from tests.helpers.support import SMALL, progress, run, small_config

ROOT = Path(__file__).parents[2]


class Disk:
    """A small file system. fill: leave so many bytes free; free: the rest again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        with open(self._ballast, "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
            if leave:
                file.truncate(max(file.tell() - leave, 0))

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a test that failed may have files open


def _state(iteration: int, size: int = 1000) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "env_steps": 0,
        "seconds": 0.0,
        "parameters": {"weight": torch.full((size,), float(iteration))},
        "algorithm": {},
        "config": {},
    }


def _config() -> Any:
    values = {"algorithm": "mmaml", "env": "MetaPointEnvMomentumModes", "n_itr": 40}
    return SimpleNamespace(**values, to_dict=lambda: values)


def _row(iteration: int, **more: float) -> dict[str, float]:
    returns = {"Step_0-AverageReturn": -iteration / 3, "Step_1-AverageReturn": iteration / 7}
    return {
        "Itr": iteration,
        "n_timesteps": 10 * iteration,
        **returns,
        "EnvStepsPerSecond": 1.0,
        "ItrTime": 1.0,
        **more,
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Checkpoints.


def test_a_save_that_fails_leaves_what_was_there(disk: Disk) -> None:
    folder = disk.folder / "checkpoints"
    told: list[str] = []
    saver = Saver(folder, keep=1, keep_every_hours=0, max_failed_saves=3, warn=told.append)
    assert saver.save(10, _state(10))
    before = _files(folder)
    for leave in (0, 8192):  # not even a file can be made; half of one can
        disk.fill(leave)
        assert not saver.save(20, _state(20, 10_000))
        assert _files(folder) == before
        disk.free()
    assert told == [
        "warning: the checkpoint of iteration 20 could not be written (No space left on device); that of iteration 10 "
        f"is kept ({count} failed in a row, the run ends at 3)"
        for count in (1, 2)
    ]
    assert saver.save(30, _state(30)) and list(_files(folder)) == ["itr_000030.pt"]
    disk.fill()
    for iteration in (40, 50):  # counted anew
        assert not saver.save(iteration, _state(iteration))
    with pytest.raises(RunStopped, match=r"iteration 60 .*No space.*iteration 30 is kept \(3 failed in a row\)"):
        saver.save(60, _state(60))
    assert checkpoint.load(folder)["iteration"] == 30


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ENODEV])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "mkdir"])
def test_whatever_the_disk_refuses(tmp_path: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    saver = Saver(tmp_path / "a" / "checkpoints", 1, 0, 1, told.append)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        if call == "open":
            patched.setattr(files, "open", refuse, raising=False)
        else:
            patched.setattr(os, call, refuse)
        text = rf"iteration 1 .*{os.strerror(number)}.*there is no earlier one \(1 failed in a row"
        with pytest.raises(RunStopped, match=text):
            saver.save(1, _state(1))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()] and not told
    assert saver.save(2, _state(2))


def test_a_run_records_the_checkpoints_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(tmp_path / "checkpoints", 1, 0, 5, lambda text: None)
    assert unsaved(tmp_path) == set()

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", refuse)
        for iteration in (1, 2):
            saver.save(iteration, _state(iteration))
    assert unsaved(tmp_path) == {1, 2}
    assert saver.save(3, _state(3))  # a run that has had a checkpoint is not one to start over
    assert unsaved(tmp_path) == set() and not list(tmp_path.glob("*.json"))


def test_the_last_checkpoint_of_a_run_may_not_fail(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    saver = Saver(tmp_path / "checkpoints", 1, 0, 5, pytest.fail)
    with pytest.raises(RunStopped, match="it was the last of the run"):
        saver.save(1, _state(1), last=True)


def test_old_checkpoints_that_cannot_be_deleted_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    saver = Saver(tmp_path, keep=1, keep_every_hours=0, max_failed_saves=1, warn=told.append)
    saver.save(1, _state(1))

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if not missing_ok:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", unlink)
    assert saver.save(2, _state(2))
    assert told == [f"warning: old checkpoints in '{tmp_path}' could not be deleted (Read-only file system)"]


# Rows.


def test_bytes_are_appended_whole_or_not_at_all(disk: Disk) -> None:
    file = AppendedFile(disk.folder / "rows")
    file.append(b"first")
    disk.fill(4096)
    with pytest.raises(OSError, match="No space"):
        file.append(bytes(20_000))
    assert (disk.folder / "rows").read_bytes() == b"first"
    disk.free()
    file.append(b" second")
    file.close()
    assert (disk.folder / "rows").read_bytes() == b"first second"


def test_half_a_row_that_cannot_be_taken_back_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendedFile(tmp_path / "rows")
    file.append(b"first ")
    whole = os.pwrite

    def half(descriptor: int, data: bytes, place: int) -> int:
        if len(data) < 5:
            raise OSError(errno.EIO, "Input/output error")
        return whole(descriptor, data[: len(data) // 2], place)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        patched.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="Input/output"):
            file.append(b"second row")
    file.append(b"second row")
    file.close()
    assert (tmp_path / "rows").read_bytes() == b"first second row"


def test_what_waits_is_told_once_when_it_begins_and_once_when_it_ends() -> None:
    told: list[str] = []
    written: list[int] = []
    room = False

    def write(items: list[int]) -> None:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.extend(items)

    backlog = Backlog("rows.csv", write, told.append)
    for item in range(5):
        backlog.add(item)
    assert len(told) == 1 and "rows.csv cannot be written (No space left on device)" in told[0]
    room = True
    backlog.add(5)
    assert written == [0, 1, 2, 3, 4, 5]
    assert told[1:] == ["warning: rows.csv is written again, with 6 entries that were kept"]
    backlog.add(6)
    backlog.close()
    assert written == [0, 1, 2, 3, 4, 5, 6] and len(told) == 2
    room = False
    backlog.add(7)
    backlog.close()
    assert told[3:] == ["warning: the last 1 entries of rows.csv could not be written (No space left on device)"]


def _events(path: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path))
    events.Reload()
    return {tag: [(item.step, item.value) for item in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rows_wait_for_room(disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # One log on a disk that is full from row 3 to row 120, with a new column in between, and one on a disk that is not.
    rows = [_row(i) if i < 60 else _row(i, Late=i / 11) for i in range(200)]
    full, roomy = disk.folder / "run", tmp_path / "run"
    loggers = {path: RunLogger(_config(), path, None, stream=io.StringIO()) for path in (full, roomy)}
    for row in rows:
        if row["Itr"] == 3:
            disk.fill()
        for logger in loggers.values():
            logger.log(row)
        for path in (full, roomy):  # at any moment only whole rows
            assert (path / "progress.csv").read_bytes().endswith(b"\r\n")
            assert all(None not in row.values() and None not in row for row in progress(path))
        if row["Itr"] == 119:
            assert len(progress(full)) < 119
            disk.free()
    for logger in loggers.values():
        logger.close()
    assert (full / "progress.csv").read_bytes() == (roomy / "progress.csv").read_bytes()
    assert _events(full) == _events(roomy)
    told = capsys.readouterr().err.splitlines()
    for name in ("progress.csv", "TensorBoard's event file"):
        assert [line.startswith(f"warning: {name} is written again") for line in told if name in line] == [False, True]
    # A message was one of those that waited.
    assert [line.split(": ", 1)[1] for line in (full / "messages.log").read_text().splitlines()] == told
    assert not (roomy / "messages.log").exists()


def test_rows_that_never_found_room_are_told_at_the_end(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(_config(), disk.folder / "run", None, stream=io.StringIO())
    logger.log(_row(0))
    disk.fill()
    for iteration in range(1, 100):
        logger.log(_row(iteration))
    logger.close()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "entries of progress.csv could not" in line]
    written = len(progress(disk.folder / "run"))
    assert f"the last {100 - written} entries" in line
    disk.free()
    assert [row["Itr"] for row in progress(disk.folder / "run")] == [str(i) for i in range(written)]


def test_a_run_that_cannot_begin_for_lack_of_room_is_one_line(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(UsageError, match=r"dump_path: expected a path that can be written.*No space left"):
        RunLogger(_config(), disk.folder / "run", None, stream=io.StringIO())
    assert not (disk.folder / "run").exists()


def test_an_output_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    stream = open("/dev/full", "w")  # noqa: SIM115 (closing it fails too)
    logger = RunLogger(_config(), tmp_path, None, stream=stream)
    logger.log(_row(0))
    logger.close()
    with suppress(OSError):
        stream.close()
    assert len(progress(tmp_path)) == 1


# Whole runs.


def test_a_run_on_a_full_disk_goes_on_and_ends_with_the_same_bits(
    disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"n_itr": 8, "save_steps": 1, "max_checkpoints_to_keep": 2, "max_failed_saves": 4}
    undisturbed = run(small_config("promp", dump_path=str(tmp_path / "whole"), **settings))

    log = RunLogger.log

    def log_and_fill(logger: RunLogger, row: dict[str, float]) -> None:
        log(logger, row)
        {2: disk.fill, 5: disk.free}.get(int(row["Itr"]), lambda: None)()

    monkeypatch.setattr(RunLogger, "log", log_and_fill)
    disturbed = run(small_config("promp", dump_path=str(disk.folder / "run"), **settings))
    for name, value in undisturbed["parameters"].items():
        assert torch.equal(value, disturbed["parameters"][name])
    names = [path.name for path in checkpoint.candidates(disk.folder / "run")]
    assert names == ["itr_000008.pt", "itr_000007.pt"]
    assert [row["Itr"] for row in progress(disk.folder / "run")] == [str(i) for i in range(8)]
    told = [line for line in capsys.readouterr().err.splitlines() if "could not be written" in line]
    assert [line.split("(")[-1] for line in told] == [f"{n} failed in a row, the run ends at 4)" for n in (1, 2, 3)]
    assert "that of iteration 2 is kept" in told[0]


def test_a_run_that_is_asked_to_stop_says_that_its_last_checkpoint_is_missing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLogger.log

    def fill_and_stop(logger: RunLogger, row: dict[str, float]) -> None:
        log(logger, row)
        if row["Itr"] == 2:
            disk.fill()
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLogger, "log", fill_and_stop)
    told: list[str] = []
    monkeypatch.setattr(RunLogger, "warn", lambda logger, text: told.append(text))
    with pytest.raises(KeyboardInterrupt):
        run(small_config("promp", dump_path=str(disk.folder / "run"), n_itr=8, save_steps=2))
    (line,) = [line for line in told if "could not be written" in line]
    assert "the checkpoint of iteration 3" in line and "that of iteration 2 is kept; it was the last of the run" in line
    assert checkpoint.load(disk.folder / "run")["iteration"] == 2


def test_a_run_whose_saves_keep_failing_stops_in_order(tmp_path: Path) -> None:
    # A limit on the size of files, which is there for anyone: rows fit, checkpoints do not.
    overrides = SMALL | {"hidden_sizes": [64, 64], "n_itr": 50, "save_steps": 2, "max_failed_saves": 2}
    program = (
        "import resource, sys; from mmaml.cli.train import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))\n"
        "sys.exit(run('promp', sys.argv[1:]))"
    )
    arguments = ["--dump_path", str(tmp_path / "run"), "--overrides", json.dumps(overrides)]
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 1, finished.stderr
    warned, stopped = [line for line in finished.stderr.splitlines() if "could not be written" in line]
    assert "iteration 2 could not be written (File too large); there is no earlier one (1 failed in a row" in warned
    assert stopped.startswith("stopped: ") and "iteration 4 could not be written (File too large)" in stopped
    assert "Traceback" not in finished.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert [row["Itr"] for row in progress(tmp_path / "run")] == ["0", "1", "2", "3"]
