"""The start of a run refuses what is cheap to find, and warns of results that do not repeat."""

from __future__ import annotations

import inspect
import random
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.cli import main
from mmaml.config.loading import build_config
from mmaml.envs.base import Task
from mmaml.envs.check.comparison import same
from mmaml.envs.registry import FAMILIES, check_family
from mmaml.envs.spec import NO_WARNINGS
from mmaml.errors import ConfigError
from tests.helpers.faulty_envs import PROBES, Sound, SoundBlock, place
from tests.helpers.support import SMALL, small_config
from tests.helpers.support import run as run_small

HERE = __name__


@pytest.mark.parametrize(
    ("probe", "problem"),
    [
        (probe, PROBES[probe].found[0][1:])
        for probe in (
            "NoRng", "SetTaskOfTwo", "StepOfNothing", "NoSeed", "BareObservation",
            "FourValues", "WrongShape", "Text", "NoReward", "ListedEnd", "EndOfAll", "NoCut", "NoInfo",
            "SuccessOfText", "Everything",
        )
    ],
)  # fmt: skip
def test_a_run_is_refused_for_the_first_of_the_faults_that_are_cheap_to_find(probe: str, problem: str) -> None:
    name = place(probe)
    with pytest.raises(ConfigError) as caught:
        build_config(SMALL | {"env": name})
    assert caught.value.argument == "env"
    assert str(caught.value).startswith(f"env: {probe}{problem}")
    assert str(caught.value).endswith(f"; `mmaml check-env {name}` lists all that is wrong")


@pytest.mark.parametrize("probe", ["BlockOfHalves", "BlockOfDoubleRewards", "BlockOfFourValues", "BlockWithoutInfos"])
def test_a_family_of_arrays_is_refused_too(probe: str) -> None:
    method, _, problem = PROBES[probe].found[0][1:].partition(": ")
    with pytest.raises(ConfigError) as caught:
        build_config(SMALL | {"env": place(probe)})
    assert str(caught.value).startswith(f"env: {probe}{method}: {problem.split(', got')[0].replace('(6', '(1')}")


