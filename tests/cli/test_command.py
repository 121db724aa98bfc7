"""The command `mmaml`: its help, its lists, and that it starts what the run scripts start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mmaml
from mmaml.cli import algorithms, maml_run, train
from mmaml.cli.main import COMMANDS, LISTS, main
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.declaration_file import declaration_of
from mmaml.config.keys import COMMON_KEYS, LEGACY
from mmaml.config.loading import read_config_file
from mmaml.config.shipped import shipped_configs
from mmaml.envs.registry import FAMILIES
from tests.helpers.scripts import ROOT
from tests.helpers.support import SMALL, progress

Printed = Callable[..., str]


pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> Printed:
    """What the command prints where it ends well."""

    def out(*words: str) -> str:
        capfd.readouterr()
        try:
            code = main(list(words))
        except SystemExit as end:  # of --help and --version
            code = end.code
        captured = capfd.readouterr()
        assert (code, captured.err) == (0, "")
        return captured.out

    return out


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Printed:
    """The one line with which the command refuses its arguments, nothing written."""

    def err(*words: str) -> str:
        capfd.readouterr()
        assert main(list(words)) == 2
        captured = capfd.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return captured.err

    return err


def python(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)


# Help.


def test_without_a_command_it_explains_all_of_them(printed: Printed) -> None:
    text = printed()
    assert text == printed("--help") == printed("-h")
    assert text.startswith("usage: mmaml COMMAND")
    for name in COMMANDS:
        assert f"\n  {name}" in text
        help_of_command = printed(name, "--help")
        assert help_of_command.startswith(f"usage: mmaml {name}")


def test_it_says_its_version(printed: Printed) -> None:
    assert printed("--version") == f"mmaml {mmaml.__version__}\n"


def test_an_unknown_command_is_refused(refused: Printed) -> None:
    for words in (["trian"], ["trian", "navigation_2d", "--n_itr=3"]):
        assert "got 'trian'; did you mean 'train'?" in refused(*words)
    assert "COMMAND: expected one of" in refused("xyz")
    assert "--no_such" in refused("--no_such")


NO_TORCH = ["", "--help", "--version", "xyz", *COMMANDS, *(f"{name} --help" for name in COMMANDS)]
NO_TORCH += ["train no_such_config", "train navigation_2d --overrides {", "evaluate run --seed x", "envs ReacherEnv"]


def test_help_lists_and_mistakes_come_without_loading_torch() -> None:
    program = (
        "import sys; from mmaml.cli.main import main\n"
        f"for line in {NO_TORCH}:\n"
        "    try: main(line.split())\n"
        "    except SystemExit: pass\n"
        "    assert 'torch' not in sys.modules, line"
    )
    done = python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", [train.COMMAND, train.PLAIN, maml_run.SCRIPT])
def test_help_lists_every_key_and_those_of_an_algorithm_under_its_name(script: train.Script, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        train.parse(["--help"], script)
    text = " ".join(capsys.readouterr().out.split())
    for name in ALGORITHMS:
        declared = declaration_of(name)
        own = [key for key in declared.keys if not declared.is_idle(key)]
        assert (f'"{name}": {", ".join(own)}' in text) if own else f'"{name}": ' not in text
    listed = {*re.findall(r"\w+", text.partition("keys of CONFIG")[2])}
    assert listed >= {name for name, key in COMMON_KEYS.items() if key.group != LEGACY}
    assert "`mmaml algorithms NAME`" in text


# What there is.


def test_the_algorithms_are_listed_with_paper_and_page(printed: Printed) -> None:
    text = printed("algorithms")
    for name in ALGORITHMS:
        what, paper, page = algorithms.summary(name)
        assert what and paper and (ROOT / page).is_file()
        assert f"{name} " in text and what in text and paper in text and page in text


def test_an_algorithm_is_shown_with_its_own_keys(printed: Printed) -> None:
    for name in ALGORITHMS:
        text = printed("algorithms", name)
        assert text.startswith(algorithms.summary(name).what)
        keys = declaration_of(name).keys
        assert all(f"\n{key}  " in text for key in keys) and ("no keys of its own" in text) == (not keys)
    assert algorithms.summary(name)[0] in printed("algorithms", ALGORITHMS[name])


def test_an_algorithm_is_shown_whose_default_json_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    source = """
from mmaml.config.declaration import Declaration, Key
from mmaml.config.value_types import Kind

DECLARATION = Declaration(keys={"steps": Key("Mine", range(3), Kind("a range", lambda v: True), "of steps")})


