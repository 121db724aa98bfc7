"""Checkpoints: the same values back, never half a file, and the right ones kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.storage import checkpoint, checkpoint_format, layout
from mmaml.storage.layout import PROGRESS
from tests.helpers.support import run, save_checkpoint, small_config


def _state(iteration: int, seconds: float = 0.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(iteration)
    return {
        "iteration": iteration,
        "env_steps": 240_000 * iteration,
        "seconds": seconds,
        "parameters": {"hidden_0/weight": torch.randn(3, 4, generator=generator), "log_std": torch.zeros(2)},
        "algorithm": {"adam": {"step": iteration, "m": torch.ones(14)}, "kl_coefficients": [5e-4, 1e-3]},
        "config": {"env": "MetaPointEnvMomentumModes", "hidden_sizes": [64, 64], "dump_path": None},
        "rng": {"seed": 1},
    }


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _python(program: str, folder: Path) -> int:
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", program, str(folder)], cwd=root, check=False).returncode


def _assert_equal(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            _assert_equal(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            _assert_equal(a, b)
    else:
        assert left == right


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 100, _state(100), keep=2)
    assert path == tmp_path / "itr_000100.pt"
    _assert_equal(checkpoint.load(path), _state(100))
    _assert_equal(torch.load(path, weights_only=True), _state(100))


def test_the_newest_is_found_by_number_from_run_and_folder(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for iteration in (9, 999_999, 1_000_000):
        save_checkpoint(folder, iteration, _state(iteration), keep=0)
    assert checkpoint.latest(tmp_path) == checkpoint.latest(folder) == folder / "itr_1000000.pt"
    assert checkpoint.load(tmp_path)["iteration"] == 1_000_000


@pytest.mark.parametrize("given", ["", "checkpoints", "checkpoints/itr_000003.pt"])
def test_the_run_of_a_checkpoint(tmp_path: Path, given: str) -> None:
    save_checkpoint(tmp_path / "checkpoints", 3, _state(3), keep=1)
    assert layout.run_directory(tmp_path / given) == tmp_path


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for iteration in range(5):
        save_checkpoint(tmp_path, iteration, _state(iteration), keep=2)
    assert _names(tmp_path) == ["itr_000003.pt", "itr_000004.pt", "notes.txt"]


def test_keep_zero_keeps_all(tmp_path: Path) -> None:
    for iteration in range(4):
        save_checkpoint(tmp_path, iteration, _state(iteration), keep=0)
    assert len(_names(tmp_path)) == 4


def test_one_is_kept_for_each_period_of_training(tmp_path: Path) -> None:
    # A checkpoint every 0.4 h; the first in each new hour stays: 1.2 h, 2.0 h, 3.2 h, and the newest one.
    for iteration in range(10):
        save_checkpoint(tmp_path, iteration, _state(iteration, 1440.0 * iteration), keep=1, keep_every_hours=1)
    assert _names(tmp_path) == [f"itr_{iteration:06d}.pt" for iteration in (3, 5, 8, 9)]


def test_a_restored_run_removes_the_future_it_left(tmp_path: Path) -> None:
    for iteration in (10, 20, 30):
        save_checkpoint(tmp_path, iteration, _state(iteration), keep=5)
    save_checkpoint(tmp_path, 15, _state(15), keep=5)
    assert _names(tmp_path) == ["itr_000010.pt", "itr_000015.pt"]


def test_a_failed_save_leaves_the_earlier_checkpoint_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, _state(1), keep=1)

    def disk_full(state: Any, file: Any) -> None:
        file.write(b"half a file")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", disk_full)
        for iteration in (1, 2):
            with pytest.raises(OSError, match="No space"):
                save_checkpoint(tmp_path, iteration, _state(7), keep=1)
    assert _names(tmp_path) == ["itr_000001.pt"]
    _assert_equal(checkpoint.load(tmp_path), _state(1))


def test_a_process_killed_while_saving_leaves_the_earlier_checkpoint_valid(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, _state(1), keep=1)
    killed = (
        "import os, sys; from pathlib import Path; from mmaml.storage.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1]) / 'itr_000002.pt') as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    assert _python(killed, tmp_path) == -9
    assert checkpoint.latest(tmp_path).name == "itr_000001.pt"
    save_checkpoint(tmp_path, 3, _state(3), keep=5)
    assert _names(tmp_path) == ["itr_000001.pt", "itr_000003.pt"]


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), object(), {1, 2}])
def test_a_value_that_could_not_be_loaded_is_refused(tmp_path: Path, value: Any) -> None:
    state = _state(1)
    state["algorithm"]["kl_coefficients"][1] = value
    with pytest.raises(TypeError, match=r"state\['algorithm'\]\['kl_coefficients'\]\[1\]: .*got "):
        save_checkpoint(tmp_path / "new", 1, state, keep=1)
    assert not (tmp_path / "new").exists()


def _missing(folder: Path) -> Path:
    return folder / "nothing"


def _empty_run(folder: Path) -> Path:
    (folder / "checkpoints").mkdir()
    return folder


def _damaged(folder: Path) -> Path:
    path = save_checkpoint(folder, 1, _state(1), keep=1)
    path.write_bytes(path.read_bytes()[:200])
    return path


def _empty_file(folder: Path) -> Path:
    path = folder / "itr_000001.pt"
    path.touch()
    return path


def _text(folder: Path) -> Path:
    path = folder / "params.json"
    path.write_text("{}")
    return path


def _other_torch_file(folder: Path) -> Path:
    torch.save({"parameters": {}}, folder / "other.pt")
    return folder / "other.pt"


@pytest.mark.parametrize("make", [_missing, _empty_run, _damaged, _empty_file, _text, _other_torch_file])
def test_what_cannot_be_restored_is_named_in_one_line(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    with pytest.raises(checkpoint_format.CheckpointError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert message.startswith("restore_path: ") and str(path) in message and "\n" not in message


# Damage.


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_file_ends_with_its_digest(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, _state(1), keep=1)
    content = path.read_bytes()
    assert content.endswith(b"sha256:" + hashlib.sha256(content[:-64]).hexdigest().encode())
    assert zipfile.ZipFile(path).comment == content[-71:] and zipfile.ZipFile(path).testzip() is None
    assert checkpoint_format.damage(path) == ""
    _flip(path)
    assert "digest is wrong" in checkpoint_format.damage(path)


def test_damaged_checkpoints_are_passed_over_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    paths = [save_checkpoint(folder, iteration, _state(iteration), keep=0) for iteration in (10, 20, 30, 40)]
    _flip(paths[3])
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    before = {path: path.read_bytes() for path in paths}
    notices: list[str] = []
    path, state = checkpoint.newest(tmp_path, notices.append)
    assert path == paths[1] and state["iteration"] == 20
    for path, text in zip([paths[3], paths[2]], notices, strict=True):
        assert str(path) in text and "'itr_000020.pt' is used instead" in text
    assert not any("\n" in text for text in notices)
    with pytest.raises(checkpoint_format.CheckpointError, match=r"itr_000040\.pt' cannot be read .*digest is wrong"):
        checkpoint.load(paths[3])
    for path in paths[:2]:
        _flip(path)
    before |= {path: path.read_bytes() for path in paths[:2]}
    with pytest.raises(
        checkpoint_format.CheckpointError, match=r"itr_000040\.pt' cannot be read .*, nor can the 3 before it"
    ):
        checkpoint.load(tmp_path, pytest.fail)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_damaged_file_is_told_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for iteration in (1, 2):
        save_checkpoint(tmp_path, iteration, _state(iteration), keep=0)
    _flip(tmp_path / "itr_000002.pt")
    checkpoint.load(tmp_path)
    captured = capsys.readouterr()
    assert captured.err.startswith("notice: restore_path: ") and captured.err.count("\n") == 1 and not captured.out


def test_damaged_files_are_pruned_like_others_once_a_later_state_is_safe(tmp_path: Path) -> None:
    # A checkpoint for each hour of training; that of hour 1 is damaged, and so is what lies ahead of the restored run.
    for iteration in range(4):
        save_checkpoint(tmp_path, iteration, _state(iteration, 3600.0 * iteration), keep=0)
    for iteration in (1, 3):
        _flip(tmp_path / f"itr_{iteration:06d}.pt")
    assert checkpoint.load(tmp_path, lambda _: None)["iteration"] == 2
    checkpoint.write(tmp_path, 3, _state(3))
    _flip(tmp_path / "itr_000003.pt")
    for iteration in (4, 5):
        save_checkpoint(tmp_path, iteration, _state(iteration, 1e5), keep=2, keep_every_hours=1)
    assert _names(tmp_path) == [f"itr_{iteration:06d}.pt" for iteration in (2, 4, 5)]
    checkpoint.write(tmp_path, 9, _state(9))
    _flip(tmp_path / "itr_000009.pt")
    save_checkpoint(tmp_path, 6, _state(6, 1e5), keep=1)
    assert _names(tmp_path) == ["itr_000006.pt"]


# The order in which things reach the disk.


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was asked of the system, in order, and of which file or folder."""
    seen: list[tuple[str, str]] = []

    def watch(name: str, path_of: Any) -> None:
        original = getattr(os, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            seen.append((name, path_of(*arguments)))
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, watched)

    watch("fsync", lambda descriptor: os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
    watch("replace", lambda old, new: os.path.basename(new))
    watch("mkdir", lambda path, *mode: os.path.basename(path))
    watch("unlink", lambda path: os.path.basename(path))
    return seen


def test_a_name_is_taken_after_the_bytes_are_on_the_disk(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    folder = tmp_path / "run" / "checkpoints"
    save_checkpoint(folder, 1, _state(1), keep=1)
    named = [
        ("fsync", ".itr_000001.pt.unfinished"),
        ("replace", "itr_000001.pt"),
        ("fsync", "checkpoints"),
        ("unlink", ".itr_000001.pt.unfinished"),  # it is not there any more
    ]
    made = [("mkdir", "run"), ("fsync", tmp_path.name), ("mkdir", "checkpoints"), ("fsync", "run")]
    assert steps == made + named
    steps.clear()
    save_checkpoint(folder, 2, _state(2), keep=1)
    again = [(step, name.replace("1", "2")) for step, name in named]
    assert steps == [*again, ("unlink", "itr_000001.pt"), ("fsync", "checkpoints")]


def test_the_rows_that_a_checkpoint_counts_are_on_the_disk_before_it(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    run(small_config(dump_path=str(tmp_path / "run"), n_itr=4, save_steps=2))
    looked_at = [step for step in steps if step == ("fsync", PROGRESS) or step[1].startswith("itr_")]
    assert looked_at == [
        ("fsync", PROGRESS),
        ("replace", "itr_000002.pt"),
        ("fsync", PROGRESS),
        ("replace", "itr_000004.pt"),
    ]


def test_looking_for_a_checkpoint_does_not_load_torch(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, _state(1), keep=1)
    program = (
        "import sys; from mmaml.storage import checkpoint, checkpoint_format; path = checkpoint.latest(sys.argv[1])\n"
        "assert checkpoint_format.damage(path) == '' and 'torch' not in sys.modules"
    )
    assert _python(program, tmp_path) == 0