@pytest.mark.parametrize("probe", ["Raises", "Exits", "NotANumber", "Prints", "Doubles", "CannotClose", "DropsSeed"])
def test_what_may_pass_or_costs_only_a_task_is_left_to_the_run(probe: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_family(place(probe), {}, trains=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("probe", ["Sound", "SoundBlock", "Doubles", "PopsTask", "MovesTask", "Raises", "Exits"])
def test_results_that_repeat_are_not_warned_of(probe: str) -> None:
    assert check_family(place(probe), {}, trains=True).warnings == NO_WARNINGS


@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_of_the_toolkit_is_warned_of(name: str) -> None:
    assert check_family(name, {}, trains=True).warnings == NO_WARNINGS


class LargeRewards(Sound):
    """A reward of -2000 in the fifth step of an episode."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, -2000.0 if self.age == 5 else reward, *rest


@pytest.mark.parametrize(
    ("algorithm", "values", "warns"),
    [
        ("maml", {}, False),
        ("mmaml", {}, True),
        ("tesp", {}, True),
        ("rl2", {}, True),
        ("rl2", {"normalize_rewards": True}, True),
        ("varibad", {}, True),
        ("varibad", {"vae_normalize_rewards": True}, False),
    ],
)
def test_a_run_warns_of_rewards_that_its_policy_cannot_read(
    algorithm: str, values: dict[str, Any], warns: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = f"{HERE}:LargeRewards"
    run_small(small_config(algorithm, env=env, n_itr=2, dump_path=str(tmp_path / "run"), **values))
    warned = [line for line in capsys.readouterr().err.splitlines() if "reward" in line]
    expected = f"warning: env: '{env}' reward: is as large as 2000, which saturates a network that reads it; rescale it"
    assert warned == [f"{expected} within the class"] * warns


@pytest.mark.parametrize(
    ("probe", "always", "unless_normalised"),
    [
        ("Sound", "", ""),
        ("Clock", "", "entry 1 changes by 0.02 about 1.7e+09, which float32 cannot hold"),
        ("CoarseClock", "entry 1 is 1.7e+09 in float32, whose numbers are 128 apart there", ""),
        ("Pixels", "", "is of whole numbers from 0 to 255, which saturate a network"),
        ("Millimetres", "", "entry 0 is as large as 2000, which saturates a network"),
    ],
)
def test_a_run_warns_once_of_observations_that_a_network_cannot_use(
    probe: str, always: str, unless_normalised: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line with the remedy, which silences it, but for what was lost before it came."""
    for name, normalises, expected in (("plain", False, always or unless_normalised), ("normalised", True, always)):
        env = {"env": place(probe), "n_itr": 1, "dump_path": str(tmp_path / name)}
        run_small(small_config("maml", **env, normalize_observations=normalises))
        warned = [line for line in capsys.readouterr().err.splitlines() if "observation" in line]
        begins = f"warning: env: '{place(probe)}' observation: {expected}"
        assert [line[: len(begins)] for line in warned] == ([begins] if expected else [])
        assert all('"normalize_observations": true' in line for line in warned)


@pytest.mark.parametrize(
    ("env", "warning"),
    [
        (
            place("DropsSeed"),
            "gives other results for the same task, seed and actions: observation of the reset differs; draw all that "
            "is random from self.np_random, which super().reset(seed=seed) seeds",
        ),
        (
            f"{HERE}:RandomStart",
            "gives other results for the same task, seed and actions: observation of the reset differs; draw all that "
            "is random from self.np_random, which super().reset(seed=seed) seeds",
        ),
        (
            f"{HERE}:RandomStep",
            "gives other results for the same task, seed and actions: reward of step 0 differs; draw all that is "
            "random from self.np_random, which super().reset(seed=seed) seeds",
        ),
        (
            place("BlockOfOwnRandomness"),
            "gives other results for the same task, seed and actions: observation of the reset differs; draw all that "
            "is random from the generator of _reset_lanes, or from self.task_generators",
        ),
        (
            place("GlobalNumpy"),
            "draws from or seeds the global generator of np.random, which all lanes share; draw from self.np_random, "
            "which is seeded",
        ),
        (
            place("GlobalTorch"),
            "draws from or seeds the global generator of torch, which all lanes share; draw from self.np_random, "
            "which is seeded",
        ),
    ],
)
def test_what_would_not_be_the_same_again_is_warned_of_in_a_line(env: str, warning: str) -> None:
    before = np.random.get_state(legacy=False), random.getstate(), torch.get_rng_state()
    assert check_family(env, {}, trains=True).warnings.always == (f"env: '{env}' {warning}",)
    assert same(before, (np.random.get_state(legacy=False), random.getstate(), torch.get_rng_state()))
    assert check_family(env, {}).warnings == NO_WARNINGS  # only looked at


class RandomStart(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position = np.random.uniform()
        return self.observe(), {}


class RandomStep(Sound):
    def step(self, action: np.ndarray) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward + np.random.normal(), *rest


def test_a_run_reports_it_once_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_small(small_config("promp", env=f"{HERE}:RandomStep", dump_path=str(tmp_path / "run")))
    lines = (tmp_path / "run/messages.log").read_text().splitlines()
    assert len(lines) == 1 and "gives other results for the same task, seed and actions" in lines[0]
    assert capsys.readouterr().err.count("gives other results") == 1


def test_the_line_at_the_start_names_a_command_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_family(f"{HERE}:Configured", {"text": "it's", "number": 3}, trains=True)
    command = re.search("`(.*)`", str(caught.value))
    assert command is not None
    assert main.main(shlex.split(command[1])[1:]) == 2
    assert 'error: Configured.step: reward: expected a number, got "it\'s"' in capsys.readouterr().out


class Configured(Sound):
    def __init__(self, text: str, number: int) -> None:
        super().__init__()
        self.text = text

    def step(self, action: np.ndarray) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.text, *rest


@pytest.mark.parametrize(
    ("probe", "warning"),
    [
        (
            "DrawsGlobally",
            "DrawsGlobally.sample_tasks: gives other tasks for an equal generator; draw from the generator that it "
            "receives, and from nothing else",
        ),
        (
            "SeedsGlobally",
            "SeedsGlobally.sample_tasks: draws from or seeds the global generator of np.random, which all lanes share; "
            "draw from the argument rng",
        ),
        (
            "BuiltGlobally",
            "BuiltGlobally(): draws from or seeds the global generator of np.random, which all lanes share; draw in "
            "reset, from self.np_random, which is seeded there",
        ),
        (
            "BuiltAtRandom",
            "gives other results for the same task, seed and actions: reward of step 0 differs; draw all that is "
            "random from self.np_random, which super().reset(seed=seed) seeds",
        ),
        (
            "CentredAtRandom",
            "CentredAtRandom.sample_tasks: of another object gives other tasks for an equal generator; draw nothing "
            "that tasks depend on in __init__: every rank has objects of its own",
        ),
        (
            "BlockThatDrawsGlobally",
            "BlockThatDrawsGlobally.sample_tasks: gives other tasks for an equal generator; draw from the generator "
            "that it receives, and from nothing else",
        ),
        (
            "NamesNoGenerator",
            "NamesNoGenerator.sample_tasks: gets the generator as its parameter 'source', the second one without a "
            'default; call that one "rng", or give it a default',
        ),
    ],
)
def test_so_is_randomness_in_tasks_and_in_what_is_built(probe: str, warning: str) -> None:
    assert check_family(f"{HERE}:{probe}", {}, trains=True).warnings.always == (f"env: '{HERE}:{probe}' {warning}",)


class DrawsGlobally(Sound):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": goal} for goal in np.random.normal(size=n)]


class SeedsGlobally(Sound):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        np.random.seed(3)
        return [{"goal": goal} for goal in np.random.normal(size=n)]


class BuiltGlobally(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.unused = np.random.normal()


class BuiltAtRandom(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.offset = np.random.default_rng().normal()

    def step(self, action: np.ndarray) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward + self.offset, *rest


class CentredAtRandom(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.centre = np.random.default_rng().normal()

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return [{"goal": self.centre + goal} for goal in rng.normal(size=n)]


class BlockThatDrawsGlobally(SoundBlock):
    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(0, {"goal": goal}) for goal in np.random.uniform(-1, 1, n)]


class NamesNoGenerator(Sound):
    def sample_tasks(self, n: int, source: np.random.Generator) -> Any:  # type: ignore[override]
        return super().sample_tasks(n, source)


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("num_modes", "two", "a whole number of at least 1, got 'two'"),
        ("num_modes", 0, "a whole number of at least 1, got 0"),
        ("tasks_per_mode", 0, "a whole number of at least 1, or None, got 0"),
        ("tasks_per_mode", True, "a whole number of at least 1, or None, got True"),
        ("splits", "train", "some of ('train', 'test', 'ood'), in a tuple, got 'train'"),
        (
            "splits",
            ("train", "validation"),
            "some of ('train', 'test', 'ood'), in a tuple, got ('train', 'validation')",
        ),
        ("splits", 3, "some of ('train', 'test', 'ood'), in a tuple, got 3"),
        ("finite_horizon", 1, "True or False, got 1"),
        ("normalization_scale", "large", "a number above 0 or None, got 'large'"),
        ("normalization_scale", -1.0, "a number above 0 or None, got -1.0"),
    ],
)
@pytest.mark.parametrize("kind", ["Attributes", "BlockAttributes"])
@pytest.mark.parametrize("trains", [True, False])
def test_attributes_that_training_cannot_take_are_one_line(
    kind: str, attribute: str, value: Any, expected: str, trains: bool
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_family(f"{HERE}:{kind}", {"attribute": attribute, "value": value}, trains=trains)
    assert str(caught.value) == f"env: {kind}.{attribute}: expected {expected}; correct it in the class"


def test_a_scale_of_the_environment_that_is_not_used_may_be_anything() -> None:
    arguments = {"attribute": "normalization_scale", "value": "large"}
    assert check_family(f"{HERE}:Attributes", arguments, 2.0, trains=True).warnings == NO_WARNINGS


class Attributes(Sound):
    def __init__(self, attribute: str, value: Any) -> None:
        super().__init__()
        setattr(self, attribute, value)


class BlockAttributes(SoundBlock):
    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, attribute: str, value: Any) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        setattr(self, attribute, value)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("raises", "FailsToDraw.sample_tasks: raises KeyError: 'goals'"),
        ("exits", "FailsToDraw.sample_tasks: calls sys.exit(3); raise an error instead"),
        (
            "none",
            "FailsToDraw.sample_tasks: expected 1 tasks, got 0; return a list of n tasks",
        ),
    ],
)
def test_a_run_that_could_draw_no_task_does_not_begin(fault: str, line: str) -> None:
    name = f"{HERE}:FailsToDraw"
    with pytest.raises(ConfigError) as caught:
        check_family(name, {"fault": fault}, trains=True)
    assert str(caught.value).startswith(f"env: {line}; `mmaml check-env {name} --env_kwargs ")
    check_family(name, {"fault": fault})  # only looked at


class FailsToDraw(Sound):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        if self.fault == "raises":
            raise KeyError("goals")
        if self.fault == "exits":
            sys.exit(3)
        return []


def test_the_start_costs_three_tasks_two_resets_and_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for method in ("sample_tasks", "set_task", "reset", "step"):
        original = getattr(Sound, method)

        def counted(self: Any, *arguments: Any, method: str = method, original: Any = original, **named: Any) -> Any:
            calls.append(method)
            return original(self, *arguments, **named)

        counted.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        monkeypatch.setattr(Sound, method, counted)
    check_family(place("Sound"), {}, trains=True)
    assert calls == ["sample_tasks", "sample_tasks", "set_task", "reset", "step"] + [
        "sample_tasks",
        "set_task",
        "reset",
        "step",
    ]  # of one object, and of another
