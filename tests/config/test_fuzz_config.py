"""The configuration, given anything: it is accepted and usable, or refused in one line that names what is wrong."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmaml.algorithms.recurrent import TrialPPO
from mmaml.config import memory_check
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.declaration_file import declaration_of
from mmaml.config.keys import ALIASES, COMMON_KEYS, built_in_keys
from mmaml.config.loading import (
    build_config,
    idle_keys,
    load_config,
    parse_object,
    read_config,
    read_config_file,
    with_absolute_paths,
)
from mmaml.envs.registry import FAMILIES, make_family
from mmaml.errors import ConfigError
from mmaml.sampling.chunks import KEPT_STEPS, tasks_held
from mmaml.worker import Worker
from tests.helpers.fuzzing import ANYTHING, FUZZ, NUMBERS, TEXTS, no_hang, refusal
from tests.helpers.support import sampled, small_config

pytestmark = pytest.mark.fuzz

KEYS = COMMON_KEYS | built_in_keys()
NAMES = st.one_of(st.sampled_from([*KEYS, *ALIASES, "extends"]), TEXTS)
OBJECTS = st.dictionaries(NAMES, ANYTHING, max_size=4)


@settings(FUZZ, max_examples=250)
@given(st.sampled_from(list(KEYS)), ANYTHING)
def test_a_value_is_taken_as_it_is_or_refused_by_its_key(name: str, value: Any) -> None:
    text = refusal(ConfigError, lambda: build_config({name: value}))
    if text:
        named = set(text.split(":")[0].split(", "))  # all that a run's memory or its tasks depend on
        assert named & {name, "num_minibatches", "num_train_tasks", "num_inner_grad_steps"}
        return
    config = build_config({name: value})
    values = config.to_dict()
    expected = with_absolute_paths({name: value})[name]
    assert values.get(name, expected) == expected  # a key of another algorithm is left out
    assert build_config(json.loads(json.dumps(values, allow_nan=False))) == config


@settings(FUZZ, max_examples=150)
@given(OBJECTS, st.sampled_from(["overrides", "config_file 'x'"]))
def test_an_object_is_taken_or_refused(values: dict[str, Any], source: str) -> None:
    def use() -> None:
        config = load_config(None, parse_object(json.dumps(values), source))
        idle_keys(config, config.to_dict())

    refusal(ConfigError, use)


@settings(FUZZ, max_examples=200)
@given(st.one_of(TEXTS, st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")), st.text('{}[]",:019.eE-+ ntu')))
@example('{"a": ' * 100_000)
@example('{"env_kwargs": ' + '{"a": ' * 500 + "1" + "}" * 501)
@example('{"seed": NaN}')
@example('{"seed": -Infinity}')
@example('{"a\\nb": 1}')
@example('{"a\\nb": 1, "a\\nb": 2}')
@example('{"' + "k" * 10**6 + '": 1}')
@example("{" + ",".join(f'"{n}": 1' for n in range(50_000)) + "}")
def test_any_text_is_an_object_or_refused(text: str) -> None:
    assert refusal(ConfigError, lambda: build_config(parse_object(text, "overrides"))) or text.strip() == "{}"


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 1000,
        b"\xff\xfe{\0}\0",
        b"\x80",
        b"{}" + b" " * 2_000_000,
        b'{"seed": "\\ud800"}',
        b'{"dump_path": "\\ud800"}',
        b'{"extends": "\\u0000"}',
        b'{"extends": "\\ud800"}',
        b'{"extends": ""}',
        b'{"extends": "file.json"}',
        b'{"extends": "./../folder/file.json"}',
        b'{"extends": "/dev/zero"}',
        b'{"extends": "pipe"}',
        b'{"extends": ["file.json"]}',
        b'{"extends": "' + b"x" * 5000 + b'"}',
        b'{"extends": "' + b"x/" * 5000 + b'"}',
    ],
)
def test_a_strange_file_is_refused(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "file.json").write_bytes(content)
    text = refusal(ConfigError, lambda: load_config(folder / "file.json"))
    assert text.startswith(("config_file", "extends", "seed", "dump_path"))


def test_a_path_that_is_no_regular_file_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nothing")
    devices = ["/dev/zero", "/dev/null", "/dev/stdin", "/dev/tty", "/proc/self/mem", "/proc/kmsg", "/proc/self/pagemap"]
    names = ["pipe", "loop", "folder", "dangling", "a\0b", "a\nb", "\ud800", "\udcff", "x" * 300, "x/" * 5000, ""]
    for name in [*names, *devices]:
        assert refusal(ConfigError, lambda name=name: read_config_file(tmp_path / name)).startswith("config_file")


def test_a_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"seed": 3}', encoding="utf-8-sig")
    assert read_config_file(tmp_path / "file.json") == {"seed": 3}


def test_a_long_line_of_files_is_followed_to_its_end(tmp_path: Path) -> None:
    for number in range(1500):  # more than Python's calls may nest
        text = json.dumps({"n_itr": 1 + number, "extends": f"{number + 1}.json"})
        (tmp_path / f"{number}.json").write_text(text)
    (tmp_path / "1500.json").write_text('{"seed": 5}')
    assert read_config_file(tmp_path / "0.json") == {"n_itr": 1, "seed": 5}
    (tmp_path / "1500.json").write_text('{"extends": "700.json"}')
    assert "circle" in refusal(ConfigError, lambda: read_config_file(tmp_path / "0.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("{}")
    (tmp_path / "file.json").chmod(0)
    assert "Permission denied" in refusal(ConfigError, lambda: read_config_file(tmp_path / "file.json"))


# Environments.

MODULES = {
    "exits": "import sys; sys.exit(3)",
    "exits_quietly": "raise SystemExit",
    "fails": "raise RuntimeError('two\\nlines')",
    "fails_badly": "raise BaseException('no ordinary error')",
    "cannot_say_why": "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
    "goes_deep": "def f(): f()\nf()",
    "is_no_python": "def (",
    "is_not_utf8": "# \\xff",
    "has_names": "import sys\nEnv = 3\nclass Plain: pass\nclass Exits:\n    def __init__(self): sys.exit(1)\n",
    "asks": (
        "import sys, gymnasium as gym\nclass Env(gym.Env):\n    def __init__(self): sys.exit(1)\n"
        "    def sample_tasks(self, n, rng): return []\n    def set_task(self, task): pass\n"
    ),
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of users, most of which cannot be imported."""
    for name, text in MODULES.items():
        (tmp_path / f"user_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in MODULES:
        sys.modules.pop(f"user_{name}", None)


PLACES = [f"user_{module}:{name}" for module in MODULES for name in ("Env", "Plain", "Exits", "", "__doc__")]
STRANGE = [
    "..:Env",
    ".:x",
    "a..b:Env",
    ":",
    "::",
    "a:b:c",
    "json:loads.x",
    "a b:c d",
    "\0:\0",
    "\ud800:x",
    "os:.",
    "é:é",
]
STRANGE += ["x" * 10_000, "x" * 10_000 + ":Env", "json:" + "y" * 10_000]


@pytest.mark.parametrize("place", [*PLACES, *STRANGE])
def test_a_place_of_no_environment_is_refused(place: str, modules: None) -> None:
    assert refusal(ConfigError, lambda: build_config({"env": place})).startswith("env")


@settings(FUZZ, max_examples=100)
@given(st.one_of(TEXTS, st.tuples(TEXTS, TEXTS).map(":".join), st.tuples(st.just("json"), TEXTS).map(":".join)))
def test_any_name_of_an_environment_is_refused(name: str) -> None:
    assert refusal(ConfigError, lambda: build_config({"env": name})).startswith("env: ")


CLASSES = {family.location: name for name, family in FAMILIES.items()}
PAIRS = st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3)
WORDS = st.sampled_from(
    ["draw", "round_robin", "dense", "sparse", "direction", "velocity", "location", "l1", "l2", "ant"]
)


