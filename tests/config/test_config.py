"""The configuration: what is accepted, what is refused and how it is said, and what is documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmaml.config.keys import COMMON_KEYS, built_in_keys
from mmaml.config.loading import (
    build_config,
    frozen_differences,
    idle_keys,
    load_config,
    parse_object,
    read_config_file,
)
from mmaml.envs.registry import FAMILIES
from mmaml.errors import ConfigError, Interrupted
from scripts.document_configuration import PAGE, page
from tests.helpers.metaworld import is_installed as metaworld_is_installed
from tests.helpers.support import REQUIRED, SMALL, run

ROOT = Path(__file__).parents[2]
SHIPPED = [
    path
    for path in sorted((ROOT / "configs").glob("*.json"))
    if metaworld_is_installed() or not path.stem.startswith("metaworld_")
]
PUBLISHED = ROOT / "configs" / "point_env_momentum_dense.json"

KEYS = COMMON_KEYS | built_in_keys()

# The keys of existing config files.
FIELD_KEYS = """
    seed baseline env rollouts_per_meta_task max_path_length parallel discount gae_lambda normalize_adv positive_adv
    hidden_sizes learn_std inner_lr learning_rate num_promp_steps num_minibatches clip_eps clip_outer
    target_outer_step target_inner_step init_outer_kl_penalty init_inner_kl_penalty adaptive_outer_kl_penalty
    adaptive_inner_kl_penalty anneal_factor n_itr meta_batch_size num_inner_grad_steps cell_size use_betas
    shift_gammas mlp_after_gru mlp_after_pool log_grad_norm dump_path restore_path te_save_path num_embeddings
    keep_checkpoint_every_n_hours max_checkpoints_to_keep save_steps step_size exploration
