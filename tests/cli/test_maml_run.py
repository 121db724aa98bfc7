"""run_scripts/maml_run.py: another program's flags, what they set, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmaml.cli import train
from mmaml.cli.maml_run import SCRIPT
from mmaml.config.keys import Config
from mmaml.config.loading import load_config, read_config_file
from mmaml.errors import Interrupted
from mmaml.launcher import protocol
from mmaml.storage import checkpoint, layout
from tests.helpers.support import SMALL, save_checkpoint

ROOT = Path(__file__).parents[2]
DEFAULTS = ROOT / "configs" / "maml_run.json"
PUBLISHED = (
    "--env-name 2DNavigation-v0 --num-workers 2 --fast-lr 0.1 --max-kl 0.01 --fast-batch-size 20 "
    "--meta-batch-size 40 --num-layers 2 --hidden-size 100 --num-batches 500 --gamma 0.99 --tau 1.0 --cg-damping 1e-5 "
    "--ls-max-steps 15"
)
TINY = "--fast-batch-size 2 --meta-batch-size 3 --num-layers 1 --hidden-size 4 --num-batches 2"
SHORT = '{"max_path_length": 6}'


@pytest.fixture(autouse=True)
def _as_a_run_script(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run_scripts/maml_run.py"])


def configured(line: str, *more: str) -> Config:
    options = train.parse([*shlex.split(line), *more], SCRIPT)
    return train.resolve(options, "maml", SCRIPT)[0]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run with arguments that are refused: one line, exit code 2, nothing written; the line."""

    def line(*arguments: str) -> str:
        capfd.readouterr()
        before = list(tmp_path.rglob("*"))
        assert train.run("maml", list(arguments), SCRIPT) == 2
        captured = capfd.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("error: ")
        assert list(tmp_path.rglob("*")) == before
        return captured.err

    return line


def test_the_published_command_starts_the_ranks_and_the_run_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def execv(program: str, command: list[str]) -> None:
        started.extend(command)
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(os, "execv", execv)
    assert train.run("maml", shlex.split(PUBLISHED), SCRIPT) == 130
    assert started[started.index("-n") :] == [
        "-n",
        "2",
        sys.executable,
        "run_scripts/maml_run.py",
        *shlex.split(PUBLISHED),
    ]
    config = configured(PUBLISHED)
    assert config.algorithm == "maml" and config.env == "2DNavigation-v0"
    assert (config.inner_lr, config.max_kl, config.rollouts_per_meta_task, config.meta_batch_size) == (
        0.1,
        0.01,
        20,
        40,
    )
    assert (config.hidden_sizes, config.hidden_nonlinearity, config.n_itr) == ((100, 100), "relu", 500)
    assert (config.discount, config.gae_lambda, config.cg_damping, config.ls_max_steps) == (0.99, 1.0, 1e-5, 15)


FLAGS: dict[str, dict[str, Any]] = {
    "--env-name CartPoleMassEnv": {"env": "CartPoleMassEnv"},
    "--gamma 0.9": {"discount": 0.9},
    "--tau .5": {"gae_lambda": 0.5},
    "--first-order": {"first_order": True},
    "--num-layers 3": {"hidden_sizes": (100, 100, 100)},
    "--hidden-size 7": {"hidden_sizes": (7, 7)},
    "--hidden-size 7 --num-layers 1": {"hidden_sizes": (7,)},
    "--fast-batch-size 3": {"rollouts_per_meta_task": 3},
    "--fast-lr 1": {"inner_lr": 1.0},
    "--num-batches 4": {"n_itr": 4},
    "--num-batches 1e2": {"n_itr": 100},
    "--meta-batch-size 5": {"meta_batch_size": 5},
    "--max-kl 1e-3": {"max_kl": 1e-3},
    "--cg-iters 6": {"cg_iters": 6},
    "--cg-damping 1e-2": {"cg_damping": 0.01},
    "--ls-max-steps 8": {"ls_max_steps": 8},
    "--ls-backtrack-ratio 0.5": {"ls_backtrack_ratio": 0.5},
    "--save-iters 9": {"save_steps": 9},
    "--device cuda:0": {"device": "cuda:0"},
    "--output-folder /here": {"dump_path": "/here"},
    "--env-name HalfCheetahDir-v1": {
        "env": "HalfCheetahRandDirecEnv",
        "max_path_length": 200,
        "normalization_scale": None,
    },
    "--env-name HalfCheetahVel-v1": {
        "env": "HalfCheetahRandVelEnv",
        "env_kwargs": {"goals": [[0, 2]]},
        "max_path_length": 200,
        "normalization_scale": None,
    },
}