def arguments(name: str) -> list[str]:
    """What a family's constructor takes."""
    text = refusal(ConfigError, lambda: build_config({"env": name, "env_kwargs": {"no_such": 1}}))
    known = text.partition(" takes ")[2].partition(", got 'no_such'")[0]
    return [] if known == "no arguments" else known.split(", ")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CLASSES.values())
@settings(FUZZ, max_examples=20)
@given(data=st.data())
def test_arguments_of_a_family_are_usable_or_refused(name: str, data: st.DataObject) -> None:
    values = st.one_of(NUMBERS, PAIRS, WORDS, PAIRS.map(lambda pairs: (pairs or [[]])[0]), ANYTHING)
    given = data.draw(st.dictionaries(st.sampled_from([*arguments(name), "no_such"]), values, min_size=1, max_size=2))
    text = refusal(ConfigError, lambda: build_config({"env": name, "env_kwargs": given}))
    if text:
        assert text.startswith(("env_kwargs: ", "normalization_scale: ", "learn_std: "))
        return
    with no_hang(), closing(make_family(name, 2, 1, **given)) as block:
        block.reset(seed=0)
        observations, rewards, *_ = block.step(block.action_space.sample())
        for split in block.splits:
            block.sample_tasks(3, np.random.default_rng(0), split)
        assert np.isfinite(observations).all() and np.isfinite(rewards).all()


