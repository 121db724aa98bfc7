"""progress.csv, to which every iteration adds one row. A full disk never leaves half a row."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mmaml.errors import UsageError, disk_reason
from mmaml.storage.files import AppendedFile, atomic_file

Row = Mapping[str, float]

_ITERATION = re.compile("[0-9]{1,18}")
_WHOLE = re.compile("-?[0-9]{1,4000}")  # as many digits as Python reads
_REMEDY = "correct it, or remove the line"


class ProgressFile:
    """Writes progress.csv row by row; a column that appears later is added to the header.

    resume_iteration: the next iteration of a restored run; its row and later ones are dropped. damaged: the path of a
    copy of the file as it was, if it had lines that are neither rows nor a row cut short; else None.
    """

    def __init__(self, path: Path, resume_iteration: int | None) -> None:
        self._path = path
        self._columns: list[str] = []
        self._file: AppendedFile | None = None
        self.damaged: Path | None = None
        if resume_iteration is not None and path.exists():
            columns, rows, unread = read_rows(path)
            if unread:
                self.damaged = _copy(path)
            self._rewrite(columns, [row for row in rows if int(row["Itr"]) < resume_iteration])

    def write(self, rows: list[Row]) -> None:
        """Add rows; raises OSError, and then none of them is in the file."""
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]
        columns = self._columns + new
        cells = [{name: _cell(row.get(name, math.nan)) for name in columns} for row in rows]
        if new:
            self._rewrite(columns, (read_rows(self._path)[1] if self._file else []) + cells)
        else:
            assert self._file is not None
            self._file.append(_lines([list(row.values()) for row in cells]))

    def sync(self) -> None:
        """Wait until the rows are on the disk, where they survive a power failure; raises OSError."""
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
    """Columns and rows of a progress.csv, and the number of lines that are not rows; raises OSError.

    A last line that was cut short is left out. Lines may end in "\\r\\n", or in "\\n" as editors leave them.
    """
    columns, lines, cut = _read(path)
    if "Itr" not in columns:
        return [], [], bool(columns) + len(lines) + bool(cut)
    rows = [dict(zip(columns, row, strict=True)) for _, row in lines if len(row) == len(columns)]
    rows = [row for row in rows if _ITERATION.fullmatch(row["Itr"])]
    return columns, rows, len(lines) - len(rows)


def read_numbers(path: Path, *, last: bool = False) -> list[Row]:
    """The rows of a progress.csv as numbers, or the last one alone: column -> number, NaN where the cell is empty.

    None where there is no file; a last line that was cut short is left out. Raises UsageError for any other line that
    is not a row of numbers, and for a file that cannot be read.
    """
    try:
        columns, lines, _ = _read(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"'{path}'", f"cannot be read ({disk_reason(error)})", "make it readable") from error
    if columns and "Itr" not in columns:
        expected, got = "a header with the column 'Itr'", f"'{','.join(columns)}'"
        raise UsageError(f"'{path}'", expected=expected, got=got, remedy="correct it")
    rows: list[Row] = []
    for number, cells in lines[-1:] if last else lines:
        where = f"'{path}', line {number}"
        if len(cells) != len(columns):
            expected = f"{len(columns)} cells, from column '{columns[0]}' to '{columns[-1]}'"
            raise UsageError(where, expected=expected, got=str(len(cells)), remedy=_REMEDY)
        rows.append({name: _number(name, cell, where) for name, cell in zip(columns, cells, strict=True)})
    return rows


def _number(column: str, cell: str, where: str) -> float:
    """A cell: a whole number, another one, or NaN where it is empty."""
    try:
        if column == "Itr" and not _ITERATION.fullmatch(cell):
            raise ValueError
        return int(cell) if _WHOLE.fullmatch(cell) else float(cell or "nan")
    except ValueError as error:
        expected = "an iteration, a whole number from 0" if column == "Itr" else "a number"
        raise UsageError(f"{where}, column '{column}'", expected=expected, got=f"'{cell}'", remedy=_REMEDY) from error


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]], str]:
    """Columns; number in the file and cells of each line that follows and is not empty; a last line cut short."""
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    *lines, cut = (line.removesuffix("\r") for line in text.split("\n"))
    (_, columns), *rows = [(number, line.split(",")) for number, line in enumerate(lines, 1) if line] or [(0, [])]
    return columns, rows, cut


def _copy(path: Path) -> Path:
    """Copy a file to an unused name beside it; the copy's path."""
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    copy = next(free for name in names if not os.path.lexists(free := path.with_name(f"{path.name}.damaged{name}")))
    with atomic_file(copy) as file:
        file.write(path.read_bytes())
    return copy


def _lines(rows: list[list[str]]) -> bytes:
    return "".join(",".join(row) + "\r\n" for row in rows).encode()


def _cell(value: float) -> str:
    """The shortest text that reads back as the same number; "" for NaN."""
    return "" if math.isnan(value) else repr(value if isinstance(value, int) else float(value))
