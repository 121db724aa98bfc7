"""`import mmaml` is instant and leaves the process as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNCHANGED = """
import os, signal, sys
def looked_at():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return dict(os.environ), handlers, signal.getitimer(signal.ITIMER_REAL), list(sys.path), sys.excepthook
before, modules = looked_at(), {*sys.modules}
import mmaml
assert looked_at() == before
new = {*sys.modules} - modules
assert all(name.partition(".")[0] in ("mmaml", "__future__", "typing", "collections", "abc", "functools",
    "contextlib", "operator", "keyword", "reprlib", "itertools", "types", "re", "enum", "copyreg", "warnings")
    or name.startswith("_") for name in new), new
assert not {"torch", "numpy", "mpi4py", "gymnasium", "ctypes", "argparse"} & {*sys.modules}
assert mmaml.__version__ and {"train", "load"} <= {*dir(mmaml)}
try:
    mmaml.no_such_thing
except AttributeError as error:
    assert "no_such_thing" in str(error)
else:
    raise AssertionError
"""
THREADS_UNCHANGED = """
import torch
torch.set_num_threads(3)
import os, signal
environment, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
import mmaml
for name in mmaml.__all__:
    assert getattr(mmaml, name) is not None, name
assert torch.get_num_threads() == 3
assert dict(os.environ) == environment and signal.getsignal(signal.SIGINT) is handler
"""


def run_program(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_changes_nothing_and_loads_nothing() -> None:
    run_program(UNCHANGED)


def test_loading_all_that_the_package_offers_leaves_threads_signals_and_variables_alone() -> None:
    run_program(THREADS_UNCHANGED)


def test_training_loads_what_draws_reports_and_simulates_only_when_it_is_needed(tmp_path: Path) -> None:
    """At the end of the first iteration of a run on the point mass, of which all pictures come later."""
    run_program(
        f"""
import sys, mmaml
loaded = []
mmaml.train("navigation_2d_maml_vpg", n_itr=1, meta_batch_size=2, rollouts_per_meta_task=2, parallel=False,
    dump_path={str(tmp_path / "run")!r}, callbacks=[lambda row: loaded.append({{*sys.modules}})])
assert len(loaded) == 1 and "torch" in loaded[0]
readers = {{"tensorboard.backend.event_processing", "pandas", "scipy", "yaml"}}
assert not loaded[0] & (readers | {{"matplotlib", "mujoco", "PIL", "imageio", "sympy"}})
"""
    )