# What is accepted can be run.


def test_a_run_that_cannot_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("meta_batch_size", "rollouts_per_meta_task", "max_path_length", "num_train_tasks"):
        text = refusal(ConfigError, lambda name=name: build_config({name: 2**62}))
        assert name in text.split(":")[0] and "; lower " in text
    for values in (
        {"hidden_sizes": [2**30, 2**30]},
        {"hidden_sizes": [2**20] * 3},
        {"cell_size": 2**31},
        {"algorithm": "cavia", "context_size": 2**60},
        {"eval_interval": 1, "eval_num_tasks": 2**50},
        {"te_save_path": "x.npz", "num_embeddings": 2**50},
    ):
        text = refusal(ConfigError, lambda values=values: build_config(values))
        assert list(values)[-1] in text.split(":")[0]
    assert build_config({"eval_num_tasks": 2**50, "num_embeddings": 2**50}), "neither is done"
    assert build_config({"max_path_length": 2**62}, trains=False), "a run that is only looked at needs no memory"


def test_what_fits_depends_on_the_memory_of_all_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    config = build_config({})
    assert config.env_spec is not None
    need = max(need.bytes for need in memory_check.training(config, config.env_spec))
    monkeypatch.setattr(memory_check, "CGROUP_LIMITS", (tmp_path / "no such file", tmp_path / "limit"))
    (tmp_path / "limit").write_text(f"{need}\n")
    build_config({})
    (tmp_path / "limit").write_text(f"{need - 1}\n")
    assert "40 tasks × 20 rollouts each × 100 time steps × 2 coll" in refusal(ConfigError, lambda: build_config({}))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    build_config({})
    monkeypatch.delenv("SLURM_JOB_NUM_NODES")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    build_config({})


def test_the_least_estimate_of_memory_is_below_what_a_run_takes() -> None:
    """Of the rollouts, by the size of the arrays that hold them."""
    worker, _, _ = sampled(small_config("promp"))
    assert worker.block is not None
    held = sum(value.nbytes for data in worker.block.rollouts for value in data.fields().values())
    need = memory_check.rollouts(worker.config, 4, 2, worker.spec, memory_check.ROLLOUT_KEYS).bytes
    assert 0.8 * held < need - 4 * memory_check.TASK_BYTES <= held


@pytest.mark.parametrize("algorithm", [name for name in sorted(ALGORITHMS) if declaration_of(name).weights])
def test_an_algorithm_trains_at_least_as_many_numbers_as_are_counted(algorithm: str) -> None:
    """And as many keys are named as have an effect."""
    for key in (None, *declaration_of(algorithm).weights):
        config = small_config(algorithm, **({} if key is None else {key: 300}))
        worker = Worker(config)
        (need,) = [need for need in memory_check.training(config, worker.spec) if "weights" in need.what]
        assert need.bytes <= 16 * worker.algorithm.spec.total and not idle_keys(config, need.keys)


