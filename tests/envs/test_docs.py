"""docs/environments.md: its examples run, its tables are true."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mmaml.cli import main
from mmaml.config.loading import build_config, load_config, read_config_file
from mmaml.config.shipped import shipped_configs
from mmaml.envs import block_answers
from mmaml.envs.adapter import GymTaskAdapter
from mmaml.envs.answers import Refused
from mmaml.envs.registry import FAMILIES, check_family, gym_id, make_family
from mmaml.errors import ConfigError
from tests.helpers.support import SMALL, run

PARTS = ("observation", "reward", "terminated", "truncated", "info")
DOC = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the doc's Python files, each named by the comment in its first line."""
    names = []
    for text in blocks("python"):
        if named := re.match(r"# (\w+)\.py\n", text):
            names.append(named[1])
            (tmp_path / f"{named[1]}.py").write_text(text, encoding="utf-8")
    assert names == ["reach", "hold_speed", "hold_speed_family"]
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


def test_the_users_environment_trains_from_its_config(modules: Path, tmp_path: Path) -> None:
    text = next(block for block in blocks("json") if "hold_speed" in block)
    assert "hold_speed.json" in DOC
    (modules / "hold_speed.json").write_text(text, encoding="utf-8")
    config = load_config(str(modules / "hold_speed.json"), SMALL | {"dump_path": str(tmp_path / "run")}, "mmaml")
    state = run(config)
    assert state["iteration"] == 2
    row = (tmp_path / "run" / "progress.csv").read_text().splitlines()[0]
    assert "SuccessRate" in row


def test_the_smallest_environment_trains_by_the_command_shown(modules: Path, tmp_path: Path) -> None:
    (line,) = re.findall(r"^mmaml train --overrides '(.*reach:Reach.*)'$", DOC, flags=re.MULTILINE)
    config = load_config(None, json.loads(line) | SMALL | {"dump_path": str(tmp_path / "run")}, "mmaml")
    assert run(config)["iteration"] == 2


