"""The command lines, given anything: done, or refused in one line with exit code 2 and every file as it was."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmaml.cli import train
from mmaml.launcher import protocol
from tests.helpers.fuzzing import FUZZ, WEIRD, contents, no_hang
from tests.helpers.support import run, small_config

pytestmark = pytest.mark.fuzz

SCRIPTS = Path(__file__).parents[2] / "run_scripts"
TRAINING = ["mumo_run_point_mass", "maml_run"]  # the other run scripts are as the first
OTHERS = ["evaluate", "plot", "visualize_policy", "replay"]
EXAMPLES = 20
Main = Callable[[list[str]], int]

# Of files: those of the fixture, and what is none, or none that may be read, or written.
PATHS = [
    "run",
    "run/params.json",
    "run/checkpoints",
    "file.json",
    "table.csv",
    "empty",
    "folder",
    "folder/new",
    "new/dir",
]
PATHS += [
    "pipe",
    "loop",
    "dangling",
    "missing",
    "file.json/x",
    "pipe/x",
    "x" * 300,
    "x/" * 3000,
    "\udcff",
    "a\nb",
    "a\0b",
]
PATHS += ["/dev/null/x", "/proc/self/x", "/proc/version", "/dev/fd/99"]
NUMBERS = ["0", "1", "2", "-1", "1.5", "nan", "inf", "-inf", "1e999", "1e30", str(2**63), "9" * 5000, "٣", "0x1", "1_0"]
OBJECTS = ['{"n_itr": 1}', '{"n_itr": ', "1}", '{"parallel": false}', '{"seed": 1, "seed": 2}', "[]", "{" * 2000, "{}"]
OBJECTS += ['{"dump_path": "run"}', '{"te_save_path": "pipe"}', '{"restore_path": "run"}', '{"extends": "file.json"}']
NAMED = ["a=run", "=", "a=", "=run", "a=nan", "a=1", "a=table.csv", "a=pipe", "$x_=run", "$\\frac$=1", "\udcff=1"]
RAW = st.text(st.characters(codec=None), max_size=8).filter(lambda text: not text.startswith("/"))
VALUES = st.one_of(st.sampled_from([*PATHS, *NUMBERS, *OBJECTS, *NAMED, *WEIRD, "test", "ood", "auto", "cpu"]), RAW)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and other things that are there."""
    folder = tmp_path_factory.mktemp("fuzz") / "here"
    run(small_config("promp", n_itr=1, dump_path=str(folder / "run")))
    (folder / "folder").mkdir()
    (folder / "file.json").write_text('{"n_itr": 1, "parallel": false}')
    (folder / "table.csv").write_text("n_timesteps,Step_0,Step_1\n1,2,3\n2,3,nan\n3,x,4\n4,5,1e300\n")
    (folder / "empty").write_text("")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the working directory; nothing is started from it."""
    for variable in protocol.SIZE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "argv", ["run_scripts/some_script.py"])
    monkeypatch.setattr(os, "execv", lambda *command: sys.exit(0))  # under mpirun
    monkeypatch.setattr("mmaml.trainer.train", lambda *arguments: None)
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: None)
    monkeypatch.setattr("mmaml.figures.video.write_mp4", lambda *arguments: None)
    monkeypatch.setattr("mmaml.figures.video.write_gif", lambda *arguments: None)
    return trained


@cache
def main_of(script: str) -> Main:
    """What a script does with its arguments."""
    names = runpy.run_path(str(SCRIPTS / f"{script}.py"))
    return names.get("main") or partial(train.run, "mmaml", script=names.get("SCRIPT", train.PLAIN))


@cache
def flags_of(script: str) -> list[str]:
    """The flags that a script has, by its --help."""
    code, out, _ = called(main_of(script), ["--help"])
    assert code == 0
    return sorted({*re.findall(r"--[\w-]+", out)})


def called(main: Main, arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), no_hang():
        try:
            code = main(arguments)
        except SystemExit as end:  # of --help, and where ranks would be started
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), err.getvalue()


def check(main: Main, arguments: list[str], here: Path) -> int:
    """One line and nothing changed where the arguments are refused, nothing but new files where not; the exit code."""
    before = contents(here)
    code, out, err = called(main, arguments)
    after = contents(here)
    assert code in (0, 2), err
    if code == 2:
        assert not out and err.startswith("error: ") and err.endswith("\n") and len(err) < 2000, err
        assert err.splitlines() == [err.rstrip("\n")]
        err.encode(errors="backslashreplace")
        assert after == before
    assert {name: after.get(name) for name in before} == before
    for name in sorted(set(after) - set(before), reverse=True):  # what was done is undone for the next example
        (here / name).rmdir() if (here / name).is_dir() else (here / name).unlink()
    return code


def command_lines(script: str) -> st.SearchStrategy[list[str]]:
    """Flags with values that may fit, without, cut short, repeated; words that are none."""
    flags = st.sampled_from(flags_of(script))
    pairs = st.tuples(flags, VALUES).map(list)
    joined = st.tuples(flags, VALUES).map("=".join).map(lambda word: [word])
    alone = st.one_of(flags, flags.map(lambda flag: flag[:-2]), VALUES, st.just("--no_such")).map(lambda word: [word])
    words = st.lists(st.one_of(pairs, pairs, joined, alone), max_size=4)
    start = {"plot": ["run", "--no_trajectories"], "replay": []}.get(script, ["--restore_path", "run"])
    return st.builds(lambda first, rest: first + [*chain(*rest)], st.sampled_from([[], start, start]), words)


@pytest.mark.parametrize("script", [*TRAINING, *OTHERS])
@settings(FUZZ, max_examples=EXAMPLES)
@given(data=st.data())
def test_any_arguments_are_taken_or_refused(script: str, data: st.DataObject, here: Path) -> None:
    check(main_of(script), data.draw(command_lines(script)), here)


@pytest.mark.parametrize("script", [*TRAINING, *OTHERS])
def test_help_is_no_error(script: str, here: Path) -> None:
    code, out, err = called(main_of(script), ["--help"])
    assert (code, err) == (0, "") and out.startswith("usage: ")


def test_an_evaluation_takes_the_place_of_no_other_file(here: Path) -> None:
    words = ["--restore_path", "run", "--num_tasks", "1", "--output"]
    for name in ("run/params.json", "run/progress.csv", "table.csv", "empty"):
        assert check(main_of("evaluate"), [*words, name], here) == 2
    (here / "new.json").write_text('{"num_adapt_steps": 1}')
    code, _, err = called(main_of("evaluate"), [*words, "new.json"])
    assert code == 0, err
    assert json.loads((here / "new.json").read_text())["seed"] == 1
    (here / "new.json").unlink()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("evaluate", "--restore_path run"),
        ("visualize_policy", "--restore_path run"),
        ("replay", "run/params.json"),
        ("plot", "run --output new"),
    ],
)
def test_ctrl_c_is_a_line(script: str, words: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("mmaml.storage.checkpoint.load", interrupt)
    monkeypatch.setattr("mmaml.figures.curves.read_run", interrupt)
    assert called(main_of(script), words.split()) == (130, "", "stopped by SIGINT\n")


def test_what_is_good_is_taken(here: Path) -> None:
    """So that what is refused above is not refused for another reason."""
    for script, words in {
        "mumo_run_point_mass": "--config_file file.json --dump_path new",
        "maml_run": "--dump_path new --num-workers 1",
        "evaluate": "--restore_path run --num_tasks 2 --output new/evaluation.json",
        "plot": "run b=run --overlay a=table.csv --reference $x_=1 --title $x --rollouts_per_task 2 --output new",
        "visualize_policy": "--restore_path run --width 100 --every 4 --output new",
    }.items():
        assert check(main_of(script), words.split(), here) == 0, script


# By the shell: streams that are closed, or end early; letters that are not there; a directory that is gone.

PYTHON = shlex.quote(sys.executable)


def shell(command: str, here: Path, **variables: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


EVALUATE = f"{PYTHON} {shlex.quote(str(SCRIPTS / 'evaluate.py'))}"
PLOT = f"{PYTHON} {shlex.quote(str(SCRIPTS / 'plot.py'))}"
TRAIN = f"{PYTHON} {shlex.quote(str(SCRIPTS / 'mumo_run_point_mass.py'))}"


@pytest.mark.parametrize(
    ("command", "code", "expected"),
    [
        (f"{TRAIN} --help | true", (0, 141), ""),
        (f"{TRAIN} --help >&-", (0,), ""),
        (f"{TRAIN} --n 2>&-", (2,), ""),
        (f"{TRAIN} --n <&- >&- 2>&-", (2,), ""),
        (f"{TRAIN} --dump_path $'\\xff'", (2,), "error: dump_path: expected a path"),
        (f"{TRAIN} $'\\xff\\n'", (2,), "error: config_file: cannot read"),
        (f"mkdir gone && cd gone && rmdir ../gone && {TRAIN} --n", (2,), "error: working directory: has been removed"),
    ],
)
def test_a_strange_shell_gets_a_line_at_most(command: str, code: tuple[int, ...], expected: str, here: Path) -> None:
    before = contents(here)
    done = shell(command, here, HOME=None)
    assert done.returncode in code, done.stderr
    assert done.stderr.startswith(expected) and done.stderr.count("\n") == (1 if expected else 0)
    assert contents(here) == before


@pytest.mark.parametrize(
    ("redirection", "code", "expected", "coding"),
    [
        ("| true", 141, "", None),
        ("<&- >&- 2>&-", 0, "", None),
        (">/dev/full", 1, "error: standard output: expected a place that can be written", None),
        ("", 0, "", "ascii"),
    ],
)
def test_a_result_is_kept_whoever_reads_what_is_printed(
    redirection: str, code: int, expected: str, coding: str | None, here: Path
) -> None:
    before = contents(here)
    done = shell(f"{PLOT} run --no_trajectories --output é {redirection}", here, PYTHONIOENCODING=coding)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(expected) and done.stderr.count("\n") == (1 if expected else 0)
    (here / "é" / "learning_curves.png").unlink()
    (here / "é").rmdir()
    assert contents(here) == before


def test_a_run_that_is_stopped_says_so_whoever_reads_what_is_printed(here: Path) -> None:
    """As Ctrl-C stops a run, and with it the program that reads its output."""
    program = (
        "import sys; from mmaml.cli import train as cli; from mmaml.parallel.shutdown import Interrupted\n"
        "def work(*_): print('iteration'); raise Interrupted(2)\n"
        "cli._run = work; sys.exit(cli.run('mmaml', []))"
    )
    for redirection in ("| true", ">/dev/full"):
        variables = {"PYTHONPATH": str(SCRIPTS.parent), "PYTHONUNBUFFERED": None}
        done = shell(f"{PYTHON} -c {shlex.quote(program)} {redirection}", here, **variables)
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1] == "stopped by SIGINT"


def test_an_evaluation_is_written_before_it_is_printed(here: Path) -> None:
    done = shell(f"{EVALUATE} --restore_path run --num_tasks 2 --output new.json | true", here)
    assert (done.returncode, done.stderr) == (141, "")
    assert json.loads((here / "new.json").read_text())["seed"] == 1
    (here / "new.json").unlink()
