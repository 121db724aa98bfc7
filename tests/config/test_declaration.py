"""What algorithms declare: found without loading them, whole, and the same for all that read it."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmaml.cli import train
from mmaml.config.algorithms import ALGORITHMS, DEFAULT_ALGORITHM
from mmaml.config.declaration_file import NAME, declaration_of
from mmaml.config.keys import ADAM, COMMON_KEYS, LEGACY, Config, built_in_keys
from mmaml.config.loading import build_config, idle_keys, read_config, step_sizes
from mmaml.errors import ConfigError
from mmaml.storage import checkpoint
from tests.helpers.support import REQUIRED, SMALL, run, small_config

USERS = {
    "own_algorithm": """
from __future__ import annotations

import torch

from mmaml.algorithms.promp import DECLARATION as PARENT, ProMP
from mmaml.config.declaration import Condition, Key
from mmaml.config.value_types import integer, number

LOW = 0


def is_small(config: torch.Tensor) -> bool:
    return config.pace < 3


DECLARATION = PARENT.extended(
    keys={"pace": Key("Mine", 1.0, number(LOW), "how far"), "trials": Key("Mine", 1, integer(1), "held in a buffer")},
    conditions=[Condition("pace", is_small, "a number < 3", "walks")],
    kept={"trials": lambda config: config.trials * config.lane_length},
    without=["clip_eps"],
)


class Walker(ProMP):
    def update(self, parameters, evaluate, iteration):
        return parameters + self.config.pace, {}
""",
    "no_declaration": "class Walker: pass\n",
    "no_class": "from mmaml.config.declaration import Declaration\nDECLARATION = Declaration()\n",
    "no_python": "class Walker(:\n",
    "fails": "DECLARATION = 1 / 0\nclass Walker: pass\n",
    "no_credit": "from mmaml.config.declaration import Declaration\n"
    "DECLARATION = Declaration(credit='trials')\nclass Walker: pass\n",
    "exits": "import sys\nDECLARATION = sys.exit(3)\nclass Walker: pass\n",
    "no_value": "DECLARATION = {}\nclass Walker: pass\n",
    "parent_without": "from no_declaration import DECLARATION\nclass Walker: pass\n",
    "plain_class": (
        "from mmaml.config.declaration import Declaration\nDECLARATION = Declaration()\nclass Walker: pass\n"
    ),
    "cannot_load": (
        "from mmaml.config.declaration import Declaration\nDECLARATION = Declaration()\n"
        "import no_such_module\nclass Walker: pass\n"
    ),
}
KEY = "from mmaml.config.declaration import Declaration, Key\nfrom mmaml.config.value_types import integer\n"
USERS |= {
    f"key_{number}": f"{KEY}DECLARATION = Declaration(keys={{{name!r}: Key('Mine', {default}, integer(1), '')}})\n"
    "class Walker: pass\n"
    for number, (name, default) in enumerate(
        [("seed", 1), ("maml_optimizer_steps", 1), ("own", 1), ("to_dict", 1), ("a b", 1), ("_x", 1), ("pace", 0)]
    )
}


@pytest.fixture(autouse=True)
def _users_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in USERS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in USERS:
        sys.modules.pop(name, None)


def declared(algorithm: str) -> dict[str, Any]:
    return {name: (key.group, key.default, key.text) for name, key in declaration_of(algorithm).keys.items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_declaration_is_found_as_importing_its_file_would(algorithm: str) -> None:
    module = importlib.import_module(ALGORITHMS[algorithm].partition(":")[0])
    found, there = declaration_of(algorithm), getattr(module, NAME)
    assert declared(algorithm) == {name: (key.group, key.default, key.text) for name, key in there.keys.items()}
    for name in ("without", "embeds", "default_update"):
        assert getattr(found, name) == getattr(there, name)
    assert [c.key for c in found.conditions] == [c.key for c in there.conditions]
    assert found.weights.keys() == there.weights.keys()
    assert declaration_of(algorithm) is found


def test_a_key_of_several_algorithms_is_one() -> None:
    for name in ALGORITHMS:
        for key, value in declaration_of(name).keys.items():
            assert value is built_in_keys()[key]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_declaration_names_is_there(algorithm: str) -> None:
    declaration = declaration_of(algorithm)
    keys = COMMON_KEYS | dict(declaration.keys)
    assert not COMMON_KEYS.keys() & declaration.keys.keys()
    assert {*declaration.without, *declaration.weights, *(c.key for c in declaration.conditions)} <= keys.keys()
    assert all(set(key.updates) <= {*ADAM, "trpo"} for key in keys.values())
    module, _, cls = ALGORITHMS[algorithm].partition(":")
    functions = getattr(importlib.import_module(module), cls).functions
    assert declaration.embeds == ("embed" in functions)


PROGRAM = """
import sys
from mmaml.cli.train import parse
from mmaml.config.keys import built_in_keys
from mmaml.config.loading import build_config, idle_keys
for values in {configs}:
    config = build_config(values)
    idle_keys(config, config.to_dict())
