"""MPI-parallel meta-reinforcement learning.

    run = mmaml.train("navigation_2d", n_itr=100, dump_path="out/run1")
    policy = mmaml.load("out/run1")

docs/library.md shows how to use both. Importing this package changes nothing in the process and loads nothing;
starting a run does (`mmaml.process_settings`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmaml.api.training import StopTraining, TrainedRun, train
    from mmaml.config.keys import Config
    from mmaml.errors import RunStopped, UsageError
    from mmaml.trained_policy.loading import load
    from mmaml.trained_policy.policy import TrainedPolicy

__version__ = "0.2.0"
__all__ = ["Config", "RunStopped", "StopTraining", "TrainedPolicy", "TrainedRun", "UsageError", "load", "train"]

_MODULES = {
    "Config": "mmaml.config.keys",
    "RunStopped": "mmaml.errors",
    "StopTraining": "mmaml.api.training",
    "TrainedPolicy": "mmaml.trained_policy.policy",
    "TrainedRun": "mmaml.api.training",
    "UsageError": "mmaml.errors",
    "load": "mmaml.trained_policy.loading",
    "train": "mmaml.api.training",
}


def __getattr__(name: str) -> Any:
    """What `__all__` names, from its module, which is loaded when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mmaml' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
