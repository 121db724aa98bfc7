"""Paths of every command: absolute before a user's code runs, expanded, and printed as the user wrote them."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mmaml
from mmaml.cli import evaluate, plot, replay, train, visualize
from mmaml.config.loading import canonical, load_config, read_config
from mmaml.errors import ConfigError, UsageError
from mmaml.launcher import protocol
from mmaml.paths import absolute, located
from mmaml.written_paths import as_written
from tests.helpers.scripts import ROOT
from tests.helpers.support import SMALL, progress

# A point mass that changes the working directory where $WANDERS says.
WANDERER = """\
import os

from mmaml.envs.point_mass import PointMass


def wander(where):
    if where == os.environ["WANDERS"]:
        os.chdir(os.environ["ELSEWHERE"])


wander("import")


class Wanderer(PointMass):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, centers=[[1.0, 1.0]], noise=0.1, **kwargs)
        wander("__init__")

    def _draw_tasks(self, *args):
        wander("sample_tasks")
        return super()._draw_tasks(*args)

    def reset(self, *args, **kwargs):
        wander("reset")
        return super().reset(*args, **kwargs)

    def step(self, actions):
        wander("step")
        return super().step(actions)
"""
ENV = {"env": "wanderer:Wanderer"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module of the user's in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "wanderer.py").write_text(WANDERER)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDERS", "nowhere")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "wanderer", raising=False)
    for variable in protocol.SIZE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def elsewhere(here: Path, tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`mmaml` in a process of its own, started in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "mmaml", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


WHERE = ["import", "__init__", "sample_tasks", "reset", "step"]
FILES = {"params.json", "progress.csv", "checkpoints", "learning_curves.png"}


@pytest.mark.parametrize("where", WHERE)
def test_an_environment_that_changes_directory_takes_nothing_with_it(
    where: str, here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDERS", where)

    def done(main: Callable[[list[str]], int], *words: str) -> str:
        """What a command prints that is given in `here`."""
        os.chdir(here)
        sys.modules.pop("wanderer", None)
        code = main([*words])
        captured = capfd.readouterr()
        assert code == 0, captured.err
        assert str(here) not in captured.out
        return captured.out

    (here / "base.json").write_text(json.dumps(SMALL | ENV | {"n_itr": 1}))
    (here / "mine.json").write_text('{"extends": "base.json", "num_embeddings": 3}')
    out = done(train.main, "mine.json", "--dump_path", "out/run", "--te_save_path", "embeddings.npz")
    assert "mmaml on wanderer:Wanderer → out/run" in out and "\nout/run/learning_curves.png\n" in out
    assert {path.name for path in (here / "out" / "run").iterdir()} >= FILES
    assert (here / "embeddings.npz").is_file()
    done(train.main, "--restore_path", "out/run", "--overrides", '{"n_itr": 2, "num_embeddings": 4}')
    assert len(progress(here / "out" / "run")) == 2
    done(evaluate.main, "out/run", "--num_tasks", "2", "--output", "e/evaluation.json")
    assert (here / "e" / "evaluation.json").is_file()
    done(plot.main, "out/run", "--output", "figures")
    assert {path.name for path in (here / "figures").iterdir()} == {"learning_curves.png", "trajectories.png"}
    done(train.main, "mine.json", "--n_itr=1")
    assert len(list((here / "data").glob("*/Wanderer-*/params.json"))) == 1
    assert not list(elsewhere.iterdir())


def test_nor_does_an_algorithm(here: Path, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = "import os\nfrom mmaml.algorithms.promp import DECLARATION, ProMP\n\nos.chdir(os.environ['ELSEWHERE'])\n"
    (here / "wandering.py").write_text(module)
    (here / "base.json").write_text(json.dumps(SMALL | {"n_itr": 1, "algorithm": "wandering:ProMP"}))
    (here / "mine.json").write_text('{"extends": "base.json", "num_embeddings": 3}')
    for words in (["mine.json", "--dump_path", "run"], ["mine.json"], ["--restore_path", "run", "n_itr=2"]):
        os.chdir(here)
        sys.modules.pop("wandering", None)
        assert train.main(words) == 0, capfd.readouterr().err
    assert len(progress(here / "run")) == 2 and len(list((here / "data").glob("*/*/params.json"))) == 1
    assert not list(elsewhere.iterdir())


@pytest.mark.long
@pytest.mark.ranks
@pytest.mark.parametrize("where", ["import", pytest.param("step", marks=pytest.mark.slow)])
def test_ranks_start_where_the_command_was_given(
    where: str, here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDERS", where)
    (here / "mine.json").write_text(json.dumps(SMALL | ENV | {"n_itr": 1, "parallel": True}))
    done = command(here, "train", "mine.json", "--ranks", "2", "--dump_path", "run")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (here / "run").iterdir()} >= FILES
    monkeypatch.syspath_prepend(here)
    made = mmaml.train("mine.json", ranks=2, dump_path="two", show=False)
    assert made.folder == here / "two" and len(made.rows()) == 1
    assert Path.cwd() == here and not list(elsewhere.iterdir())


def test_a_python_program_is_where_it_was_afterwards(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDERS", "step")
    monkeypatch.syspath_prepend(here)
    made = mmaml.train(SMALL | ENV, n_itr=1, dump_path="run", show=False)
    assert Path.cwd() == here and made.folder == here / "run" and len(made.rows()) == 1
    assert mmaml.load("run").save("adapted/policy.pt") is None and (here / "adapted" / "policy.pt").is_file()
    with pytest.raises(UsageError, match=r"^dump_path: 'run' already exists; .* --restore_path run$"):
        mmaml.train(SMALL | ENV, n_itr=1, dump_path="run", show=False)
    (new,) = Path(mmaml.train(SMALL | ENV, n_itr=1, show=False).folder).parent.iterdir()
    assert new.parents[1] == here / "data" and not list(elsewhere.iterdir())


# What paths may hold.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("RUNS", str(folder / "runs"))
    monkeypatch.delenv("NO_SUCH", raising=False)
    monkeypatch.setenv("EMPTY", "")
    for variable in protocol.SIZE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return folder


EXPANDED: dict[str, Callable[[Path], str]] = {
    "~": lambda home: f"{home}",
    "~/x": lambda home: f"{home}/x",
    "$HOME/x": lambda home: f"{home}/x",
    "${HOME}/x": lambda home: f"{home}/x",
    "$RUNS/x": lambda home: f"{home}/runs/x",
    "${RUNS}x": lambda home: f"{home}/runsx",
    "a/$RUNS": lambda home: f"{Path.cwd()}/a/{home}/runs".replace("//", "/"),
    "x~/~": lambda home: f"{Path.cwd()}/x~/~",
    "./~/x": lambda home: f"{Path.cwd()}/~/x",
    "a$/$1/$$/${/b": lambda home: f"{Path.cwd()}/a$/$1/$$/${{/b",
    "./a//b/": lambda home: f"{Path.cwd()}/a/b",
    "../x": lambda home: f"{Path.cwd()}/../x",
    "/x/y": lambda home: "/x/y",
}


@pytest.mark.parametrize("written", EXPANDED)
def test_home_and_variables_are_expanded(written: str, home: Path) -> None:
    expected = EXPANDED[written](home)
    assert located(written, "x") == expected
    if not written.startswith("/"):
        assert as_written(f"error in '{expected}', {expected}/b") == "error in '{0}', {0}/b".format(Path(written))
    for name in ("dump_path", "restore_path", "te_save_path"):
        assert getattr(load_config(None, {name: written}), name) == expected
        assert canonical({name: Path(written)}, "keys")[name] == located(str(Path(written)), name)


@pytest.mark.parametrize("value", [None, ""])
def test_without_home_it_is_that_of_the_system(value: str | None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    if value is not None:
        monkeypatch.setenv("HOME", value)
    expected = pwd.getpwuid(os.getuid()).pw_dir
    for written in ("~/x", "$HOME/x", "${HOME}/x"):
        assert located(written, "x") == f"{expected}/x"

    def unknown(_: int) -> object:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for written in ("~/x", "$HOME/x"):
        with pytest.raises(UsageError, match=r"^x: '.*': there is no home directory, for HOME is not set and the user"):
            located(written, "x")


def test_a_home_may_be_the_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert (located("~", "x"), located("~/x", "x")) == ("/", "/x")


def test_users_are_those_of_the_system(home: Path) -> None:
    user = pwd.getpwuid(os.getuid())
    assert located(f"~{user.pw_name}/x", "x") == f"{user.pw_dir}/x"


REFUSED = {
    "$NO_SUCH/x": "the variable NO_SUCH in '$NO_SUCH/x' is not set; set it, or write the path without it",
    "a/${NO_SUCH}": "the variable NO_SUCH in 'a/${NO_SUCH}' is not set",
    "${RUNS:-x}": "the variable RUNS:-x in '${RUNS:-x}' is not set",
    "$EMPTY/x": "the variable EMPTY in '$EMPTY/x' is not set",
    "~no_such_user/x": "'~no_such_user/x': there is no user 'no_such_user'; write the path without it",
}


@pytest.mark.parametrize("written", REFUSED)
def test_what_is_not_there_is_named(
    written: str, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(main: Callable[[list[str]], int], *words: str) -> str:
        assert main([*words]) == 2
        captured = capfd.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        return captured.err

    before = sorted(tmp_path.rglob("*"))
    for name in ("dump_path", "restore_path", "te_save_path"):
        expected = f"error: {name}: {REFUSED[written]}"
        assert refused(train.main, "--overrides", "n_itr=1", f"--{name}", written).startswith(expected)
        assert refused(train.main, "--overrides", json.dumps({name: written})).startswith(expected)
        assert refused(train.main, "--overrides", f"{name}={written}").startswith(expected)
    assert f"CONFIG: {REFUSED[written]}" in refused(train.main, written)
    assert f"RUN: {REFUSED[written]}" in refused(evaluate.main, written)
    assert f"--output: {REFUSED[written]}" in refused(evaluate.main, "run", "--output", written)
    assert f"--output: {REFUSED[written]}" in refused(visualize.main, "run", "--output", written)
    assert f"RUN: {REFUSED[written]}" in refused(plot.main, f"a={written}")
    assert f"--output: {REFUSED[written]}" in refused(plot.main, "run", "--output", written)
    assert f"FILE: {REFUSED[written]}" in refused(replay.main, written)
    with pytest.raises(ConfigError) as caught:
        mmaml.train(SMALL, dump_path=written)
    assert str(caught.value).startswith(f"dump_path: {REFUSED[written]}")
    with pytest.raises(UsageError) as found:
        mmaml.load(written)
    assert str(found.value).startswith(f"restore_path: {REFUSED[written]}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("main", [plot.main, visualize.main])
def test_a_picture_is_no_directory(main: Callable[[list[str]], int], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--output", "out/curves.PNG"]) == 2
    expected = "--output: expected a directory, got 'out/curves.PNG'; leave '.PNG' out; each file in it has a name"
    assert expected in capfd.readouterr().err


def test_runs_go_where_home_and_variables_lead(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "configs").mkdir()
    (home / "configs" / "base.json").write_text(json.dumps(SMALL | {"n_itr": 1, "dump_path": "$RUNS/from_file"}))
    (tmp_path / "mine.json").write_text('{"extends": "~/configs/base.json"}')
    assert train.main(["mine.json"]) == 0
    assert train.main(["~/configs/base.json", "--dump_path=~/runs/x"]) == 0
    out = capfd.readouterr().out
    assert "→ $RUNS/from_file" in out and "→ ~/runs/x" in out and "~/runs/x/learning_curves.png" in out
    assert train.main(["--restore_path", "$HOME/runs/x", "--n_itr", "2"]) == 0
    assert len(progress(home / "runs" / "x")) == 2 and len(progress(home / "runs" / "from_file")) == 1
    assert plot.main(["X=~/runs/x", "--output", "${RUNS}/figures", "--no_trajectories"]) == 0
    assert evaluate.main(["~/runs/x", "--num_tasks", "2", "--output", "~/e.json"]) == 0
    assert (home / "runs" / "figures" / "learning_curves.png").is_file() and (home / "e.json").is_file()
    assert "\n~/e.json\n" in capfd.readouterr().out
    assert mmaml.load("~/runs/x").config.n_itr == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mine.json"]


def test_paths_of_older_runs_are_read_literally(home: Path) -> None:
    """They were written as they had been given."""
    values = SMALL | {"te_save_path": "$NO_SUCH/x", "dump_path": "~/run"}
    assert read_config(values).te_save_path == f"{Path.cwd()}/$NO_SUCH/x"
    assert read_config(values).dump_path == f"{Path.cwd()}/~/run"


def test_what_is_printed_is_as_it_was_written(home: Path) -> None:
    found = located("out/run", "x")
    assert as_written(f"'{found}' {found}/params.json;") == "'out/run' out/run/params.json;"
    for other in (f"{found}2", f"{found}.bak", f"/mnt{found}", f"{found}-2"):
        assert as_written(other) == other
    located(found, "x")
    assert as_written(found) == found  # the latest counts
    assert absolute("") == located("", "x") == "" and located(" ", "x") == " "
