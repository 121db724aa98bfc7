"""A run, and its evaluation by the script."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.evaluating import SCRIPTS, small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("evaluation") / "run", num_inner_grad_steps=1)


@pytest.fixture
def evaluate(tmp_path: Path, run: Path) -> Callable[..., dict[str, Any]]:
    """Run the script and read what it wrote."""
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]

    def call(**arguments: Any) -> dict[str, Any]:
        given = {"restore_path": run, "num_tasks": 7, "output": tmp_path / "result.json", **arguments}
        words = [(f"--{name}", *map(str, v if isinstance(v, tuple) else (v,))) for name, v in given.items()]
        assert main([word for group in words for word in group]) == 0
        return json.loads((tmp_path / "result.json").read_text())

    return call
