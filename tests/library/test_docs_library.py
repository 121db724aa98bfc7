"""The examples of docs/library.md run, in their order, in one folder."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
FAKE_WANDB = """
import json
class Run:
    def __init__(self, **settings): self.file = open("wandb.jsonl", "w"); self.record(settings)
    def record(self, value): print(json.dumps(value), file=self.file, flush=True)
    def log(self, row, step): self.record({"step": step, **row})
    def finish(self): self.record("finished")
init = Run
"""


# Runs of the examples' sizes take minutes.
SMALLER = """
import mmaml
_train, _sizes = mmaml.train, {"meta_batch_size": 4, "rollouts_per_meta_task": 3, "max_path_length": 20}
mmaml.train = lambda *config, **keys: _train(*config, **_sizes, **keys)
"""


def run_example(text: str, folder: Path) -> str:
    path = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-c", SMALLER + text]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


def runs_here(text: str) -> bool:
    return "onnx" not in text or importlib.util.find_spec("onnx") is not None


@pytest.mark.ranks
def test_the_examples_run(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text(FAKE_WANDB, encoding="utf-8")
    assert len(EXAMPLES) == 10
    for text in filter(runs_here, EXAMPLES):
        run_example(text, tmp_path)
    logged = (tmp_path / "wandb.jsonl").read_text().splitlines()
    assert len(logged) == 12 and '"step": 9' in logged[-2] and logged[-1] == '"finished"'
    assert (tmp_path / "out" / "adapted.ts").exists()