@pytest.mark.parametrize("line", FLAGS)
def test_a_flag_sets_its_keys_and_no_others(line: str) -> None:
    plain, changed = configured("").to_dict(), configured(line).to_dict()
    expected = {name: list(v) if isinstance(v, tuple) else v for name, v in FLAGS[line].items()}
    differences = {name: value for name, value in changed.items() if value != plain[name]}
    differences.pop("dump_path", None) if "dump_path" not in expected else None
    assert differences == expected


def test_every_flag_is_tried_here_and_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    tried = {word for line in [*FLAGS, PUBLISHED] for word in line.split() if word.startswith("--")}
    ours = {name for names in SCRIPT.synonyms.values() for name in names} | set(SCRIPT.flags)
    assert ours == tried
    with pytest.raises(SystemExit):
        train.parse(["--help"], SCRIPT)
    told = capsys.readouterr().out
    assert all(name in told for name in ours) and "configs/maml_run.json" in told
    with pytest.raises(SystemExit):
        train.parse(["--help"])
    assert not any(name in capsys.readouterr().out for name in ours)


def test_what_is_left_out_has_the_programs_defaults_or_the_files() -> None:
    config = configured("")
    assert load_config(DEFAULTS, {"dump_path": config.dump_path}, "maml") == config
    assert (config.discount, config.inner_lr, config.n_itr) == (0.95, 0.5, 200)
    assert (config.hidden_sizes, config.hidden_nonlinearity) == ((100, 100), "relu")
    Path("file.json").write_text(json.dumps(SMALL | {"inner_lr": 0.3, "hidden_sizes": [8, 8, 8]}))
    given = configured("--config_file file.json --gamma 0.5 --hidden-size 9 --dump_path run")
    expected = SMALL | {"inner_lr": 0.3, "discount": 0.5, "hidden_sizes": [9, 9, 9], "dump_path": "run"}
    assert given == load_config(None, expected, "maml")


