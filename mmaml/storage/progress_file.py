"""Files to which every iteration adds a row: progress.csv and TensorBoard's events. A full disk cuts none in two."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mmaml.storage.files import AppendedFile, atomic_file

Row = Mapping[str, float]

_ITERATION = re.compile("[0-9]{1,18}")


class ProgressFile:
    """progress.csv: on the disk row by row; a column that first appears later is added to the header.

    resume_iteration: the next iteration of a run that is restored; rows of it and later ones are dropped. damaged:
    where the file is kept as it was, if it held what is neither a row nor one that was cut short.
    """

    def __init__(self, path: Path, resume_iteration: int | None) -> None:
        self._path = path
        self._columns: list[str] = []
        self._file: AppendedFile | None = None
        self.damaged: Path | None = None
        if resume_iteration is not None and path.exists():
            columns, rows, strays = read_rows(path)
            if strays:
                self.damaged = _kept(path)
            self._rewrite(columns, [row for row in rows if int(row["Itr"]) < resume_iteration])

    def write(self, rows: list[Row]) -> None:
        """Add rows; raises OSError, and then none of them is there."""
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]
        columns = self._columns + new
        cells = [{name: _cell(row.get(name, math.nan)) for name in columns} for row in rows]
        if new:
            self._rewrite(columns, (read_rows(self._path)[1] if self._file else []) + cells)
        else:
            assert self._file is not None
            self._file.append(_lines([list(row.values()) for row in cells]))

    def sync(self) -> None:
        """Have the disk hold the rows, so that a power cut takes none; raises OSError."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        with atomic_file(self._path) as file:
            file.write(_lines([columns, *([row.get(name, "") for name in columns] for row in rows)]))
        self.close()
        self._columns, self._file = columns, AppendedFile(self._path)


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], int]:
    """Columns and rows of a progress.csv, and how many lines are none; raises OSError.

    A row that a crash has cut short, in the middle or before the end of its line, is left out. Lines may end as
    editors leave them: in "\\n" too.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    *lines, cut = (line.removesuffix("\r") for line in text.split("\n"))
    columns, *cells = [line.split(",") for line in lines if line] or [[]]
    if "Itr" not in columns:
        return [], [], sum(map(bool, [*lines, cut]))
    rows = [dict(zip(columns, row, strict=True)) for row in cells if len(row) == len(columns)]
    rows = [row for row in rows if _ITERATION.fullmatch(row["Itr"])]
    return columns, rows, len(cells) - len(rows)


def _kept(path: Path) -> Path:
    """A copy of a file, under a name beside it that is free."""
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    copy = next(free for name in names if not os.path.lexists(free := path.with_name(f"{path.name}.damaged{name}")))
    with atomic_file(copy) as file:
        file.write(path.read_bytes())
    return copy


def _lines(rows: list[list[str]]) -> bytes:
    return "".join(",".join(row) + "\r\n" for row in rows).encode()


def _cell(value: float) -> str:
    """The shortest text that reads back as the same number; nothing for NaN."""
    return "" if math.isnan(value) else repr(value if isinstance(value, int) else float(value))
