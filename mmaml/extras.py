"""Packages that some commands need and training does not: which extra of this package installs each."""

from __future__ import annotations

from mmaml.errors import UsageError

EXTRAS = {
    "PIL": "figures",
    "imageio_ffmpeg": "figures",
    "matplotlib": "figures",
    "mujoco": "mujoco",
    "onnx": "library",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
}


def not_installed(error: ImportError) -> UsageError | None:
    """The error that names the extra to install; None if the import failed for another reason."""
    name = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in EXTRAS:
        return None
    return UsageError(name, "is not installed", f'install it with: pip install "mmaml[{EXTRAS[name]}]"')
