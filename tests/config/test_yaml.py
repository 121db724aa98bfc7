"""YAML files: what JSON can hold, and the keys of another program; what is refused, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmaml.config.loading import idle_keys, load_config, read_config_file
from mmaml.config.other_names import IGNORED, NAMES
from mmaml.config.yaml_text import parse_yaml
from mmaml.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def written(folder: Path, text: str, name: str = "config.yml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text, value",
    [
        ("3", 3),
        ("100_000", 100_000),
        ("-2", -2),
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("~", None),
        ('"3"', "3"),
        ("'true'", "true"),
        ("yes", "yes"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("\n  - 1\n  - [x]", [1, ["x"]]),
        ("{b: 1, c: {d: null}}", {"b": 1, "c": {"d": None}}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parse_yaml(f"# comment\na: {text}\n", "it")
    assert found == {"a": value} and type(found["a"]) is type(value)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "it: expected a YAML mapping, key: value, got a file without keys"),
        ("# nothing\n", "it: expected a YAML mapping, key: value, got a file without keys"),
        ("- 1\n", "it: expected a YAML mapping, key: value, got [1]"),
        ("a: 1\nb: 2\na: 3\n", "it: key 'a' is given twice; keep one"),
        ("a: {b: 1, b: 2}\n", "it: key 'b' is given twice; keep one"),
        ("a: [1\n", "it: is not valid YAML (.* at line 2, column 1)"),
        ("a: 1\n b: 2\n", "it: is not valid YAML (.* at line 2, column 3)"),
        ("a: &x [1]\nb: *x\n", "it: line 1 has a reference or a tag; write out what is meant"),
        ("a: &x\n  b: *x\n", "it: line 1 has a reference or a tag; write out what is meant"),
        ("a: !!python/object/apply:os.getcwd []\n", "it: line 1 has a reference or a tag"),
        ("a: !thing 3\n", "it: line 1 has a reference or a tag"),
        ("[1]: 3\n", "it: line 1 has a key that is not text; write the key as text"),
        ("a: \x00\n", "it: is not YAML of a reasonable kind"),
        ("[" * 5000 + "\n", "it: is not"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "it")
    found = str(caught.value)
    start, _, end = reason.partition(".*")
    assert found.startswith(start) and end in found and "\n" not in found


def test_a_yaml_file_extends_a_json_file_and_is_extended(tmp_path: Path) -> None:
    written(tmp_path, '{"n_itr": 3, "seed": 4}', "base.json")
    written(tmp_path, "extends: base.json\nseed: 5\ndiscount: 0.9\n", "middle.yaml")
    top = written(tmp_path, '{"extends": "middle.yaml", "discount": 0.8}', "top.json")
    assert read_config_file(top) == {"n_itr": 3, "seed": 5, "discount": 0.8}


def test_the_shipped_file_means_what_its_counterpart_in_json_does() -> None:
    assert load_config(CONFIGS / "rl2_ppo.yml").to_dict() == load_config(CONFIGS / "rl2_ppo.json").to_dict()


# The keys of meta-rl-algorithms.

RL2_PPO = """
device_id: cpu
seed: 42
episodes: 30
meta_epochs: 100_000
log_every_n: 10
max_episode_steps: 50
update_every_n: 5
update_epochs: 1
actor_critic:
  rnn_type: "gru"
  obs_enc_dim: 64
  rnn_size: 32
  actor_hidden_sizes: [256, 256, 256]
  critic_hidden_sizes: [256, 256, 256]
ppo:
  lr: 1.0e-3
  gae_lambda: 0.98
  clip_ratio: 0.1
  value_coeff: 0.4
  max_grad_norm: 0.6
  entropy_coeff: 0.02
"""
MG_A2C = """
device_id: cpu
epochs: 100
num_steps: 200
max_episode_steps: 150
gamma: 0.96
inner_steps: 2
outer_lr: 0.003
actor_critic:
  actor_hidden_sizes: [32, 16]
a2c:
  lr: 3.0e-2
  value_coeff: 0.3
  max_grad_norm: 0.5
