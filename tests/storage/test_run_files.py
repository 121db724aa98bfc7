"""A run's files hold every number once, in order, also over a restart; the display shows them."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmaml.errors import UsageError
from mmaml.meta_batch import placement as placement_of
from mmaml.parallel.placement import Placement
from mmaml.reporting.display import Display, LiveDisplay, make_display
from mmaml.reporting.run_logger import RunLogger
from mmaml.storage import params_file
from tests.helpers.support import progress

VALUES = {"algorithm": "mmaml", "env": "MetaPointEnvMomentumModes", "n_itr": 40, "hidden_sizes": [64, 64]}


def _config(**changes: Any) -> Any:
    return SimpleNamespace(**VALUES, to_dict=lambda: {**VALUES, **changes})


def _row(iteration: int, **more: float) -> dict[str, float]:
    return {
        "Itr": iteration,
        "n_timesteps": 240_000 * (iteration + 1),
        "Step_0-AverageReturn": -1234.5 + iteration,
        "Step_1-AverageReturn": -987.6 + 2 * iteration,
        "Step_2-AverageReturn": -801.0 + 16 * iteration + 1 / 3,
        "EnvStepsPerSecond": 123_456.7,
        "ItrTime": 1.5,
        **more,
    }


def _write(path: Path, rows: list[dict[str, float]], resume: int | None = None) -> None:
    logger = RunLogger(_config(), path, resume, stream=io.StringIO())
    for row in rows:
        logger.log(row)
    logger.close()


def _events(path: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path))
    events.Reload()
    return {tag: [(item.step, item.value) for item in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_numbers_read_back_exactly_and_unmeasured_ones_are_empty(tmp_path: Path) -> None:
    rows = [_row(i, **{"Eval-Step_0-AverageReturn": -1.0 if i == 1 else math.nan}) for i in range(3)]
    _write(tmp_path / "run", rows)
    written = progress(tmp_path / "run")
    assert list(written[0]) == list(rows[0])
    assert [[math.nan if c == "" else float(c) for c in row.values()] for row in written] == [
        pytest.approx(list(row.values()), abs=0, nan_ok=True) for row in rows
    ]
    assert [row["Eval-Step_0-AverageReturn"] for row in written] == ["", "-1.0", ""]


def test_every_row_is_on_disk_before_the_next_iteration(tmp_path: Path) -> None:
    logger = RunLogger(_config(), tmp_path, None, stream=io.StringIO())
    for iteration in range(3):
        logger.log(_row(iteration))
        assert len(progress(tmp_path)) == iteration + 1
    logger.close()


def test_tensorboard_holds_the_same_numbers_by_iteration(tmp_path: Path) -> None:
    _write(tmp_path, [_row(i, Extra=math.nan) for i in range(3)])
    events = _events(tmp_path)
    assert events["Step_2/AverageReturn"] == [(i, pytest.approx(_row(i)["Step_2-AverageReturn"])) for i in range(3)]
    assert events["n_timesteps"] == [(0, 240_000), (1, 480_000), (2, 720_000)]
    assert "Itr" not in events and "Extra" not in events


def test_a_restored_run_reads_as_if_never_interrupted(tmp_path: Path) -> None:
    rows = [_row(i) for i in range(6)]
    _write(tmp_path / "whole", rows)
    _write(tmp_path / "restored", [*rows[:2], *(_row(i, ItrTime=9.0) for i in range(2, 5))])
    whole_row = (tmp_path / "whole" / "progress.csv").read_text().splitlines()[2]
    with open(tmp_path / "restored" / "progress.csv", "a") as file:
        file.write(whole_row[:-2])  # a crash in the middle of a row, here of its last number
    _write(tmp_path / "restored", rows[2:], resume=2)
    assert progress(tmp_path / "restored") == progress(tmp_path / "whole")
    assert _events(tmp_path / "restored") == _events(tmp_path / "whole")


HEADER = b"Itr,Time\r\n"


@pytest.mark.parametrize(
    "damage",
    [b"\0" * 500, HEADER + b"nonsense\r\n7\r\nx,1\r\n", b"\xff\xfe,\r\n1,2\r\n", HEADER + b"9" * 5000 + b",1\r\n"],
)
def test_a_log_in_ruins_does_not_end_the_run_that_continues_and_is_kept(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("progress.csv.damaged", "progress.csv.damaged-2"):
        (tmp_path / "progress.csv").write_bytes(damage)
        _write(tmp_path, [_row(3), _row(4)], resume=3)
        assert [row["Itr"] for row in progress(tmp_path)] == ["3", "4"] and "nonsense" not in str(progress(tmp_path))
        assert (tmp_path / name).read_bytes() == damage
        assert capsys.readouterr().err.endswith(f"a copy of it is kept as '{tmp_path / name}'\n")
        assert name in (tmp_path / "messages.log").read_text()


@pytest.mark.parametrize("log", [b"", b"\r\n", HEADER, HEADER + b"0,1\r\n1,5.2", HEADER + b"\r\n3,1\r\n"])
def test_nothing_is_kept_of_a_log_without_more_than_rows(tmp_path: Path, log: bytes) -> None:
    (tmp_path / "progress.csv").write_bytes(log)
    _write(tmp_path, [_row(3)], resume=3)
    assert not [*tmp_path.glob("*.damaged*")] and not (tmp_path / "messages.log").exists()


@pytest.mark.parametrize("edited", [lambda log: log.replace(b"\r", b""), lambda log: b"\xef\xbb\xbf" + log])
def test_rows_stay_as_an_editor_has_left_them(tmp_path: Path, edited: Callable[[bytes], bytes]) -> None:
    _write(tmp_path / "edited", [_row(i) for i in range(3)])
    _write(tmp_path / "whole", [_row(i) for i in range(4)])
    path = tmp_path / "edited" / "progress.csv"
    path.write_bytes(edited(path.read_bytes()))
    _write(tmp_path / "edited", [_row(3)], resume=3)
    assert path.read_bytes() == (tmp_path / "whole" / "progress.csv").read_bytes()


def test_a_run_starts_over_in_place(tmp_path: Path) -> None:
    _write(tmp_path / "run", [_row(i, ItrTime=9.0) for i in range(4)])
    _write(tmp_path / "run", [_row(0), _row(1)], resume=0)
    _write(tmp_path / "once", [_row(0), _row(1)])
    assert progress(tmp_path / "run") == progress(tmp_path / "once")
    assert _events(tmp_path / "run") == _events(tmp_path / "once")


def test_restoring_into_a_new_directory_begins_a_new_file(tmp_path: Path) -> None:
    _write(tmp_path / "new", [_row(7), _row(8)], resume=7)
    assert [row["Itr"] for row in progress(tmp_path / "new")] == ["7", "8"]


def test_a_column_that_comes_later_is_added(tmp_path: Path) -> None:
    _write(tmp_path, [_row(0), _row(1)])
    _write(tmp_path, [_row(2, KLInner=0.25), {**_row(3), "KLInner": 0.5}, _row(4)], resume=2)
    assert [row["KLInner"] for row in progress(tmp_path)] == ["", "", "0.25", "0.5", ""]
    assert [row["Itr"] for row in progress(tmp_path)] == ["0", "1", "2", "3", "4"]


def test_a_new_run_does_not_overwrite_another(tmp_path: Path) -> None:
    _write(tmp_path, [_row(0)])
    before = (tmp_path / "params.json").read_bytes()
    with pytest.raises(UsageError, match=r"dump_path: .*contains a run"):
        RunLogger(_config(n_itr=3), tmp_path, None)
    assert len(progress(tmp_path)) == 1 and (tmp_path / "params.json").read_bytes() == before


def test_params_hold_configuration_versions_and_commit(tmp_path: Path) -> None:
    RunLogger(_config(), tmp_path, None, stream=io.StringIO()).close()
    record = json.loads((tmp_path / "params.json").read_text())
    assert {key: record[key] for key in VALUES} == VALUES == params_file.read_params(tmp_path)
    assert record["versions"]["python"].startswith("3.") and record["versions"]["torch"]
    assert record["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", record["git_commit"])
    RunLogger(_config(n_itr=99), tmp_path, 1, stream=io.StringIO()).close()
    assert params_file.read_params(tmp_path)["n_itr"] == 99


@pytest.mark.parametrize("text", [None, "{", "[]", "[" * 100_000])
def test_params_that_cannot_be_read_are_named_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "params.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        params_file.read_params(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_plain_lines_where_no_terminal_is(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = make_display(_config(), tmp_path, 0, stream)
    assert type(display) is Display
    display.show(_row(0))
    display.show(_row(39, **{"Eval-Step_0-AverageReturn": -7.0, "Eval-Step_2-AverageReturn": 0.25}))
    display.close()
    title, first, last, finished = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue() and str(tmp_path) in title
    for part in ("1/40", "return -1234 → -800.7", "123,457 env steps/s", "1.50 s", "0:58 left"):
        assert part in first
    assert "held-out" not in first and last.endswith("held-out -7.000 → 0.250") and "0:00 left" in last
    assert finished.startswith("finished in 0:03")


PLACEMENTS = {
    Placement(): "1 rank on 1 machine · meta-gradient on the ranks",
    Placement(8, 1, "ranks", "cpu"): "8 ranks on 1 machine · meta-gradient on the ranks",
    Placement(8, 2, "master", "cpu"): "8 ranks on 2 machines · meta-gradient on the master (cpu)",
    Placement(2, 1, "master", "cuda:1"): "2 ranks on 1 machine · meta-gradient on the master (cuda:1)",
    Placement(1, physics_threads=6): "1 rank on 1 machine, 6 physics threads · meta-gradient on the ranks",
    Placement(40, physics_threads=3): "40 ranks on 1 machine, 3 physics threads each · meta-gradient on the ranks",
}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_first_line_and_params_say_where_a_run_computes(tmp_path: Path, placement: Placement) -> None:
    for kind in (Display, LiveDisplay):
        stream = io.StringIO()
        kind(_config(), Path("out/run"), 0, stream, placement)
        assert re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]|\r", "", stream.getvalue()).splitlines()[0] == (
            f"mmaml on MetaPointEnvMomentumModes → out/run · {PLACEMENTS[placement]}"
        )
    RunLogger(_config(), tmp_path, None, io.StringIO(), placement).close()
    record = json.loads((tmp_path / "params.json").read_text())
    assert record["placement"] == placement._asdict()
    assert params_file.read_params(tmp_path) == json.loads(json.dumps(_config().to_dict()))  # which names no placement


def test_where_the_meta_gradient_is_computed() -> None:
    roster = SimpleNamespace(machines=3)
    ranks: Any = SimpleNamespace(size=5, roster=roster, cores=2)
    for key, device, expected in (
        ("auto", "cpu", "ranks"),
        ("auto", "cuda", "master"),
        ("ranks", "cpu", "ranks"),
        ("master", "cpu", "master"),
    ):
        config: Any = SimpleNamespace(meta_gradient=key, physics_threads=2, env_spec=object())
        assert placement_of(config, ranks, device) == Placement(5, 3, expected, device, 2)


def test_a_finished_run_that_is_continued_says_so(tmp_path: Path) -> None:
    stream = io.StringIO()
    make_display(_config(), tmp_path, 40, stream).close()
    assert stream.getvalue().splitlines()[1] == (
        "nothing left to do: 40 iterations done, n_itr is 40; raise n_itr to continue"
    )
    LiveDisplay(_config(), tmp_path, 80, live := io.StringIO())
    assert "iteration 80/40" in live.getvalue() and " 100%" in live.getvalue()


def test_an_output_without_unicode_gets_ascii(tmp_path: Path) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    display = make_display(_config(), Path("out/δ"), 0, stream)
    display.show(_row(0))
    assert "return -1234 > -800.7" in raw.getvalue().decode("ascii")


def test_a_warning_is_a_line_on_stderr_and_in_the_log_of_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = RunLogger(_config(), tmp_path, 3, stream=sys.stdout)
    logger.warn("warning: before the first iteration")
    logger.log(_row(3))
    logger.warn("warning: rank 2 was lost")
    logger.close()
    RunLogger(_config(), tmp_path, 4, stream=io.StringIO()).warn("warning: of the run that continues")
    lines = (tmp_path / "messages.log").read_text().splitlines()
    texts = ["before the first iteration", "rank 2 was lost", "of the run that continues"]
    for line, iteration, text in zip(lines, (3, 4, 4), texts, strict=True):
        assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d iteration {iteration}: warning: {text}", line)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"warning: {text}" for text in texts]
    assert "rank 2" not in captured.out


def test_an_error_that_names_a_file_by_bytes_that_are_no_text_is_logged(tmp_path: Path) -> None:
    logger = RunLogger(_config(), tmp_path, None, stream=io.StringIO())
    logger.warn("warning: cannot read " + os.fsdecode(b"caf\xe9.xml"))
    logger.close()
    assert r"cannot read caf\udce9.xml" in (tmp_path / "messages.log").read_text()


class _Screen:
    """As much of a terminal as the display uses: lines, cursor up, clear below, colours, no wrapping."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.row = 0
        self.wraps = True

    def feed(self, text: str) -> None:
        for code, plain in re.findall(r"\x1b\[([0-9;?]*[A-Za-z])|([^\x1b])", text):
            if plain:
                self._put(plain)
            elif code.endswith("A"):
                self.row -= int(code[:-1])
                assert self.row >= 0
            elif code == "J":
                self.lines = [*self.lines[: self.row], ""]
            elif code in ("?7l", "?7h"):
                self.wraps = code == "?7h"
            else:
                assert code.endswith("m")

    def _put(self, character: str) -> None:
        if character == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        elif character != "\r":
            if self.wraps and len(self.lines[self.row]) == self.columns:
                self._put("\n")
            self.lines[self.row] = (self.lines[self.row] + character)[: self.columns]


