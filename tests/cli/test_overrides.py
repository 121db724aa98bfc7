"""Keys of the configuration on the command line, as people type them and as the launchers of sweeps write them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mmaml.cli import check_env, evaluate, maml_run, train
from mmaml.config.keys import COMMON_KEYS, Config, built_in_keys
from mmaml.config.loading import load_config
from mmaml.config.value_types import FLAG
from mmaml.errors import UsageError
from tests.helpers.support import SMALL

KEYS = COMMON_KEYS | built_in_keys()
SCRIPTS = {"plain": train.PLAIN, "mmaml train": train.COMMAND, "maml_run": maml_run.SCRIPT}
FLAGS_OF_THEIR_OWN = ("dump_path", "restore_path", "te_save_path", "algorithm")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.json").write_text(json.dumps(SMALL | {"algorithm": "promp"}))
    return tmp_path


def configured(command: str) -> Config:
    """What `mmaml train` makes of its arguments."""
    return train.resolve(train.parse(shlex.split(command), train.COMMAND), "mmaml", train.COMMAND)[0]


def changed(command: str, base: str = "base.json") -> dict[str, Any]:
    """The keys and values in which a run differs from one of the file alone."""
    with_them, without = configured(f"{base} {command}").to_dict(), configured(base).to_dict()
    return {key: value for key, value in with_them.items() if value != without[key] and key != "dump_path"}


def refused(command: str) -> str:
    with pytest.raises(UsageError) as caught:
        configured(command)
    return str(caught.value)


# The later of several counts.

MERGED = {
    """--overrides '{"n_itr": 3}' --overrides '{"seed": 4}'""": {"n_itr": 3, "seed": 4},
    """--overrides '{"n_itr": 3, "seed": 4}' --overrides '{"seed": 5}'""": {"n_itr": 3, "seed": 5},
    "--overrides n_itr=3 seed=4": {"n_itr": 3, "seed": 4},
    """--overrides n_itr=3 '{"n_itr": 4}' n_itr=5""": {"n_itr": 5},
    """--overrides '{"n_itr": 3,' '"seed": 4}' n_itr=5""": {"n_itr": 5, "seed": 4},
    """--overrides n_itr=5 '{"n_itr":' '3,' '"seed": 4}'""": {"n_itr": 3, "seed": 4},
    "--overrides n_itr=3 --seed=4 --overrides n_itr=5": {"n_itr": 5, "seed": 4},
    "--n_itr=3 --n_itr=5": {"n_itr": 5},
    "--n_itr=3 --overrides n_itr=5 seed=4": {"n_itr": 3, "seed": 4},
    "--overrides maml_optimizer_steps=3 --overrides num_promp_steps=4": {"num_promp_steps": 4},
    "--overrides num_promp_steps=3 --overrides maml_optimizer_steps=4": {"num_promp_steps": 4},
    "--overrides num_promp_steps=3 --maml_optimizer_steps=4": {"num_promp_steps": 4},
    "--overrides algorithm=maml --algorithm e_maml": {"algorithm": "e_maml"},
}


@pytest.mark.parametrize("command", MERGED)
def test_overrides_are_merged_in_order(command: str) -> None:
    found = changed(command)
    assert {key: found[key] for key in MERGED[command]} == MERGED[command]
    if "algorithm" not in command:
        assert found == MERGED[command]


def test_no_flag_takes_the_configuration_for_its_value() -> None:
    expected = {"n_itr": 3, "seed": 4}
    for command in (
        "base.json --n_itr 3 --seed 4",
        "--n_itr 3 --seed 4 base.json",
        "--n_itr 3 base.json --seed 4",
        "n_itr=3 base.json seed=4",
        "--overrides n_itr=3 --seed=4 base.json",
        "--seed=4 --overrides n_itr=3 -- base.json",
        "--config_file base.json --n_itr=3 --seed=4",
    ):
        config = configured(command)
        assert {key: getattr(config, key) for key in expected} == expected, command
        assert config.meta_batch_size == 4, command


# Every key, in every way.


def written(value: Any) -> list[str]:
    """A value as JSON, and as Python prints it."""
    return [json.dumps(value), str(list(value) if isinstance(value, tuple) else value)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_key_has_a_flag(script: str) -> None:
    for name, key in KEYS.items():
        if name in FLAGS_OF_THEIR_OWN or f"--{name}" in SCRIPTS[script].flags:
            continue
        for text in written(key.default):
            apart = (
                [] if name == "resume" and text.startswith('"') else [[f"--{name}", text]]
            )  # of which some are words
            for words in ([f"--{name}={text}"], [f"{name}={text}"], *apart):
                options = train.parse(["base.json", *words], SCRIPTS[script])
                found = options.keys[name]
                assert key.kind.accepts(found) and key.kind.convert(found) == key.default, (words, found)
        (value,) = train.parse(["base.json", "--overrides", f"{name}={text}"], SCRIPTS[script]).overrides.values()
        assert key.kind.convert(value) == key.default
        if key.kind is FLAG and name != "log_grad_norm":
            assert train.parse([f"--{name}", "base.json"], SCRIPTS[script]).keys == {name: True}


def test_flags_that_the_commands_had_keep_their_meaning() -> None:
    options = train.parse(shlex.split("base.json --resume --log_grad_norm --dump_path=a --restore b --algo maml"))
    assert options.resume and options.log_grad_norm and options.keys == {}
    assert (options.dump_path, options.restore_path, options.algorithm) == ("a", "b", "maml")
    script = train.parse(["--num-batches", "7", "--env", "2DNavigation-v0", "--gam=0.5"], maml_run.SCRIPT)
    assert (script.num_batches, script.gamma, script.keys) == (7, 0.5, {"env": "2DNavigation-v0"})
    assert configured("base.json --dump_path r --resume").resume == "auto"
    assert configured("base.json --dump_path r --resume never").resume == "never"
    assert configured("base.json --dump_path r --resume=auto").resume == "auto"
    assert not configured("base.json --log_grad_norm=False").log_grad_norm
    assert configured("base.json --log_grad_norm true").log_grad_norm


def test_flags_of_one_letter_keep_their_values() -> None:
    script = train.Script(synonyms={"--config_file": ("-c",), "--ranks": ("-r",), "--overrides": ("-o",)})
    for command in (
        "-c base.json -r 2 -o n_itr=3 seed=4",
        "-o n_itr=3 seed=4 -c base.json -r 2",
        "-o n_itr=3 --seed 4 -r2 -cbase.json",
        "-o n_itr=3 -r 2 seed=4 -c base.json",
        "-c base.json seed=4 --overrides n_itr=3 -r 2",
    ):
        options = train.parse(shlex.split(command), script)
        assert (options.config_file, options.ranks) == ("base.json", 2), command
        assert options.overrides | options.keys == {"n_itr": 3, "seed": 4}, command


# What values look like.

VALUES = {
    "n_itr=1e3": {"n_itr": 1000},
    "n_itr=3.0": {"n_itr": 3},
    "n_itr=30e-1": {"n_itr": 3},
    "hidden_sizes=[16.0,1e1]": {"hidden_sizes": [16, 10]},
    "num_train_tasks=null": {},
    "num_train_tasks=None": {},
    "num_train_tasks=1e1": {"num_train_tasks": 10},
    "inner_lr=[0.5,0.25]": {"inner_lr": [0.5, 0.25]},
    "'inner_lr=[0.5, 0.25]'": {"inner_lr": [0.5, 0.25]},
    "'inner_lr=(0.5, 0.25)'": {"inner_lr": [0.5, 0.25]},
    "inner_lr=.5": {"inner_lr": 0.5},
    "inner_lr=1": {"inner_lr": 1.0},
    "normalize_rewards=true": {"normalize_rewards": True},
    "normalize_rewards=True": {"normalize_rewards": True},
    "normalize_rewards=False": {},
    "collect=episodes": {"collect": "episodes"},
    "'collect=\"episodes\"'": {"collect": "episodes"},
    "\"collect='episodes'\"": {"collect": "episodes"},
    "normalization_scale=null": {"normalization_scale": None},
    "normalization_scale=2": {"normalization_scale": 2.0},
}


@pytest.mark.parametrize("word", VALUES)
def test_a_value_is_json_or_a_bare_word(word: str) -> None:
    base = "base.json" if word != "normalization_scale=null" else "base.json env=MetaPointEnvMomentum6Modes"
    dashed = word[0] + "--" + word[1:] if word[0] in "'\"" else f"--{word}"
    for command in (word, dashed, f"--overrides {word}", f"+{word}" if word[0] not in "'\"" else word):
        found = {key: list(v) if isinstance(v, tuple) else v for key, v in changed(command, base).items()}
        assert found == VALUES[word], command


def test_texts_stay_texts_where_a_key_takes_one() -> None:
    for text in ("2024", "true", "None.", "1e3", "[1]"):
        assert configured(f"base.json --overrides dump_path={text}").dump_path == str(Path.cwd() / text)
        assert configured(f"base.json --dump_path={text}").dump_path == str(Path.cwd() / text)
    assert configured("base.json te_save_path=a=b").te_save_path == str(Path.cwd() / "a=b")


def test_whole_numbers_are_stored_as_such(here: Path) -> None:
    values = {"n_itr": 2.0, "seed": 1e3, "hidden_sizes": [8.0, 8], "num_train_tasks": 4.0}
    config = load_config(None, SMALL | values)
    found = json.loads(json.dumps(config.to_dict()))
    assert [repr(found[key]) for key in ("n_itr", "seed", "num_train_tasks")] == ["2", "1000", "4"]
    assert repr(found["hidden_sizes"]) == "[8, 8]"
    (here / "file.json").write_text('{"n_itr": 1e1, "save_steps": 5.0}')
    assert (configured("file.json").n_itr, configured("file.json").save_steps) == (10, 5)
    assert type(configured("file.json").n_itr) is int


def test_whole_numbers_of_other_commands() -> None:
    assert train.parse(["base.json", "--ranks", "2.0"]).ranks == 2
    options = evaluate.parse(["run", "--num_tasks", "1e3", "--seed", "2.0", "--num_adapt_steps=3.0"])
    assert (options.num_tasks, options.seed, options.num_adapt_steps) == (1000, 2, 3)
    for words in (["--num_tasks", "1.5"], ["--num_tasks", "x"], ["--seed", "nan"], ["--seed", "1e999"]):
        with pytest.raises(UsageError, match=rf"^{words[0]}: expected a whole number, got '{words[1]}'"):
            evaluate.parse(["run", *words])
    with pytest.raises(UsageError, match=r"^--steps: expected a whole number ≥ 1, got 0"):
        check_env._parse(["2DNavigation-v0", "--steps", "0.0"], None)


# Parts of an object.


def test_a_part_of_an_object_is_laid_over_it(here: Path) -> None:
    (here / "momentum.json").write_text(
        json.dumps(SMALL | {"algorithm": "promp", "env": "MetaPointEnvMomentum6Modes", "env_kwargs": {"noise": 0.5}})
    )
    for command, expected in {
        "env_kwargs.reward_type=sparse": {"noise": 0.5, "reward_type": "sparse"},
        "+env_kwargs.noise=0.25": {"noise": 0.25},
        "--env_kwargs.noise=0.25": {"noise": 0.25},
        "--env_kwargs.noise 0.25": {"noise": 0.25},
        "--overrides env_kwargs.noise=0.25": {"noise": 0.25},
        """--overrides '{"env_kwargs": {"reward_type": "sparse"}}' env_kwargs.noise=1""": {
            "noise": 1,
            "reward_type": "sparse",
        },
        "\"--env_kwargs={'noise': 0.125}\"": {"noise": 0.125},
        """env_kwargs.reward_type=sparse 'env_kwargs={"noise": 0}'""": {"noise": 0},
        """--overrides env_kwargs.reward_type=sparse '{"env_kwargs": {"noise": 0}}'""": {"noise": 0},
        """--overrides env_kwargs.reward_type=sparse --env_kwargs='{"noise": 0}'""": {"noise": 0},
    }.items():
        assert configured(f"momentum.json {command}").env_kwargs == expected, command
    assert load_config("momentum.json").env_kwargs == {"noise": 0.5}  # which nothing has changed
    assert refused("momentum.json n_itr.x=1").startswith("n_itr.x: unknown key")
    assert refused("momentum.json env_kwargs=3 env_kwargs.x=1").startswith("env_kwargs: expected a JSON object")


# The launchers of sweeps.

SWEEPS = {
    # wandb agent, "${program} ${args}", with the values as Python prints them
    "--algorithm=maml --env_kwargs={} --hidden_sizes='[16, 16]' --inner_lr=0.05 --n_itr=20 --num_train_tasks=None": {
        "algorithm": "maml", "hidden_sizes": [16, 16], "inner_lr": 0.05, "n_itr": 20,
    },
    "--first_order=True --seed=3": {"first_order": True, "seed": 3},
    # "${args_no_boolean_flags}"
    "--normalize_rewards --seed=3": {"normalize_rewards": True, "seed": 3},
    # "${args_no_hyphens}", and what Hydra's and Submitit's launchers write
    "algorithm=maml inner_lr=0.05 n_itr=20": {"algorithm": "maml", "inner_lr": 0.05, "n_itr": 20},
    "+seed=3 ++n_itr=20 inner_lr=[0.5,0.25]": {"seed": 3, "n_itr": 20, "inner_lr": [0.5, 0.25]},
    # "${args_json}"
    """--overrides '{"n_itr": 20, "seed": 3.0}'""": {"n_itr": 20, "seed": 3},
    # Ray, Optuna and shell loops
    "--seed 3 --inner_lr 5e-1": {"seed": 3, "inner_lr": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("command", SWEEPS)
def test_sweeps(command: str) -> None:
    for base in ("base.json", "--config_file base.json"):
        found = {key: list(v) if isinstance(v, tuple) else v for key, v in changed(command, base).items()}
        assert {key: found.get(key) for key in SWEEPS[command]} == SWEEPS[command]


def test_a_sweep_trains_what_it_names(capfd: pytest.CaptureFixture[str]) -> None:
    words = shlex.split("base.json --n_itr=1.0 --seed=7 --dump_path=out/a inner_lr=[0.5] --overrides num_promp_steps=1")
    assert train.main(words) == 0, capfd.readouterr().err
    values = json.loads(Path("out/a/params.json").read_text())
    assert (values["n_itr"], values["seed"], values["inner_lr"], values["num_promp_steps"]) == (1, 7, [0.5], 1)


def test_keys_of_a_users_algorithm(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine.py").write_text(
        "from mmaml.algorithms.promp import ProMP\n"
        "from mmaml.config.declaration import Declaration, Key\n"
        "from mmaml.config.value_types import integer\n"
        "from dataclasses import replace\n"
        "import mmaml.algorithms.promp as promp\n"
        "DECLARATION = replace(promp.DECLARATION, keys={**promp.DECLARATION.keys,\n"
        "    'temperature': Key('Mine', 1, integer(1), 'of the bath')})\n"
        "class Mine(ProMP):\n    pass\n"
    )
    monkeypatch.syspath_prepend(here)
    command = "base.json --algorithm mine:Mine"
    for word in ("--temperature=3.0", "--temperature 3", "temperature=3", "--overrides temperature=3"):
        assert configured(f"{command} {word}").own["temperature"] == 3, word
    assert refused(f"{command} --temperature=x") == 'temperature: expected a whole number ≥ 1, got "x"'
    assert refused(f"{command} --temperatur=3").endswith("did you mean '--temperature'?")
    assert refused("base.json --temperature=3").startswith("--temperature: is neither a flag nor a key")


# Key, expected, got, remedy.

REFUSALS = {
    "--n_itr=abc": 'n_itr: expected a whole number ≥ 1, got "abc"',
    "--n_itr=1.5": "n_itr: expected a whole number ≥ 1, got 1.5",
    "--n_itr=0": "n_itr: expected a whole number ≥ 1, got 0",
    "--n_itr=": 'n_itr: expected a whole number ≥ 1, got ""',
    "--n_itr=1e30": "n_itr: expected a whole number ≥ 1, got 1e+30",
    "n_itr=NaN": "n_itr: expected a whole number ≥ 1, got NaN",
    "n_itr=true": "n_itr: expected a whole number ≥ 1, got true",
    "seed=1,2,3": 'seed: expected a whole number ≥ 0, got "1,2,3"',
    "--hidden_sizes=[1.5]": "hidden_sizes: expected a list of 1 to 100 whole numbers ≥ 1, got",
    "--inner_lr=fast": 'inner_lr: expected a number > 0, or a non-empty list of numbers > 0, got "fast"',
    "--normalize_rewards=yes": 'normalize_rewards: expected true or false, got "yes"',
    "--collect=lane": 'collect: expected one of "lanes", "episodes", got "lane"',
    "--n_iter=3": "--n_iter: is neither a flag nor a key of the configuration; did you mean '--n_itr'?",
    "--n_iter 3": "--n_iter: is neither a flag nor a key of the configuration; did you mean '--n_itr'?",
    "n_iter=3": "--n_iter: is neither a flag nor a key of the configuration; did you mean '--n_itr'?",
    "--eval_every=3": "--eval_every: is neither a flag nor a key of the configuration; did you mean '--eval_interval'?",
    "--gamma=0.9": "--gamma: is neither a flag nor a key of the configuration; did you mean 'discount'?",
    "--ppo.lr=0.1": "--ppo.lr: is neither a flag nor a key of the configuration; did you mean 'learning_rate'?",
    "--n-itr=3": "--n-itr: is neither a flag nor a key of the configuration; did you mean '--n_itr'?",
    "--overrides n_iter=3": "n_iter: unknown key; did you mean 'n_itr'?",
    "--dump-path=x": "--dump-path: is neither a flag nor a key of the configuration; did you mean '--dump_path'?",
    "--zzz=3": "--zzz: is neither a flag nor a key of the configuration; --help lists the flags, docs/configuration.md",
    "--n_itr": "--n_itr: expected a value, got nothing; give it as --n_itr=VALUE",
    "--n_itr --seed=3": "--n_itr: expected a value, got nothing; give it as --n_itr=VALUE",
    "--overrides": "--overrides: expected at least one argument; --help lists the arguments",
    "--overrides n_itr": "overrides: expected a JSON object {\"key\": value, …} or KEY=VALUE, got 'n_itr'; put CONFIG",
    "--overrides base.json": "overrides: expected a JSON object {\"key\": value, …} or KEY=VALUE, got 'base.json'; put",
    "--overrides 3=3": "overrides: expected a JSON object {\"key\": value, …} or KEY=VALUE, got '3=3'",
    "--inner_adaptation_steps=x": "inner_adaptation_steps (num_inner_grad_steps): expected a whole number ≥ 1 and",
}


@pytest.mark.parametrize("words", REFUSALS)
def test_what_is_wrong_is_named(words: str) -> None:
    assert refused(f"base.json {words}").startswith(REFUSALS[words])


def test_a_flag_of_the_script_and_a_key_are_not_both_given() -> None:
    options = train.parse(["--fast-lr", "0.1", "--inner_lr=0.2"], maml_run.SCRIPT)
    with pytest.raises(UsageError, match=r"^--fast-lr: sets inner_lr, which --inner_lr sets too; keep one of them$"):
        train.resolve(options, "maml", maml_run.SCRIPT)
