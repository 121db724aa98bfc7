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
# What the examples use of packages that not every installation has. Real ones are used where they are installed.
STAND_INS = {
    "wandb": """
class Run:
    def __init__(self, **settings): self.step = 0
    def log(self, row, step): self.step = step
    def finish(self): pass
init = Run
""",
    "mlflow": """
import contextlib, types
start_run, _run = contextlib.nullcontext, types.SimpleNamespace(data=types.SimpleNamespace(metrics={}, params={}))
set_tracking_uri = lambda uri: None
log_metrics = lambda row, step: _run.data.metrics.update(row)
log_params = lambda settings: _run.data.params.update({name: str(value) for name, value in settings.items()})
last_active_run = lambda: _run
""",
}
# Runs the examples one after the other, each by itself, smaller than they are.
PROGRAM = """
import json, sys
import mmaml
train, sizes = mmaml.train, {"meta_batch_size": 4, "rollouts_per_meta_task": 3, "max_path_length": 20}
mmaml.train = lambda *config, **keys: train(*config, **sizes, **keys)
for example in json.loads(sys.argv[1]):
    print(example)
    names = {"__name__": "__main__"}
    exec(compile(example, "example", "exec"), names)
    if "wandb" in names:
        assert names["experiment"].step >= 9
    if "mlflow" in names:
        data = names["mlflow"].last_active_run().data
        assert data.metrics["Itr"] == 9 and data.params["learning_rate"] == "0.001"
    if "optuna" in names:
        assert len(names["study"].trials) == 6 and 1e-4 <= names["study"].best_params["learning_rate"] <= 1e-2
"""


@pytest.mark.long
@pytest.mark.ranks
def test_the_examples_run(tmp_path: Path) -> None:
    """That of ONNX where the package is installed."""
    for name, text in STAND_INS.items():
        if importlib.util.find_spec(name) is None:
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    assert len(EXAMPLES) == 12
    installed = importlib.util.find_spec("onnx") is not None
    examples = [text for text in EXAMPLES if installed or "onnx" not in text]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(examples)]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert (tmp_path / "out" / "adapted.ts").exists()
