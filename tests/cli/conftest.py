"""Where the tests of commands run: in an empty folder, as if nothing had started them under a launcher."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmaml.launcher import protocol


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty and with no launcher around this process."""
    monkeypatch.chdir(tmp_path)
    for variable in protocol.SIZE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path