def test_overrides_win_over_what_a_flag_brings_with_it() -> None:
    config = configured("--env-name HalfCheetahVel-v1", "--overrides", '{"max_path_length": 50}')
    assert config.max_path_length == 50 and config.env_kwargs == {"goals": [[0, 2]]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--num-layers 0", "--num-layers: expected a whole number ≥ 1 and ≤ 100, got 0"),
        ("--num-layers 99999999999", "--num-layers: expected a whole number ≥ 1 and ≤ 100, got 99999999999"),
        ("--hidden-size 99999999999", "--hidden-size (hidden_sizes): expected a list of 1 to 100 whole numbers ≥ 1"),
        ("--hidden-size x", "--hidden-size: expected a whole number ≥ 1, got x"),
        ("--num-workers 0", "--num-workers: expected a whole number ≥ 1, got 0"),
        ("--num-workers 2.5", "--num-workers: expected a whole number ≥ 1, got 2.5"),
        ("--num-workers 41", "ranks: expected at most one working rank a task, meta_batch_size = 40, got 41"),
        ("--fast-lr -0.1", "--fast-lr: expected a number > 0"),
        ("--fast-lr nan", "--fast-lr: expected a number > 0"),
        ("--gamma 2", "--gamma: expected a number ≥ 0 and ≤ 1, got 2"),
        ("--num-batches 1e-2", "--num-batches: expected a whole number ≥ 1, got 1e-2"),
        ("--ls-backtrack-ratio 1", "--ls-backtrack-ratio: expected a number > 0 and < 1, got 1"),
        ("--device gpu", "--device: expected"),
        ("--env-name ''", "--env-name: expected a non-empty string of printable characters, got nothing"),
        ("--env-name AntVel-v1", "error: --env-name (env): expected a task family"),
        ("--env-name AntVel-v1", "did you mean 'AntRandVelEnv'?"),
        ("--fast-rate 0.1", "--fast-rate"),
        ("--max-kl", "--max-kl"),
        ("--fast-lr 0.1 --overrides '{\"inner_lr\": 0.1}'", "--fast-lr: sets inner_lr, which --overrides sets too"),
        ("--num-layers 2 --overrides '{\"hidden_sizes\": [9]}'", "--num-layers: sets hidden_sizes, which --overrides"),
    ],
)
def test_bad_input_is_one_line_that_names_the_flag(line: str, expected: str, refused: Callable[..., str]) -> None:
    assert expected in refused(*shlex.split(line))


@pytest.mark.parametrize("sizes", [100, [], "100", None])
@pytest.mark.parametrize("flag", ["--num-layers", "--hidden-size"])
def test_a_flag_of_layers_refuses_sizes_of_the_file_that_are_none(
    flag: str, sizes: Any, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "file.json").write_text(json.dumps({"hidden_sizes": sizes}))
    told = refused("--config_file", "file.json", flag, "50")
    assert told.startswith("error: hidden_sizes: expected a list of 1 to 100 whole numbers ≥ 1")
    assert told.endswith(f"got {json.dumps(sizes)}\n")


def test_workers_are_those_that_mpirun_started(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(protocol.SIZE_VARIABLES[0], "1")
    told = refused("--num-workers", "2")
    assert "--ranks/--num-workers: expected the 1 ranks that mpirun started, got 2" in told


def test_it_trains_and_continues_from_what_it_left() -> None:
    parallel = ["--num-workers", "1"]
    arguments = ["--output-folder", "run", *parallel, *shlex.split(TINY), "--overrides", SHORT]
    assert train.run("maml", arguments, SCRIPT) == 0
    params = json.loads(Path("run/params.json").read_text())
    assert params["discount"] == read_config_file(DEFAULTS)["discount"] and params["algorithm"] == "maml"
    # The defaults of a new run are not laid over those of one that continues.
    params = ["--restore_path", "run", "--num-batches", "3", *parallel]
    assert train.run("maml", params, SCRIPT) == 0
    assert checkpoint.load("run")["iteration"] == 3


def test_a_run_continues_by_its_own_command(refused: Callable[..., str]) -> None:
    """What is left out has the run's values, also those that a flag starts from."""
    one_flag = ["--num-layers 2", "--num-layers 3", "--hidden-size 5", "--hidden-size 5 --env-name HalfCheetahVel-v1"]
    for number, line in enumerate(one_flag):
        command = f"--num-workers 1 --fast-batch-size 2 --meta-batch-size 2 --num-batches 1 {line} --dump_path {number}"
        overrides = ("--overrides", SHORT)
        started = configured(command, *overrides)
        run = Path(str(number))
        save_checkpoint(run / layout.FOLDER, 1, {}, keep=1)
        (run / "params.json").write_text(json.dumps(started.to_dict()))
        again = configured(f"{command} --restore_path {number}", *overrides)
        assert again.to_dict() == started.to_dict() | {"restore_path": str(Path(str(number)).absolute())}
    told = refused("--restore_path", "0", "--num-layers", "3")
    assert told.startswith("error: --num-layers (hidden_sizes): expected the values of the run that is continued, '0'")
