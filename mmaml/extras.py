"""Packages that may be missing: those that all runs need, and which extra of this package installs the others."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from mmaml.errors import UsageError

REQUIRED = ("cloudpickle", "gymnasium", "mpi4py", "numpy", "torch", "yaml")
EXTRAS = {
    "PIL": "figures",
    "imageio_ffmpeg": "figures",
    "matplotlib": "figures",
    "mujoco": "mujoco",
    "onnx": "library",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
}


def check_required() -> None:
    """Raises UsageError if a package that all runs need is not installed, as in a Python other than the setup's."""
    for name in REQUIRED:
        if find_spec(name) is None:
            raise _required(name)


def not_installed(error: ImportError) -> UsageError | None:
    """The error that says what to install; None if the import failed for another reason."""
    name = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in (*REQUIRED, *EXTRAS):
        return None
    if name in REQUIRED:
        return _required(name)
    return UsageError(name, "is not installed", f'install it with: pip install "mmaml[{EXTRAS[name]}]"')


def _required(name: str) -> UsageError:
    remedy = "activate the environment of the setup (source .venv/bin/activate), or run pip install -r requirements.txt"
    return UsageError(name, f"is not installed for {sys.executable}", remedy)
