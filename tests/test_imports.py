"""The floors of the package: a module imports only from floors below its own, as pyproject.toml lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_each_floor_imports_only_from_floors_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0, capsys.readouterr().out


def test_one_file_imports_meta_world() -> None:
    """What changes there with its next version is in one place."""
    imports = re.compile(r"^\s*(?:import|from) metaworld\b", flags=re.MULTILINE)
    files = (path for folder in ("mmaml", "envs", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    found = [path.relative_to(ROOT).as_posix() for path in files if imports.search(path.read_text(encoding="utf-8"))]
    assert found == ["envs/metaworld.py"]
