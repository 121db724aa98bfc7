"""Whatever a checkpoint's file holds, loading it gives what was saved or one line of complaint, and changes nothing."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmaml.storage import checkpoint, checkpoint_format
from mmaml.storage.checkpoint_format import CheckpointError
from tests.helpers.support import save_checkpoint

pytestmark = pytest.mark.fuzz

STATE: dict[str, Any] = {
    "iteration": 7,
    "env_steps": 700,
    "seconds": 1.5,
    "parameters": {"policy.hidden_0/weight": torch.arange(12.0).reshape(3, 4), "policy.log_std": torch.zeros(2)},
    "algorithm": {"adam": {0: {"step": torch.tensor(1.0), "m": torch.ones(14)}}, "kl_coefficients": [5e-4, 1e-3]},
    "config": {"env": "MetaPointEnvMomentumModes", "hidden_sizes": [64, 64], "dump_path": None},
    "counts": {"FailedTasks": 3, "BadUpdates": 0},
    "bad_in_a_row": 0,
    "rng": {"seed": 1, "iteration": 7},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    return save_checkpoint(folder, 7, STATE, keep=1).read_bytes()


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], str]:
    """The one line with which a file of these bytes is refused, by name and in its directory; it stays as it is."""
    path = tmp_path / "itr_000007.pt"

    def line(content: bytes) -> str:
        path.write_bytes(content)
        for place in (path, tmp_path):
            with pytest.raises(CheckpointError) as caught:
                checkpoint.load(place, pytest.fail)
            assert "\n" not in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 1000
        assert path.read_bytes() == content and os.listdir(tmp_path) == [path.name]
        return str(caught.value)

    return line


def saved(value: Any) -> bytes:
    """A whole file, digest and all, of a value that no run would save."""
    content = io.BytesIO()
    torch.save(value, content)
    return checkpoint_format.sealed(content.getvalue())


def with_pickle(program: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A whole file whose values are what `program`, a pickle, makes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return checkpoint_format.sealed(content.getvalue())


def test_truncations_and_extensions(whole: bytes, refused: Callable[[bytes], str]) -> None:
    dice = random.Random(1)
    lengths = {0, 1, 3, 4, 5, len(whole) - 1, len(whole) - 64, len(whole) - 71, len(whole) - 72, len(whole) - 93}
    for length in lengths | set(dice.sample(range(len(whole)), 150)):
        refused(whole[:length])
    for more in (b"\0", b"\n", dice.randbytes(100), whole):
        refused(whole + more)


def test_single_bit_flips(whole: bytes, refused: Callable[[bytes], str]) -> None:
    dice = random.Random(2)
    places = {*range(8), *range(len(whole) - 100, len(whole)), *dice.sample(range(len(whole)), 200)}
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << dice.randrange(8)
        refused(bytes(flipped))


def test_overwritten_stretches(whole: bytes, refused: Callable[[bytes], str]) -> None:
    dice = random.Random(3)
    for _ in range(100):
        start, length = dice.randrange(len(whole)), dice.randrange(1, 200)
        filling = dice.choice([bytes(length), b"\xff" * length, dice.randbytes(length)])[: len(whole) - start]
        changed = whole[:start] + filling + whole[start + len(filling) :]
        if changed != whole:
            refused(changed)


def test_files_of_other_kinds(whole: bytes, refused: Callable[[bytes], str]) -> None:
    dice = random.Random(4)
    for length in (1, 22, 71, 500, 5000):
        refused(dice.randbytes(length))
        refused(b"PK\x03\x04" + dice.randbytes(length))
        refused(bytes(length))
    refused(b"PK\x05\x06" + bytes(18))  # an empty archive
    refused(pickle.dumps(STATE["config"]))
    legacy = io.BytesIO()
    torch.save(STATE, legacy, _use_new_zipfile_serialization=False)
    refused(legacy.getvalue())


def test_a_file_of_a_run_before_there_were_digests(
    tmp_path: Path, whole: bytes, refused: Callable[[bytes], str]
) -> None:
    content = io.BytesIO()
    torch.save(STATE, content)
    old = content.getvalue()
    (tmp_path / "old.pt").write_bytes(old)
    assert checkpoint_format.damage(tmp_path / "old.pt") == ""
    assert checkpoint.load(tmp_path / "old.pt")["iteration"] == 7
    (tmp_path / "old.pt").unlink()
    dice = random.Random(5)
    for length in dice.sample(range(len(old)), 100):
        refused(old[:length])
    # Its entries have checksums: a bit flipped in a tensor is found, and named.
    flipped = bytearray(old)
    flipped[old.index(torch.arange(12.0).numpy().tobytes()) + 5] ^= 1
    assert "checksum of its entry archive/data/" in refused(bytes(flipped))


@pytest.mark.parametrize("value", [None, 1, "text", [], (), torch.zeros(3), {}, {"iteration": 1}])
def test_values_that_are_no_state(value: Any, refused: Callable[[bytes], str]) -> None:
    refused(saved(value))


WRONG: list[Any] = [None, "text", -1, 1.5, True, [], {}, {1: 2}, float("nan"), torch.zeros(2), 2**70, -(2**70), (1,)]
# What an entry may be, of these, besides what it is in STATE.
FITS: dict[str, Callable[[Any], bool]] = {
    "seconds": lambda value: value in (1.5, 2**70),
    "parameters": lambda value: value == {},
    "algorithm": lambda value: value in ({}, {1: 2}),
    "config": lambda value: value == {},
    "counts": lambda value: value == {},
}


@pytest.mark.parametrize("entry", [name for name in STATE if name != "rng"])
def test_wrong_types_in_every_entry(entry: str, refused: Callable[[bytes], str]) -> None:
    for value in WRONG:
        if isinstance(value, torch.Tensor) or not FITS.get(entry, lambda _: False)(value):
            assert entry in refused(saved(STATE | {entry: value}))
    if entry not in ("counts", "bad_in_a_row"):  # which are younger than the oldest files
        assert f"no {entry}" in refused(saved({name: value for name, value in STATE.items() if name != entry}))


@pytest.mark.parametrize(
    "parameters",
    [
        {"a": torch.zeros(2, dtype=torch.float64)},
        {"a": torch.zeros(2, dtype=torch.int64)},
        {"a": [1.0, 2.0]},
        {1: torch.zeros(2)},
        {"a": torch.zeros(2).to_sparse()},
        {"a": torch.zeros(1).expand(10**12)},
        {"a": torch.empty(10**12, device="meta")},
        {"a": torch.nn.Parameter(torch.zeros(2))},
    ],
)
def test_parameters_that_are_none(parameters: Any, refused: Callable[[bytes], str]) -> None:
    assert "parameters" in refused(saved(STATE | {"parameters": parameters}))


def test_configurations_that_are_none(refused: Callable[[bytes], str]) -> None:
    for value in (torch.zeros(1), {"a": torch.zeros(1)}, [[torch.zeros(1)]]):
        refused(saved(STATE | {"config": {"env": value}}))


def nested(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1) + b"."


def doubled(times: int) -> bytes:
    """[[…], […]], each holding the one before twice: 2^times values in a few bytes of pickle."""
    program = b"]q\x00."[:-1]
    for index in range(times):
        program += b"]q" + bytes([index + 1]) + b"(h" + bytes([index]) + b"h" + bytes([index]) + b"e"
    return program + b"."


@pytest.mark.parametrize(
    "program",
    [
        nested(100),
        nested(100_000),
        doubled(60),
        b"]q\x00h\x00a.",  # a list that holds itself
        b"}q\x00X\x01\x00\x00\x00ah\x00s.",  # a dictionary that does
        b"h\x07.",
        b"",
        b".",
        b"\x80\xff.",
        b"X\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"Q.",
        b"((((((((" + b"t" * 9 + b".",
    ],
)
def test_pickles_made_to_hurt(program: bytes, refused: Callable[[bytes], str]) -> None:
    refused(with_pickle(b"\x80\x02" + program))


def test_large_contents_packed_small(refused: Callable[[bytes], str]) -> None:
    huge = b"\x80\x02X" + (200_000_000).to_bytes(4, "little") + b"a" * 200_000_000 + b"."
    content = with_pickle(huge, zipfile.ZIP_DEFLATED)
    assert len(content) < 1_000_000
    assert "larger than the file" in refused(content)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_no_code_of_the_file_runs(tmp_path_factory: pytest.TempPathFactory, refused: Callable[[bytes], str]) -> None:
    touched = tmp_path_factory.mktemp("attack") / "touched"
    program = pickle.dumps(STATE["config"] | {"env": Attack(touched)}, protocol=2)
    pickle.loads(program)
    assert touched.exists()  # it would have run
    touched.unlink()
    for command in (program, b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", b"\x80\x02cbuiltins\neval\n."):
        assert "which is not allowed" in refused(with_pickle(command))
        refused(b"PK\x03\x04" + command)
        refused(command)
    assert not touched.exists()


def test_things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "itr_000001.pt").mkdir()
    (tmp_path / "itr_000002.pt").symlink_to("itr_000002.pt")
    (tmp_path / "itr_000003.pt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "itr_000004.pt")
    (tmp_path / "loop").symlink_to("loop")
    for path in [tmp_path, *tmp_path.iterdir(), tmp_path / ("x" * 300), Path("/dev/zero"), Path("\0")]:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(path, pytest.fail)
        assert "\n" not in str(caught.value)
    # They are passed over where a whole file is, and a save neither fails nor takes what is not its own.
    checkpoint.write(tmp_path, 0, STATE)
    notices: list[str] = []
    assert checkpoint.load(tmp_path, notices.append)["iteration"] == 7
    assert len(notices) == 4
    save_checkpoint(tmp_path, 5, STATE, keep=1)
    assert (tmp_path / "itr_000001.pt").is_dir()
    assert checkpoint.load(tmp_path, pytest.fail)["iteration"] == 7