class Mine: ...
"""
    (tmp_path / "declares_a_range.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert "range(0, 3)" in printed("algorithms", "declares_a_range:Mine")


def test_the_configurations_are_listed_and_shown(printed: Printed) -> None:
    rows = [line.split() for line in printed("configs").splitlines()]
    files = sorted((ROOT / "configs").glob("*.json"))
    assert [path.name for path in shipped_configs().values()] == [path.name for path in files]
    for path in files:
        values = read_config_file(path)
        assert [path.stem, values.get("algorithm", "any"), values["env"]] in [row[:3] for row in rows]
    assert json.loads(printed("configs", "ant_direction")) == read_config_file(ROOT / "configs" / "ant_direction.json")


def test_the_families_are_listed_and_shown(printed: Printed) -> None:
    rows = {line.split()[0]: line.split() for line in printed("envs").splitlines() if line}
    assert set(FAMILIES) < set(rows)
    assert rows["ReacherEnv"] == ["ReacherEnv", "4", "train", "test", "50", "6", "2"]
    assert rows["TESPAntEnv"] == ["TESPAntEnv", "1", "train", "test", "ood", "200", "29", "8"]
    assert rows["CartPoleMassEnv"][-2:] == ["2", "discrete"]
    text = printed("envs", "MetaPointEnvCorner")
    assert "modes         4\n" in text and "point_mass_corner" in text and "action_limit = 0.2\n" in text
    assert "target = 0.7\n" in printed("envs", "tests.helpers.probes:TargetAction")


@pytest.mark.parametrize("command", LISTS)
def test_what_is_not_there_is_not_shown(command: str, refused: Printed) -> None:
    assert "no_such" in refused(command, "no_such")


# Training.


def test_a_shipped_configuration_is_named_or_a_path_is_given() -> None:
    path = str(ROOT / "configs" / "navigation_2d.json")
    flags = ["--dump_path", "run", "--algorithm", "maml"]
    ways = [
        ["navigation_2d"],
        ["navigation_2d.json"],
        [path],
        ["--config_file", path],
        ["--config_file", "navigation_2d"],
    ]
    configs = [train.resolve(train.parse([*way, *flags], train.COMMAND), "mmaml")[0] for way in ways]
    assert all(config == configs[0] for config in configs)
    assert (configs[0].algorithm, configs[0].env) == ("maml", "2DNavigation-v0")
    Path("navigation_2d").write_text('{"seed": 5}')  # a file of the user wins
    options = train.parse(["navigation_2d", *flags], train.COMMAND)
    assert train.resolve(options, "mmaml")[0].seed == 5


def test_a_new_run_needs_a_configuration(refused: Printed) -> None:
    assert "CONFIG: expected a JSON or YAML file, or the name of a configuration, got nothing" in refused("train")
    assert "did you mean 'navigation_2d'?" in refused("train", "navigation2d")
    assert "--config_file: is another way to give CONFIG" in refused("train", "a.json", "--config_file", "b.json")
    assert "cannot read 'a.json'" in refused("train", "a.json")


def test_a_run_is_named_once(refused: Printed) -> None:
    for command in ("evaluate", "visualize"):
        assert "RUN: expected a run's directory, got nothing" in refused(command)
        assert "keep one of them" in refused(command, "run", "--restore_path", "run")


@pytest.mark.parametrize(
    ("spec", "words"),
    [(None, ["/bin/mmaml", "train"]), (SimpleNamespace(name="mmaml.__main__"), ["-m", "mmaml", "train"])],
)
def test_ranks_are_started_by_the_command_that_was_given(
    spec: Any, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Became(Exception):
        pass

    def execv(program: str, command: list[str]) -> None:
        raise Became(command)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["/bin/mmaml"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    arguments = ["navigation_2d", "--ranks", "3"]
    with pytest.raises(Became) as caught:
        main(["train", *arguments])
    command = caught.value.args[0]
    assert command[command.index("-n") :] == ["-n", "3", sys.executable, *words, *arguments]


@pytest.mark.long
@pytest.mark.ranks
def test_it_trains_on_ranks_evaluates_and_plots() -> None:
    values = {k: v for k, v in SMALL.items() if k != "parallel"} | {"n_itr": 1}
    overrides = ["--overrides", json.dumps(values)]
    for words in (
        ["train", "point_mass_4_modes", "--algorithm", "promp", "--ranks", "2", *overrides],
        ["evaluate", "data/promp/run", "--num_tasks", "2"],
        ["plot", "data/promp/run", "--no_trajectories"],
    ):
        done = python("-m", "mmaml", *words)
        assert done.returncode == 0, done.stderr
        if words[0] == "train":
            (run,) = Path("data/promp").iterdir()  # named by the algorithm
            run.rename("data/promp/run")
    assert len(progress("data/promp/run")) == 1
    names = {path.name for path in Path("data/promp/run").iterdir()}
    assert {"evaluation.json", "learning_curves.png", "trajectories.png"} < names


# Optional packages.


def without(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, in a Python that lacks a package."""
    program = f"import sys; sys.modules[{package!r}] = None; from mmaml.cli.main import main; sys.exit(main())"
    return python("-c", program, *words)


def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    overrides = json.dumps(SMALL | {"n_itr": 1, "env": "2DNavigation-v0"})
    done = without("matplotlib", "train", "--dump_path", "run", "--overrides", overrides)
    assert done.returncode == 0
    remedy = 'matplotlib: is not installed; install it with: pip install "mmaml[figures]"'
    assert f"warning: the run's pictures could not be drawn ({remedy})" in done.stderr
    done = without("matplotlib", "plot", "run")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {remedy}\n")


@pytest.mark.parametrize("words", [("train", "2d", "--ranks", "2"), ("sweep", "2d"), ("evaluate", "run")])
def test_a_python_without_what_all_runs_need_is_named(words: tuple[str, ...]) -> None:
    done = without("torch", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: torch: is not installed for {sys.executable}; activate the environment")
    assert done.stderr.count("\n") == 1


def test_a_run_goes_without_tensorboards_file_where_tensorboard_is_not_installed() -> None:
    overrides = json.dumps(SMALL | {"n_itr": 1})
    done = without("tensorboard", "train", "--dump_path", "run", "--overrides", overrides)
    assert done.returncode == 0 and len(progress("run")) == 1
    assert done.stderr.startswith("notice: no event file is written (tensorboard: is not installed; install it with: ")
    assert done.stderr.count("\n") == 1 and not list(Path("run").glob("events*"))


def test_families_that_need_mujoco_say_so_without_it() -> None:
    remedy = 'mujoco: is not installed; install it with: pip install "mmaml[mujoco]"'
    done = without("mujoco", "envs", "ReacherEnv")
    assert done.returncode == 2 and done.stderr.startswith("error: env: ") and done.stderr.endswith(f"{remedy}\n")
    done = without("mujoco", "envs")
    assert done.returncode == 0 and remedy in done.stdout and "MetaPointEnvMomentum " in done.stdout