def test_objects_and_arrays_are_the_same_family(modules: Path) -> None:
    objects = make_family("hold_speed:HoldSpeed", 3, 4, drag=0.3)
    arrays = make_family("hold_speed_family:HoldSpeedFamily", 3, 4, drag=0.3)
    assert isinstance(objects, GymTaskAdapter)
    for family in (objects, arrays):
        family.set_tasks(family.sample_tasks(3, np.random.default_rng(0)))
        family.reset(seed=0)
    assert [task.mode for task in objects.tasks] == [task.mode for task in arrays.tasks]
    arrays.speed[:] = [env.speed for env in objects._envs]  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.normal(scale=2, size=(12, 1)).astype(np.float32)
        ours, theirs = objects.step(actions), arrays.step(actions)
        for one, other in zip((*ours[:4], *ours[4].values()), (*theirs[:4], *map(theirs[4].get, ours[4])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(theirs[4]["reward_speed"] + theirs[4]["reward_effort"], theirs[1], rtol=1e-6)


def test_the_check_prints_what_is_shown(modules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed, failed = blocks("text")
    assert main.main(["check-env", "hold_speed:HoldSpeed"]) == 0
    assert capsys.readouterr().out == passed
    source = (modules / "hold_speed.py").read_text(encoding="utf-8")
    for removed, added in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", blocks("diff")[0], flags=re.MULTILINE):
        old, new = (re.sub("^.", "", lines, flags=re.MULTILINE) for lines in (removed, added))
        assert source.count(old) == 1
        source = source.replace(old, new)
    (modules / "hold_speed.py").write_text(source, encoding="utf-8")
    del sys.modules["hold_speed"]
    assert main.main(["check-env", "hold_speed:HoldSpeed"]) == 2
    assert capsys.readouterr().out == failed


def refusals() -> list[tuple[str, str, str]]:
    """(what, value, line) of the table of what is refused."""
    rows = re.findall(r"^\| (\S+) \| `(.*)` \| `(Reach\..*)` \|$", DOC, flags=re.MULTILINE)
    return [(what.strip("`"), value, line) for what, value, line in rows]


@pytest.mark.parametrize(("what", "value", "line"), refusals())
def test_what_is_refused_is_refused_with_the_line_shown(what: str, value: str, line: str, modules: Path) -> None:
    reach = importlib.import_module("reach").Reach
    returned = eval(value, {"np": np, "gym": gym})

    class Reach(reach):  # type: ignore[misc, valid-type]
        def reset(self, **arguments: Any) -> Any:
            return returned if what == "reset" else super().reset(**arguments)

        def step(self, action: Any) -> Any:
            values = list(super().step(action))
            if what in PARTS:
                values[PARTS.index(what)] = returned
            return returned if what == "step" else tuple(values)

    if what.endswith("space"):
        setattr(Reach, what, returned)
    sys.modules["reach"].Changed = Reach  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as refused:
        build_config(SMALL | {"env": "reach:Changed"})
    assert (
        str(refused.value).removesuffix("; `mmaml check-env reach:Changed` lists all that is wrong") == f"env: {line}"
    )


def test_every_part_of_an_answer_has_a_line_in_the_table() -> None:
    assert {what for what, _, _ in refusals()} == {"reset", "step", *PARTS, "observation_space", "action_space"}


def test_a_familys_arrays_are_refused_with_the_line_shown(modules: Path) -> None:
    (line,) = re.findall(r"`(HoldSpeedFamily\.step: .*?)`", DOC)
    family = make_family("hold_speed_family:HoldSpeedFamily", 20, 20)
    family.reset(seed=0)
    output = list(family.step(np.zeros((400, 1), np.float32)))
    output[1] = output[1].astype(np.float64)
    with pytest.raises(Refused) as refused:
        block_answers.of_step(output, (400, 1))
    assert str(refused.value.in_method("HoldSpeedFamily.step")) == line


def test_the_single_environment_runs_as_shown() -> None:
    text = next(block for block in blocks("python") if "gym.make" in block)
    names: dict[str, Any] = {}
    exec(compile(ast.parse(text), "docs/environments.md", "exec"), names)
    assert names["env"].observation_space.contains(names["observation"])


def test_arguments_shown_are_accepted() -> None:
    shown = json.loads(next(block for block in blocks("json") if "centers" in block))
    check_family(shown["env"], shown["env_kwargs"])
    assert make_family(shown["env"], **shown["env_kwargs"]).num_modes == 8


def row(name: str) -> dict[str, str]:
    """A family's cells in the tables, by column."""
    lines = DOC.splitlines()
    (found,) = [number for number, line in enumerate(lines) if line.startswith(f"| `{name}` |")]
    head = max(number for number in range(found) if lines[number].startswith("| `env` |"))
    columns, cells = ([cell.strip() for cell in lines[number].split("|")[1:-1]] for number in (head, found))
    return dict(zip(columns, cells, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tables_tell_the_truth(name: str) -> None:
    stated, family = row(name), make_family(name)
    for config in re.findall(r"`(\w+)`", stated["config"]):
        assert read_config_file(shipped_configs()[config])["env"] == name
    assert stated["config"]
    actions = family.single_action_space
    assert int(stated["modes"]) == family.num_modes
    assert int(stated["O"]) == family.single_observation_space.shape[0]  # type: ignore[index]
    assert json.loads(stated["scale"]) == family.normalization_scale
    assert int(stated["horizon"]) == FAMILIES[name].horizon == gym.spec(gym_id(name)).max_episode_steps
    if isinstance(actions, gym.spaces.Discrete):
        assert stated["actions"] == f"{actions.n}, discrete"
        return
    assert isinstance(actions, gym.spaces.Box)
    if "bound" in stated:
        np.testing.assert_allclose(actions.high, float(stated["bound"]))
        assert stated["default reward"].split(",")[0] == family.reward_type  # type: ignore[attr-defined]
    else:
        assert int(stated["A"]) == actions.shape[0]