def test_what_a_trust_region_holds_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what torch has allocated, and not freed, once the products with the Fisher matrix are prepared."""
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    values = {"meta_update": "trpo", "hidden_sizes": [100, 80], "max_path_length": 400}
    worker, parameters, _ = sampled(small_config("maml", **values))
    assert worker.block is not None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        prepared = worker.algorithm.prepared("fisher_product", parameters, worker.block.rollouts)
    assert prepared is not None
    held = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    (need,) = [need for need in memory_check.training(worker.config, worker.spec) if "trust region" in need.what]
    assert 0.5 * held <= need.bytes <= held, "without the kernel, slopes are held too"


def test_a_rank_holds_what_is_prepared_for_its_tasks_up_to_a_number_of_steps() -> None:
    assert tasks_held(40, 2_000) == 40 and tasks_held(400, 2_000) == KEPT_STEPS // 2_000
    assert tasks_held(3, 10 * KEPT_STEPS) == 1, "a task at a time"
    config = build_config({"algorithm": "maml", "meta_batch_size": 1_000})
    assert config.env_spec is not None
    need = memory_check.training(config, config.env_spec)
    (numbers,) = [need.what for need in need if "trust region" in need.what]
    assert f"of each of {KEPT_STEPS} steps" in numbers


@pytest.mark.parametrize("algorithm", ["rl2", "snail", "varibad", "mgrl", "epn"])
@pytest.mark.parametrize(
    "values",
    [{"cell_size": 2**31}, {"memory_embedding_size": 2**31}, {"filters": 2**31}, {"rollouts_per_meta_task": 2**40}],
)
def test_what_is_said_of_memory_names_no_key_that_has_no_effect(algorithm: str, values: dict[str, int]) -> None:
    wanted = {"algorithm": algorithm, "env": "GridNavi", "discount": 0.95, **values}
    config = read_config(wanted)
    (name,) = values
    if name in idle_keys(config, wanted):
        assert build_config(wanted)
        return
    named = refusal(ConfigError, lambda: build_config(wanted)).split(":")[0].split(", ")
    assert name in named and not {*named} & {*idle_keys(config, config.to_dict())}


LENGTHS = ["max_path_length", "episodes_per_trial"]


@pytest.mark.parametrize(
    ("algorithm", "remembered", "own", "keys"),
    [("snail", 45, {}, LENGTHS), ("epn", 45, {}, LENGTHS), ("epn", 10, {"memory_length": 10}, ["memory_length"])],
)
def test_what_attention_holds_is_counted(algorithm: str, remembered: int, own: dict[str, int], keys: list[str]) -> None:
    """By the largest tensor that there is while a task's trials are computed, of those of all remembered steps."""
    values = {"env": "GridNavi", "max_path_length": 9, "episodes_per_trial": 5, "rollouts_per_meta_task": 3} | own
    worker, parameters, _ = sampled(small_config(algorithm, **values, meta_batch_size=1))
    assert worker.block is not None and isinstance(worker.algorithm, TrialPPO)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-2:] == (remembered, remembered) and out.is_floating_point():
                largest = max(largest, out.nbytes)
            return out

    with Watch(), torch.no_grad():
        worker.algorithm.outputs(worker.algorithm.spec.per_task(parameters, 1), worker.block.rollouts[0])
    needs = {tuple(need.keys): need.bytes for need in memory_check.training(worker.config, worker.spec)}
    assert needs["rollouts_per_meta_task", *keys] == largest == 4 * 3 * remembered**2
    too_long = {**worker.config.to_dict(), "rollouts_per_meta_task": 2, "max_path_length": 10**5}
    if own:
        assert build_config(too_long), "the memory does not grow with the trial"
        too_long["memory_length"] = 10**6
    with pytest.raises(ConfigError, match=f"^rollouts_per_meta_task, {', '.join(keys)}: needs"):
        build_config(too_long)


WIDE = {"env": "tests.helpers.probes:Wide", "meta_batch_size": 2, "env_kwargs": {"size": 21_168}}


def test_wide_observations_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the rollouts, in the weights, and in the fit of a linear baseline on every rank."""
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    monkeypatch.setattr(memory_check, "CGROUP_LIMITS", (tmp_path / "limit",))

    def refused(gib: float, **values: Any) -> str:
        (tmp_path / "limit").write_text(f"{int(gib * memory_check.GIB)}\n")
        return refusal(ConfigError, lambda: build_config({**WIDE, **values}))

    assert "2 tasks × 20 rollouts each × 100 time steps × 2 coll" in refused(0.5)
    text = refused(1.0)  # 2 tasks take 0.63 GiB; 2 x 2,000 x 42,340 and 2 x 2,000² numbers of 8 bytes take 1.32
    assert "needs at least 1.32 GiB (LinearFeatureBaseline of 2000 steps × 42340 features, on 1 rank)" in text
    assert text.startswith("rollouts_per_meta_task, max_path_length, episodes_per_trial: ")
    assert text.endswith('; lower one of them, or take another "baseline"')
    assert build_config({**WIDE, "baseline": "LinearTimeBaseline"})
    assert build_config({**WIDE, "algorithm": "rllib_maml"}), "which has no such baseline"
    (tmp_path / "limit").write_text(f"{2 * memory_check.GIB}\n")
    assert build_config(WIDE)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4")
    assert "needs at least 2.64 GiB" in refused(2.0), "of two ranks, as there are two tasks"
    small = {"meta_batch_size": 1, "rollouts_per_meta_task": 2, "max_path_length": 2, "hidden_sizes": [10_000]}
    assert "weights with gradients and moments" in refused(1.0, **small)