"""


def test_the_keys_of_rl2_are_understood(tmp_path: Path) -> None:
    path = written(tmp_path, RL2_PPO)
    config = load_config(path, algorithm="rl2")
    expected = {"device": "cpu", "seed": 42, "episodes_per_trial": 30, "n_itr": 100_000, "max_path_length": 50}
    expected |= {"num_promp_steps": 1, "cell_size": 32, "hidden_sizes": [256] * 3, "learning_rate": 1e-3}
    expected |= {"gae_lambda": 0.98, "clip_eps": 0.1, "vf_loss_coeff": 0.4, "max_grad_norm": 0.6, "entropy_coeff": 0.02}
    found = config.to_dict()
    assert {name: found[name] for name in expected} == expected
    idle = {"log_every_n", "update_every_n", "hidden_sizes"}
    idle |= {f"actor_critic.{name}" for name in ("rnn_type", "obs_enc_dim", "critic_hidden_sizes")}
    assert {*idle_keys(config, read_config_file(path))} == idle


def test_the_keys_of_meta_gradients_are_understood(tmp_path: Path) -> None:
    path = written(tmp_path, MG_A2C, "mg_a2c.yaml")
    config = load_config(path, algorithm="mgrl")
    expected = {"device": "cpu", "n_itr": 100, "max_path_length": 150, "discount": 0.96, "hidden_sizes": [32, 16]}
    expected |= {"learning_rate": 0.03, "vf_loss_coeff": 0.3, "max_grad_norm": 0.5, "meta_learning_rate": 0.003}
    found = config.to_dict()
    assert {name: found[name] for name in expected} == expected
    assert {*idle_keys(config, read_config_file(path))} == {"num_steps", "num_inner_grad_steps"}


def test_the_keys_of_earlier_meta_gradients_are_understood(tmp_path: Path) -> None:
    """There, the step sizes are outside of the section."""
    text = (
        "gamma: 0.95\ninner_lr: 1.0e-4\nouter_lr: 1.0e-3\nactor_critic:\n  hidden_size: 128\na2c:\n  value_coeff: 0.4\n"
    )
    config = load_config(written(tmp_path, text), algorithm="mgrl")
    found = (config.learning_rate, config.meta_learning_rate, config.vf_loss_coeff, config.inner_lr)
    assert found == (1e-4, 1e-3, 0.4, 0.1)
    assert load_config(written(tmp_path, "inner_lr: 0.3\n"), algorithm="maml").inner_lr == 0.3
    with pytest.raises(ConfigError, match=r"'inner_lr' and 'a2c\.lr' are two names of one key; keep one"):
        load_config(written(tmp_path, "inner_lr: 0.3\na2c: {lr: 0.2}\n"), algorithm="mgrl")


@pytest.mark.parametrize("name", ["hidden_size", "critic_hidden_sizes", "rnn_type", "obs_enc_dim"])
def test_their_keys_without_their_section_are_unknown(name: str) -> None:
    """Else a slip in a key of ours would train with its default."""
    with pytest.raises(ConfigError, match="unknown key"):
        load_config(None, {name: 64})


def test_every_name_stands_for_a_key() -> None:
    known = load_config(None, algorithm="rl2").keys().keys() | load_config(None, algorithm="mgrl").keys().keys()
    for names in NAMES.values():
        assert {*names.values()} <= known and not {*names} & (known | IGNORED.keys())


@pytest.mark.parametrize(
    "text, reason",
    [
        ("ppo: {speed: 3}\n", "ppo.speed: unknown key"),
        ("ppo: {lr: 0.1}\nlearning_rate: 0.2\n", "'ppo.lr' and 'learning_rate' are two names of one key; keep one"),
        ("ppo: {lr: fast}\n", "learning_rate: expected a number > 0"),
        ("ppo: 3\n", "ppo: expected a section of keys, got 3; indent its keys below it"),
        ("ppo:\nlr: 0.1\n", "ppo: expected a section of keys, got null"),
        ("actor_critic: {rnn_type: lstm}\n", 'rnn_type: expected one of "gru", got "lstm"'),
        ("algorithm: nothing\n", "algorithm: expected one of"),
        ("episdoes: 3\n", "episdoes: unknown key"),
    ],
)
def test_what_is_wrong_with_them_is_named(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text), algorithm="rl2")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("gamma", "did you mean 'discount'?"),
        ("ppo.lr", "did you mean 'learning_rate'?"),
        ("ppo.gae_lambda", "did you mean 'gae_lambda'?"),
        ("actor_critic.rnn_size", "did you mean 'cell_size'?"),
        ("ppo", "it is a section of keys, in YAML files alone"),
        ("hidden_size", "did you mean 'hidden_sizes'?"),
    ],
)
def test_where_they_are_not_read_their_counterparts_are_named(name: str, remedy: str) -> None:
    """In JSON, on the command line and from Python."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, {name: 0.5}, algorithm="rl2")
    assert str(caught.value) == f"{name}: unknown key; {remedy}"
