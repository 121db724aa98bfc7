"""A user's own package called `envs` is found, whichever way the toolkit is started, and never hidden by ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.scripts import ROOT, SCRIPT

ENVIRONMENT = """\
import gymnasium as gym
import numpy as np


class Base(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def sample_tasks(self, n, rng):
        return list(rng.uniform(-1, 1, n))

    def set_task(self, task):
        self.goal = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -abs(float(action[0]) - self.goal), False, False, {}
"""
# The class is found, and has no such argument: the first line that names it ends the run before it starts.
TRAIN = ["--overrides", json.dumps({"env": "envs.mine:Base", "env_kwargs": {"gravity": 1}})]
FOUND = "error: env_kwargs: 'envs.mine:Base' takes no arguments, got 'gravity'\n"


@pytest.fixture(params=["package", "namespace"])
def user(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that holds the user's package `envs`, with and without an __init__.py."""
    folder = tmp_path / "user" / "envs"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(ENVIRONMENT)
    if request.param == "package":
        (folder / "__init__.py").write_text("")
    return folder.parent


def shown(command: list[str], cwd: Path, *python_path: Path) -> str:
    """What a command prints, or the error it ends with."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, python_path))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 2), done.stderr
    return done.stdout + done.stderr


MODULE = [sys.executable, "-m", "mmaml"]
FROM_SCRIPT = "import sys; sys.path.pop(0); from mmaml.cli.main import main; sys.exit(main())"  # as bin/mmaml starts
CONSOLE = [sys.executable, "-c", FROM_SCRIPT]


@pytest.mark.parametrize("command", [MODULE, CONSOLE], ids=["python -m mmaml", "mmaml"])
def test_the_command_finds_it(command: list[str], user: Path, tmp_path: Path) -> None:
    words = [*command, "envs", "envs.mine:Base"]
    found = "envs.mine:Base\nmodes         1\n"
    assert shown(words, user, ROOT).startswith(found)  # in the current directory
    assert shown(words, tmp_path, user, ROOT).startswith(found)  # by PYTHONPATH
    assert shown(words, ROOT, user, ROOT).startswith(found)  # from a checkout's root
    assert "No module named 'envs" in shown(words, tmp_path, ROOT)


def test_a_run_script_of_a_checkout_finds_it(user: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(SCRIPT), *TRAIN]
    for cwd, path in ((user, []), (tmp_path, [user]), (ROOT, [user])):
        assert shown(script, cwd, *path) == FOUND


def test_the_toolkits_own_families_have_another_name_now(tmp_path: Path) -> None:
    hint = "(the toolkit's own families are imported as mmaml.envs)\n"
    for cwd in (tmp_path, ROOT):
        error = shown([*MODULE, "envs", "envs.base:TaskVectorEnv"], cwd, ROOT)
        assert error.startswith("error: env: 'envs.base:TaskVectorEnv' cannot be loaded") and error.endswith(hint)
    done = subprocess.run([sys.executable, "-c", "import envs.base"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "the toolkit's envs.base is imported as mmaml.envs.base" in done.stderr
