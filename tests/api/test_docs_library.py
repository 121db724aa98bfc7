"""The examples of docs/library.md run, in their order, in one folder."""

from __future__ import annotations

import importlib.util
import json
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


# Runs the examples one after the other, each by itself, smaller than they are.
PROGRAM = """
import json, sys
import mmaml
train, sizes = mmaml.train, {"meta_batch_size": 4, "rollouts_per_meta_task": 3, "max_path_length": 20}
mmaml.train = lambda *config, **keys: train(*config, **sizes, **keys)
for example in json.loads(sys.argv[1]):
    print(example)
    exec(compile(example, "example", "exec"), {"__name__": "__main__"})
"""


@pytest.mark.ranks
def test_the_examples_run(tmp_path: Path) -> None:
    """That of ONNX where the package is installed."""
    (tmp_path / "wandb.py").write_text(FAKE_WANDB, encoding="utf-8")
    assert len(EXAMPLES) == 10
    installed = importlib.util.find_spec("onnx") is not None
    examples = [text for text in EXAMPLES if installed or "onnx" not in text]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-c", PROGRAM, json.dumps(examples)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    logged = (tmp_path / "wandb.jsonl").read_text().splitlines()
    assert len(logged) == 12 and '"step": 9' in logged[-2] and logged[-1] == '"finished"'
    assert (tmp_path / "out" / "adapted.ts").exists()