""".split()


def refusal(values: dict[str, Any]) -> str:
    """The text with which `values` are refused, which is one line."""
    with pytest.raises(ConfigError) as caught:
        build_config(values)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_config_survives_json() -> None:
    config = build_config({"hidden_sizes": [3, 5], "inner_lr": 1, "env_kwargs": {"noise": 0.5}})
    assert build_config(json.loads(json.dumps(config.to_dict()))) == config
    assert config.hidden_sizes == (3, 5)
    assert isinstance(config.inner_lr, float)


def test_existing_files_need_no_change() -> None:
    assert set(FIELD_KEYS) <= set(KEYS)
    values = json.loads(PUBLISHED.read_text()) | {
        "step_size": 0.01,
        "exploration": False,
        "log_grad_norm": False,
        "dump_path": None,
        "restore_path": None,
        "te_save_path": None,
    }
    assert set(values) == set(FIELD_KEYS)
    assert idle_keys(build_config(values), values) == ["step_size", "exploration"]
    promp = build_config(values | {"algorithm": "promp"})
    assert {"cell_size", "use_betas", "num_embeddings", "step_size"} <= set(idle_keys(promp, values))
    assert "inner_lr" not in idle_keys(promp, values)


@pytest.mark.parametrize("name", KEYS)
def test_a_wrong_type_is_refused(name: str) -> None:
    for wrong in ([[1]], float("nan"), float("inf"), 10**400):
        assert refusal({name: wrong}).startswith(f"{name}: expected")
    if KEYS[name].default is not None and name != "normalization_scale":
        assert refusal({name: None}).endswith(", got null")
    if isinstance(KEYS[name].default, bool):
        assert refusal({name: 1}) == f"{name}: expected true or false, got 1"
    elif isinstance(KEYS[name].default, int | float):
        assert refusal({name: True}).endswith("got true")
        assert refusal({name: "1"}).endswith('got "1"')


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"n_itr": 0}, "n_itr: expected a whole number ≥ 1, got 0"),
        ({"n_itr": 5.5}, "n_itr: expected a whole number ≥ 1, got 5.5"),
        ({"discount": 1.01}, "discount: expected a number ≥ 0 and ≤ 1, got 1.01"),
        ({"inner_lr": 0}, "inner_lr: expected a number > 0, or a non-empty list of numbers > 0, got 0"),
        ({"inner_lr": []}, "inner_lr: expected a number > 0, or a non-empty list"),
        ({"inner_lr": [0.1, -1]}, "got [0.1, -1]"),
        (
            {"hidden_sizes": []},
            "hidden_sizes: expected a list of 1 to 100 whole numbers ≥ 1, got []",
        ),
        ({"hidden_sizes": [1] * 101}, "1 to 100 whole numbers ≥ 1, got [1, 1"),
        ({"hidden_sizes": [8, 0]}, "got [8, 0]"),
        ({"normalization_scale": 0}, '"family", a number > 0 or null, got 0'),
        ({"device": "gpu"}, 'got "gpu"'),
        ({"device": "cuda:"}, 'got "cuda:"'),
        ({"dump_path": ""}, "dump_path: expected a path"),
        ({"dump_path": "a\0b"}, "dump_path: expected a path"),
        ({"algorithm": "mamba"}, 'algorithm: expected one of "mmaml", "promp"'),
        ({"baseline": "LinearFeatureBaselin"}, '"LinearFeatureBaseline"'),
        ({"shutdown_seconds": 0.9}, "shutdown_seconds: expected a number ≥ 1 and ≤ 1e+09, got 0.9"),
        ({"num_minibatches": 41}, "num_minibatches: expected at most meta_batch_size = 40"),
        ({"adaptive_inner_kl_penalty": True, "target_inner_step": 0}, "target_inner_step: expected a number > 0"),
        ({"adaptive_outer_kl_penalty": True}, "init_outer_kl_penalty: expected a number > 0"),
        ({"adaptive_inner_kl_penalty": True, "init_inner_kl_penalty": 0}, "init_inner_kl_penalty: expected"),
        ({"device": "cuda", "meta_gradient": "ranks"}, 'device: expected "auto" or "cpu"'),
        ({"fisher_rollouts": 21}, "fisher_rollouts: expected at most rollouts_per_meta_task = 20, got 21"),
        ({"algorithm": "maesn"}, "num_train_tasks: expected a whole number ≥ 1 with algorithm"),
        ({"algorithm": "tesp"}, "num_inner_grad_steps: expected a whole number ≥ 2 with algorithm"),
        ({"algorithm": "e_maml", "meta_batch_size": 1}, "meta_batch_size: expected a whole number ≥ 2 with algorithm"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(values: dict[str, Any], expected: str) -> None:
    assert expected in refusal(values)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("n_iter", "n_itr"),
        ("innerlr", "inner_lr"),
        ("Env", "env"),
        ("te_path", "te_save_path"),
        ("maml_optimizer_step", "maml_optimizer_steps"),
    ],
)
def test_an_unknown_key_names_the_nearest(given: str, nearest: str) -> None:
    assert refusal({given: 1}) == f"{given}: unknown key; did you mean '{nearest}'?"
    assert "docs/configuration.md" in refusal({"zzzzzz": 1})


def test_the_bounds_of_keys_together_are_accepted() -> None:
    assert build_config({"fisher_rollouts": 20, "hidden_sizes": [1] * 100}).fisher_rollouts == 20
    build_config({"algorithm": "tesp", "num_inner_grad_steps": 2})
    build_config({"algorithm": "e_maml", "meta_batch_size": 2})
    build_config({"algorithm": "maml", "meta_batch_size": 1, "num_inner_grad_steps": 1})


@pytest.mark.parametrize("kept, idle", [("episode_buffer", []), ("last_episodes", ["buffer_size"])])
def test_a_size_of_no_buffer_is_idle(kept: str, idle: list[str]) -> None:
    given = {"algorithm": "tesp", "num_inner_grad_steps": 2, "episodes_kept": kept, "buffer_size": 4}
    assert idle_keys(build_config(given), given) == idle


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"env": "MetaPointEnvMomentumMode"}, "did you mean 'MetaPointEnvMomentumModes'?"),
        ({"env": "no.such.package:Env"}, "env: 'no.such.package:Env' cannot be loaded"),
        ({"env": "mmaml.envs.point_mass:NoSuchClass"}, "env: 'mmaml.envs.point_mass:NoSuchClass' cannot be loaded"),
        ({"env_kwargs": {"nois": 1}}, "env_kwargs: "),
        ({"env_kwargs": {"noise": "loud"}}, "env_kwargs: noise: expected a number"),
        (
            {"env": "tests.helpers.user_environments:Unbounded", "normalization_scale": 2},
            "normalization_scale: expected null for an environment with unbounded actions, got 2",
        ),
        (
            {"env": "tests.helpers.probes:Dials"},
            "env: Dials.action_space: expected a Box of numbers in one dimension, or Discrete, got Multi",
        ),
    ],
)
def test_an_environment_that_cannot_be_built_is_refused(values: dict[str, Any], expected: str) -> None:
    assert expected in refusal(values)


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), Interrupted(15)])
def test_a_signal_while_an_environment_loads_is_no_fault_of_its_module(
    signal: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise signal

    monkeypatch.setattr("mmaml.envs.registry.source_of", load)
    with pytest.raises(type(signal)):
        build_config({})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"eval_interval": 10},
            "eval_interval: expected 0 with 'tests.helpers.probes:TrainsOnly', which has train and thus no "
            'tasks of the split "test", got 10; leave it out, or have its sample_tasks draw such tasks',
        ),
        (
            {"te_save_path": "x.npz"},
            "te_save_path: expected null with 'tests.helpers.probes:TrainsOnly', which has",
        ),
    ],
)
def test_a_run_whose_family_lacks_the_tasks_is_refused(values: dict[str, Any], expected: str) -> None:
    values = {"env": "tests.helpers.probes:TrainsOnly"} | values
    assert refusal(values).startswith(expected)
    build_config(values, trains=False)


def test_a_family_without_tasks_to_train_on_is_refused() -> None:
    expected = "env: HeldOut.splits: expected \"train\" among them, got ('test',); correct it in the class"
    assert refusal({"env": "tests.helpers.probes:HeldOut"}) == expected


def test_only_what_a_run_does_needs_tasks() -> None:
    values = {"env": "tests.helpers.probes:TrainsOnly", "eval_interval": 0}
    build_config(values)
    build_config(values | {"algorithm": "promp", "te_save_path": "x.npz"})  # which has no embeddings to write


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"env": "CartPoleMassEnv", "normalization_scale": 1},
            "normalization_scale: expected null for an environment with discrete actions, got 1.0",
        ),
        (
            {"env": "tests.helpers.probes:ScaledChoice"},
            "env: ScaledChoice.normalization_scale: expected None for an environment with discrete actions, got 2.0; "
            "correct it in the class",
        ),
        (
            {"env": "CartPoleMassEnv", "learn_std": False},
            "learn_std: expected true for discrete actions, which have no log-std, got false",
        ),
    ],
)
def test_what_discrete_actions_cannot_have_is_refused(values: dict[str, Any], expected: str) -> None:
    assert refusal(values) == expected


def test_files_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.json").write_text('{"seed": 1, "n_itr": 2, "discount": 0.5}')
    (tmp_path / "sub" / "middle.json").write_text('{"extends": "../base.json", "n_itr": 3}')
    (tmp_path / "top.json").write_text('{"seed": 7, "extends": "sub/middle.json"}')
    config = load_config(tmp_path / "top.json", {"gae_lambda": 0.5}, "promp")
    assert (config.seed, config.n_itr, config.discount, config.gae_lambda) == (7, 3, 0.5, 0.5)
    assert config.algorithm == "promp"

    (tmp_path / "base.json").write_text('{"extends": "top.json"}')
    with pytest.raises(ConfigError, match="circle"):
        read_config_file(tmp_path / "top.json")
    (tmp_path / "top.json").write_text('{"extends": 3}')
    with pytest.raises(ConfigError, match="extends: expected the path of a config file, got 3"):
        read_config_file(tmp_path / "top.json")


def test_a_file_may_start_from_one_that_comes_with_the_package(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"extends": "navigation_2d", "n_itr": 3}')
    assert read_config_file(tmp_path / "mine.json") == read_config_file(ROOT / "configs" / "navigation_2d.json") | {
        "n_itr": 3
    }
    (tmp_path / "navigation_2d").write_text('{"seed": 8}')  # a file in the folder wins
    assert read_config_file(tmp_path / "mine.json") == {"seed": 8, "n_itr": 3}


def test_keys_have_rllibs_names_too(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text('{"inner_adaptation_steps": 3, "num_promp_steps": 4}')
    (tmp_path / "top.json").write_text('{"extends": "base.json", "num_inner_grad_steps": 2, "maml_optimizer_steps": 6}')

    def steps(path: Path, overrides: dict[str, Any]) -> tuple[int, int]:
        config = load_config(path, overrides)
        return config.num_inner_grad_steps, config.num_promp_steps

    assert steps(tmp_path / "base.json", {}) == (3, 4)
    assert steps(tmp_path / "top.json", {}) == (2, 6)  # whichever name the file beneath it has
    assert steps(tmp_path / "top.json", {"inner_adaptation_steps": 5, "num_promp_steps": 7}) == (5, 7)
    assert parse_object('{"maml_optimizer_steps": 8}', "overrides") == {"num_promp_steps": 8}
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"maml_optimizer_steps": 0})
    assert str(caught.value) == "maml_optimizer_steps (num_promp_steps): expected a whole number ≥ 1 and ≤ 10000, got 0"

    both = {"inner_adaptation_steps": 1, "num_inner_grad_steps": 1}
    expected = "'inner_adaptation_steps' and 'num_inner_grad_steps' are two names of one key; keep one"
    with pytest.raises(ConfigError) as caught:
        load_config(None, both)
    assert str(caught.value) == f"overrides: {expected}"
    (tmp_path / "base.json").write_text(json.dumps(both))
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "top.json")
    assert str(caught.value) == f"config_file '{tmp_path / 'base.json'}': {expected}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"seed": 1,', "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"[1, 2]", "expected a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "reasonable size"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "reasonable size"),
        (b'{"seed": 1, "seed": 2}', "'seed' is given twice"),
    ],
)
def test_a_malformed_file_is_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(ConfigError, match="cannot read"):
            load_config(path)
    with pytest.raises(ConfigError, match="overrides: expected a JSON object"):
        parse_object("3", "overrides")


def test_a_continued_run_may_change_how_it_runs_but_not_what() -> None:
    original = build_config({})
    how = build_config({"n_itr": 5, "save_steps": 1, "eval_interval": 3, "device": "cpu", "parallel": False})
    assert frozen_differences(how, original) == []
    what = build_config({"seed": 2, "hidden_sizes": [8], "n_itr": 5})
    assert sorted(frozen_differences(what, original)) == ["hidden_sizes", "seed"]


def test_every_key_is_described_and_documented() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run scripts/document_configuration.py"
    for name in KEYS:
        assert f"| `{name}`" in page()


def test_every_family_has_a_config() -> None:
    assert {load_config(path).env for path in SHIPPED} >= set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("reacher", ("Reacher3LinkEnv", 50, 2, 501)),
        ("ant_rand_goal_mode", ("AntRandGoalModeEnv", 250, 3, 1001)),
    ],
)
def test_published_configs_keep_their_values(name: str, values: tuple[str, int, int, int]) -> None:
    config = load_config(ROOT / "configs" / f"{name}.json")
    assert (config.env, config.max_path_length, config.num_inner_grad_steps, config.n_itr) == values
    shared = {
        "inner_lr": 0.1,
        "learning_rate": 1e-3,
        "meta_batch_size": 40,
        "rollouts_per_meta_task": 20,
        "num_promp_steps": 5,
        "clip_eps": 0.1,
        "init_inner_kl_penalty": 5e-4,
        "adaptive_inner_kl_penalty": False,
        "discount": 0.99,
        "gae_lambda": 1,
        "hidden_sizes": (64, 64),
        "cell_size": 64,
    }
    assert {key: getattr(config, key) for key in shared} == shared
    assert config.env_kwargs == {}


def _pairs() -> list[Any]:
    """Every file with the algorithm that it names; with MMAML and with ProMP, which the run scripts name, if none."""
    named = {path: read_config_file(path).get("algorithm") for path in SHIPPED}
    every = [(path, name) for path in SHIPPED for name in ([named[path]] if named[path] else ["mmaml", "promp"])]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in every]


@pytest.mark.parametrize(("path", "algorithm"), _pairs())
def test_a_shipped_config_runs(path: Path, algorithm: str, tmp_path: Path) -> None:
    values = {"algorithm": algorithm, "dump_path": str(tmp_path / "run"), "num_minibatches": 2}
    if "episodes_per_trial" in read_config_file(path):
        values["episodes_per_trial"] = 4
    config = load_config(path, SMALL | REQUIRED.get(algorithm, {}) | values)
    assert run(config)["iteration"] == 2