built_in_keys(), parse([])
assert "torch" not in sys.modules and "own_algorithm" not in sys.modules
"""


def test_torch_is_not_loaded_to_check_a_configuration(tmp_path: Path) -> None:
    configs = [{"algorithm": name} | REQUIRED.get(name, {}) for name in ALGORITHMS]
    configs.append({"algorithm": "own_algorithm:Walker", "pace": 2})
    root = Path(__file__).parents[2]
    program = f"import sys; sys.path[:0] = {[str(root), str(tmp_path)]}\n" + PROGRAM.format(configs=configs)
    subprocess.run([sys.executable, "-c", program], check=True)


# Keys of an algorithm in a configuration.


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_configuration_holds_common_keys_and_those_of_its_algorithm(algorithm: str) -> None:
    config = small_config(algorithm)
    assert config.to_dict().keys() == COMMON_KEYS.keys() | declaration_of(algorithm).keys.keys()
    assert all(getattr(config, name) == value for name, value in config.own.items())
    assert build_config(json.loads(json.dumps(config.to_dict()))) == config
    for twin in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), config.replace()):
        assert twin == config and twin.env_spec == config.env_spec
    with pytest.raises(AttributeError, match="no key 'no_such_key'"):
        _ = config.no_such_key


def test_values_are_replaced_common_or_own() -> None:
    config = small_config("mmaml")
    other = config.replace(cell_size=3, seed=7)
    assert (other.cell_size, other.seed) == (3, 7)
    assert (config.cell_size, config.seed) == (8, 1)
    assert other.replace(cell_size=8, seed=1) == config
    for key in ("algorithm", "env", "env_kwargs"):
        with pytest.raises(ValueError, match=f"{key}: cannot be replaced"):
            config.replace(**{key: "x"})
    with pytest.raises(TypeError):
        config.replace(latent_size=3)


def test_keys_of_other_algorithms_are_checked_and_left_out() -> None:
    given = {"algorithm": "promp", "cell_size": 5, "latent_size": 3, "discount": 0.9}
    config = read_config(given)
    assert config == read_config({"algorithm": "promp", "discount": 0.9})
    assert idle_keys(config, given) == ["cell_size", "latent_size"]
    with pytest.raises(ConfigError, match="latent_size: expected a whole number ≥ 1, got 0"):
        read_config({"algorithm": "promp", "latent_size": 0})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_files_that_hold_all_keys_of_all_algorithms_are_read(algorithm: str) -> None:
    """As earlier versions wrote them."""
    required = REQUIRED.get(algorithm, {})
    every = {name: key.default for name, key in (COMMON_KEYS | built_in_keys()).items()}
    values = every | {"algorithm": algorithm} | required
    config = read_config(values)
    assert config == read_config({"algorithm": algorithm} | required)
    idle = set(idle_keys(config, values))
    assert idle >= every.keys() - COMMON_KEYS.keys() - declaration_of(algorithm).keys.keys()
    assert idle >= {name for name, key in COMMON_KEYS.items() if key.group == LEGACY}


# Algorithms of a user's.


def refusal(values: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build_config(values)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("mamba", 'expected one of "mmaml", "promp"'),
        ("no_such:Walker", "'no_such:Walker' cannot be read (ModuleNotFoundError: No module named 'no_such'); check"),
        ("own_algorithm.inner:Walker", "(ModuleNotFoundError: No module named 'own_algorithm.inner')"),
        ("mmaml.algorithms:", "module mmaml.algorithms defines no ; check the name"),
        (":Walker", "cannot be read"),
        ("..:Walker", "cannot be read"),
        ("math:sin", "cannot be read (ImportError: there is no source of module 'math')"),
        ("own_algorithm:Runner", "'own_algorithm:Runner': module own_algorithm defines no Runner; check the name"),
        ("no_class:Walker", "module no_class defines no Walker"),
        ("no_declaration:Walker", "module no_declaration has no DECLARATION; add one, such as DECLARATION = Decl"),
        ("parent_without:Walker", "cannot import name 'DECLARATION' from 'no_declaration'"),
        ("no_python:Walker", "SyntaxError"),
        ("fails:Walker", "ZeroDivisionError: division by zero"),
        ("no_credit:Walker", "(ValueError: credit: expected 'episode' or 'trial', got 'trials')"),
        ("exits:Walker", "SystemExit: 3"),
        ("no_value:Walker", "TypeError: DECLARATION: expected a Declaration, got a dict"),
        ("key_0:Walker", "'key_0:Walker' declares a key 'seed', which means something else already"),
        ("key_1:Walker", "'maml_optimizer_steps', which means something else already; give it another name"),
        ("key_2:Walker", "'own', which means something else already"),
        ("key_3:Walker", "'to_dict', which means something else already"),
        ("key_4:Walker", "'a b', which is not a valid name"),
        ("key_5:Walker", "'_x', which is not a valid name"),
        ("key_6:Walker", "'pace' that does not take its default 0; give it a whole number ≥ 1"),
    ],
)
def test_an_algorithm_that_cannot_be_used_is_refused(algorithm: str, expected: str) -> None:
    error = refusal({"algorithm": algorithm})
    assert error.argument == "algorithm" and expected in str(error)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("plain_class", "a class derived from mmaml.algorithms.base.Algorithm"), ("cannot_load", "No module named 'no_s")],
)
def test_a_class_that_is_no_algorithm_is_refused_before_anything_is_written(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = SMALL | {"algorithm": f"{name}:Walker", "dump_path": str(tmp_path / "run")}
    assert train.run(DEFAULT_ALGORITHM, ["--overrides", json.dumps(values)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: algorithm: ") and expected in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_keys_of_a_users_algorithm_are_checked_like_any() -> None:
    walker = {"algorithm": "own_algorithm:Walker"}
    assert build_config(walker).pace == 1.0
    assert build_config(walker | {"pace": 2}).pace == 2.0
    assert str(refusal(walker | {"pace": -1})) == "pace: expected a number ≥ 0, got -1"
    assert str(refusal(walker | {"pase": 1})) == "pase: unknown key; did you mean 'pace'?"
    assert str(refusal({"pace": 1})).startswith("pace: unknown key; ")
    expected = 'pace: expected a number < 3 with algorithm "own_algorithm:Walker", which walks, got 3.0'
    assert str(refusal(walker | {"pace": 3})) == expected
    assert build_config(walker | {"trials": 1000}).trials == 1000
    error = refusal(walker | {"trials": 2**60})
    assert error.argument == "trials"
    assert '1.15e+20 numbers that algorithm "own_algorithm:Walker" keeps' in str(error) and "; lower it" in str(error)
    given = walker | {"pace": 2, "clip_eps": 0.1, "inner_lr": 0.1, "cell_size": 4, "te_save_path": "x.npz"}
    assert idle_keys(build_config(given), given) == ["clip_eps", "cell_size", "te_save_path"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmaml.figures.run_figures.draw_run", lambda *_: None)  # slow, and not what is tested
    return lambda *arguments: train.run(DEFAULT_ALGORITHM, list(arguments))


def test_a_run_of_a_users_algorithm_keeps_its_keys(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = SMALL | {"algorithm": "own_algorithm:Walker", "pace": 2, "clip_eps": 0.1, "n_itr": 1}
    (tmp_path / "file.json").write_text(json.dumps(values))
    assert command("--config_file", "file.json", "--dump_path", "run") == 0
    assert "notice: no effect under own_algorithm:Walker: cell_size, clip_eps\n" in capsys.readouterr().err
    assert json.loads(Path("run/params.json").read_text())["pace"] == 2.0
    first = checkpoint.load("run")
    assert first["config"]["pace"] == 2.0
    assert command("--restore_path", "run", "--overrides", '{"n_itr": 3}') == 0
    last = checkpoint.load("run")
    for name, value in first["parameters"].items():
        assert (last["parameters"][name] - value - 2 * 2.0).abs().max() < 1e-5
    capsys.readouterr()
    assert command("--restore_path", "run", "--overrides", '{"pace": 1}') == 2
    assert "pace: expected the values of the run that is continued, 'run': pace 2.0, got 1.0" in capsys.readouterr().err
    assert command("--restore_path", "run", "--overrides", '{"algorithm": "promp"}') == 2
    assert "algorithm: expected the values of the run that is continued" in capsys.readouterr().err


def test_a_run_whose_files_hold_all_keys_goes_on_with_the_same_bits(
    command: Callable[..., int], tmp_path: Path
) -> None:
    def config(name: str, n_itr: int) -> Config:
        return small_config("cavia", dump_path=str(tmp_path / name), n_itr=n_itr)

    whole = run(config("whole", 3))
    run(config("run", 2))
    every = {name: key.default for name, key in built_in_keys().items()}
    params = json.loads(Path("run/params.json").read_text())
    Path("run/params.json").write_text(json.dumps(every | params))
    state = checkpoint.load("run")
    checkpoint.write(tmp_path / "run" / "checkpoints", 2, state | {"config": every | state["config"]})
    assert command("--restore_path", "run", "--overrides", '{"n_itr": 3}') == 0
    ended = checkpoint.load("run")["parameters"]
    assert all((ended[name] == value).all() for name, value in whole["parameters"].items())


@pytest.mark.parametrize(
    ("algorithm", "values", "expected"),
    [
        ("promp", {}, {"learning_rate", "inner_lr"}),
        ("maml", {"meta_update": "trpo"}, {"inner_lr"}),
        ("rl2", {}, {"learning_rate"}),
        ("varibad", {}, {"learning_rate", "vae_learning_rate"}),
        ("mgrl", {}, {"learning_rate", "meta_learning_rate"}),
        ("mgrl", {"meta_discount": False}, {"learning_rate"}),
        ("mgrl", {"meta_update": "trpo"}, {"learning_rate", "meta_learning_rate"}),  # a key that MGRL ignores
    ],
)
def test_the_step_sizes_that_can_be_lowered(algorithm: str, values: dict[str, Any], expected: set[str]) -> None:
    assert {*step_sizes(read_config({"algorithm": algorithm} | values))} == expected