END = "\x04end"


def _on_a_terminal(tmp_path: Path, columns: int, rows: list[dict[str, float]]) -> tuple[str, list[str]]:
    """Everything sent to a terminal of that width, and what stands there at the end."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(terminal, "w", encoding="utf-8") as stream:
        display = make_display(_config(), tmp_path, 0, stream)
        assert type(display) is (LiveDisplay if columns else Display)
        sent = os.read(controller, 65536)
        for row in rows:
            display.show(row)
            sent += os.read(controller, 65536)
        stream.write(END)
        stream.flush()
        while not sent.endswith(END.encode()):  # what is sent at once may come in pieces
            sent += os.read(controller, 65536)
    sent = sent.removesuffix(END.encode())
    os.close(controller)
    screen = _Screen(columns or 10_000)
    if columns:
        screen.feed(sent.decode())
    return sent.decode(), screen.lines


@pytest.fixture
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("_ordinary_terminal")
def test_a_terminal_shows_one_panel_that_is_redrawn(tmp_path: Path) -> None:
    rows = [_row(i) for i in range(30)]
    rows[10]["Eval-Step_0-AverageReturn"], rows[10]["Eval-Step_2-AverageReturn"] = -999.0, -555.5
    _, screen = _on_a_terminal(tmp_path, 200, rows)
    assert len(screen) == 6 and screen[-1] == ""
    heading, progress, returns, curve, speed = screen[:5]
    assert VALUES["env"] in heading and str(tmp_path) in heading
    assert "iteration 30/40" in progress and "75%" in progress and "0:15 left" in progress
    assert progress.count("█") == 30
    assert "-1206 → -336.7" in returns and "held-out -999.0 → -555.5" in returns
    assert curve.split()[-1] == "".join(sorted(curve.split()[-1])) and curve.endswith("█")  # the return only rises
    assert "123,457 env steps/s" in speed and "7.2 M env steps" in speed


@pytest.mark.usefixtures("_ordinary_terminal")
def test_a_narrow_terminal_cuts_lines(tmp_path: Path) -> None:
    _, screen = _on_a_terminal(tmp_path, 30, [_row(i) for i in range(5)])
    assert len(screen) == 6 and max(map(len, screen)) <= 30


@pytest.mark.usefixtures("_ordinary_terminal")
def test_a_warning_stays_above_the_panel(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    screen = _Screen(60)
    with open(terminal, "w", encoding="utf-8") as stream:
        logger = RunLogger(_config(), tmp_path, None, stream=stream)
        for iteration in range(6):
            if iteration in (0, 3):
                logger.warn(f"warning {iteration}: " + "long " * 20)
            logger.log(_row(iteration))
            stream.write(END)
            stream.flush()
            sent = b""
            while not sent.endswith(END.encode()):
                sent += os.read(controller, 65536)
            screen.feed(sent.decode().removesuffix(END))
    os.close(controller)
    text = "".join(line.ljust(60) for line in screen.lines)
    assert text.startswith("warning 0: " + "long " * 20)
    assert screen.lines[2].startswith("warning 3: ") and VALUES["env"] in screen.lines[4]
    assert len(screen.lines) == 2 + 2 + 5 + 1  # the warnings, wrapped, and one panel below them


@pytest.mark.usefixtures("_ordinary_terminal")
def test_a_pseudo_terminal_without_a_size_gets_plain_lines(tmp_path: Path) -> None:
    # What a rank under mpirun has as its stdout when mpirun's own goes to a file.
    sent, _ = _on_a_terminal(tmp_path, 0, [_row(0)])
    assert "\x1b" not in sent and len(sent.splitlines()) == 2


@pytest.mark.usefixtures("_ordinary_terminal")
def test_no_color_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    sent, _ = _on_a_terminal(tmp_path, 120, [_row(0)])
    assert not re.search(r"\x1b\[[0-9;]*m", sent)


@pytest.mark.parametrize("returns", [[5.0], [5.0] * 100, [math.nan] * 3, [1.0, math.nan, 3.0], [-math.inf, 0.0]])
def test_returns_of_any_kind_can_be_shown(tmp_path: Path, returns: list[float]) -> None:
    display = LiveDisplay(_config(), tmp_path, 0, io.StringIO())
    for iteration, value in enumerate(returns):
        display.show(_row(iteration % 40, **{f"Step_{step}-AverageReturn": value for step in range(3)}))
