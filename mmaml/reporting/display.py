"""What training shows while it runs: a live panel on a terminal, plain lines everywhere else."""

from __future__ import annotations

import math
import os
import re
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mmaml.config.keys import Config

from mmaml.parallel.placement import ALONE, Placement
from mmaml.storage.progress_file import Row
from mmaml.wording import counted
from mmaml.written_paths import as_written

_STEP = re.compile(r"Step_(\d+)-AverageReturn")


class Display:
    """One plain line for each iteration, for output that goes to a file or a pipe."""

    def __init__(
        self, config: Config, dump_path: Path, first_iteration: int, stream: TextIO, placement: Placement = ALONE
    ) -> None:
        self.stream = stream
        self.placement = placement
        self.title = f"{config.algorithm} on {config.env} → {as_written(dump_path)}"
        self.iterations: int = config.n_itr
        self.done = first_iteration
        self._durations: list[float] = []
        self.start()

    def start(self) -> None:
        self.emit(f"{self.title} · {self.placement}\n")

    def show(self, row: Row) -> None:
        self.done = int(row["Itr"]) + 1
        self._durations.append(row["ItrTime"])
        self.draw(row)

    def draw(self, row: Row) -> None:
        width = len(str(self.iterations))
        parts = [
            f"iteration {self.done:{width}d}/{self.iterations}",
            f"return {_change(row, ''):20}",
            f"{row['EnvStepsPerSecond']:,.0f} env steps/s",
            f"{row['ItrTime']:.2f} s",
            f"{_duration(self.seconds_left())} left",
        ]
        held_out = _change(row, "Eval-")
        self.emit("   ".join([*parts, f"held-out {held_out}"] if held_out else parts) + "\n")

    def close(self) -> None:
        if self.done >= self.iterations and not self._durations:
            done = counted(self.done, "iteration")
            self.emit(f"nothing left to do: {done} done, n_itr is {self.iterations}; raise n_itr to continue\n")
        elif self.done >= self.iterations:
            self.emit(f"finished in {_duration(sum(self._durations))}: {self.title}\n")

    def seconds_left(self) -> float:
        """From the median time of recent iterations, so that a slow first one or a checkpoint does not distort it."""
        return median(self._durations[-20:]) * (self.iterations - self.done)

    def warn(self, text: str) -> None:
        """Print a line on stderr."""
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    def emit(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        if not _encodes("→·█▏…▁", encoding):
            text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
        with suppress(OSError):  # a full disk or a closed pipe: no reason to end the run
            self.stream.write(text)
            self.stream.flush()


class LiveDisplay(Display):
    """A few lines on a terminal, redrawn after every iteration."""

    def __init__(
        self, config: Config, dump_path: Path, first_iteration: int, stream: TextIO, placement: Placement = ALONE
    ) -> None:
        codes = ("", "", "", "") if os.environ.get("NO_COLOR") else ("\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m")
        self._bold, self._dim, self._green, self._plain = codes
        self._lines: list[str] = []
        self._history: list[float] = []
        self._held_out = ""
        super().__init__(config, dump_path, first_iteration, stream, placement)

    def start(self) -> None:
        waiting = f"{self._dim}first iteration …{self._plain}"
        self._redraw([self._heading(), f"  {self._bar()}", f"  {waiting}"])

    def draw(self, row: Row) -> None:
        self._history.append(_returns(row, "")[-1] if _returns(row, "") else math.nan)
        if held_out := _change(row, "Eval-"):
            self._held_out = f"   {self._dim}held-out{self._plain} {held_out}"
        dim, plain = self._dim, self._plain
        speed = (
            f"{row['EnvStepsPerSecond']:,.0f} env steps/s {dim}·{plain} {row['ItrTime']:.2f} s an iteration "
            f"{dim}·{plain} {_count(row['n_timesteps'])} env steps"
        )
        self._redraw(
            [
                self._heading(),
                f"  {self._bar()}  {_duration(self.seconds_left())} left",
                f"  {dim}return{plain}   {self._bold}{_change(row, '')}{plain}{self._held_out}",
                f"  {dim}so far{plain}   {self._green}{_sparkline(self._history, 40)}{plain}",
                f"  {dim}speed{plain}    {speed}",
            ]
        )

    def _heading(self) -> str:
        return f"{self._bold}{self.title}{self._plain} {self._dim}· {self.placement}{self._plain}"

    def _bar(self) -> str:
        share = min(self.done / self.iterations, 1.0)  # a run may be continued with a lower n_itr than it has had
        bar = _bar(share, 40)
        filled = len(bar.rstrip())
        return (
            f"iteration {self.done}/{self.iterations}  {self._green}{bar[:filled]}"
            f"{self._plain}{self._dim}{'·' * (40 - filled)}{self._plain} {100 * share:.0f}%"
        )

    def warn(self, text: str) -> None:
        """Print a line above the panel, where it stays."""
        self._redraw(self._lines, above=f"{text}\n")

    def _redraw(self, lines: list[str], above: str = "") -> None:
        # Move up to the first of the old lines and clear everything below. Line wrapping is off within the panel: a
        # narrow terminal cuts a line instead of breaking it in two.
        up = f"\x1b[{len(self._lines)}A" if self._lines else ""
        body = "".join(f"{line}\n" for line in lines)
        self.emit(f"{up}\r\x1b[J{above}\x1b[?7l{body}\x1b[?7h")
        self._lines = lines


def make_display(
    config: Config, dump_path: Path, first_iteration: int, stream: TextIO, placement: Placement = ALONE
) -> Display:
    """A live display if `stream` is a terminal, else plain lines."""
    kind = LiveDisplay if _is_terminal(stream) else Display
    return kind(config, dump_path, first_iteration, stream, placement)


def _is_terminal(stream: TextIO) -> bool:
    """Whether `stream` is shown on a terminal.

    Under mpirun every rank's stdout is a pseudo-terminal, even if mpirun's own output is not; it has a size only if
    mpirun's output is a terminal.
    """
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        return False


def _returns(row: Row, prefix: str) -> list[float]:
    """The returns after 0 … K adaptation steps; empty if none was measured."""
    found = {
        int(match[1]): value
        for name, value in row.items()
        if name.startswith(prefix) and (match := _STEP.fullmatch(name, len(prefix)))
    }
    return [found[step] for step in sorted(found)] if not all(map(math.isnan, found.values())) else []


def _change(row: Row, prefix: str) -> str:
    returns = _returns(row, prefix)
    return " → ".join(map(_number, [*returns[:1], *returns[1:][-1:]]))


def _number(value: float) -> str:
    """Four significant digits without an exponent."""
    digits = 3 - max(0, min(3, math.floor(math.log10(abs(value))))) if value and math.isfinite(value) else 0
    return f"{value:.{digits}f}"


def _count(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _bar(share: float, width: int) -> str:
    """A bar of `width` cells, filled to an eighth of a cell."""
    eighths = round(share * width * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).strip().ljust(width)


def _sparkline(values: list[float], width: int) -> str:
    """At most `width` bars, scaled from the lowest to the highest; each is the mean of consecutive `values`."""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    finite = [value for value in means if math.isfinite(value)] or [0.0]
    low, span = min(finite), max(finite) - min(finite)
    return "".join(
        "▁▂▃▄▅▆▇█"[round(7 * (value - low) / span) if span else 0] if math.isfinite(value) else " " for value in means
    )


_ASCII = str.maketrans(
    {**dict.fromkeys("█▉▊▋▌▅▆▇", "#"), **dict.fromkeys("▏▎▍▁▂▃▄", "-"), "→": ">", "·": ".", "…": "..."}
)


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
