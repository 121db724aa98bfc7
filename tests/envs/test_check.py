"""The examination of environments: each fault is found by its line, and nothing else; what is right passes."""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.cli import check_env, main
from mmaml.config.loading import build_config
from mmaml.envs.base import Task
from mmaml.envs.check.comparison import copied, same
from mmaml.envs.check.examination import Report, examine
from mmaml.envs.registry import FAMILIES, check_family, make_family
from mmaml.errors import ConfigError
from tests.helpers import faulty_envs
from tests.helpers.support import SMALL, small_config
from tests.helpers.support import run as run_small

PROBES = "tests.helpers.faulty_envs"
HERE = __name__
PLAYS = {"steps": 16, "tasks": 3}
OBSERVED = "expected a float32 or float64 array of shape (6, 2)"

# By probe: how the lines of its findings begin, "e" for an error and "w" for a warning, its name left out.
LANES: dict[str, list[str]] = {
    "Sound": [],
    "NoRng": [
        "e.sample_tasks: expected sample_tasks(n, rng) or sample_tasks(n, rng, split), got sample_tasks(num_tasks)",
        "w.sample_tasks: gives the same tasks for a different generator",
    ],
    "KeywordRng": [],
    "OtherOrder": [],
    "RngFirst": [],
    "SetTaskOfTwo": ["e.set_task: expected set_task(task), got set_task(task, mode)"],
    "StepOfNothing": ["e.step: expected step(action), got step()"],
    "NoSeed": ["e.reset: expected reset(*, seed=None, options=None), got reset()"],
    "NoOptions": ["w.reset: expected reset(*, seed=None, options=None), got reset(seed=None)"],
    "BareObservation": ["e.reset: expected (observation, info), got a float32 array of shape (2,); return what Gymn"],
    "FourValues": [
        "e.step: expected five values (observation, reward, terminated, truncated, info), got 4 values, as in"
    ],
    "DictObservations": ["e.observation_space: expected a Box of numbers in one dimension, got Dict("],
    "Image": [
        "e.observation_space: expected a Box of numbers in one dimension, got Box(0, 255, (2, 3), uint8); flatten"
    ],
    "BoolObservations": [
        "e.observation_space: expected a Box of numbers in one dimension, got Box(False, True, (2,), bool); make it"
    ],
    "ManyActions": [
        "e.action_space: expected a Box of numbers in one dimension, or Discrete, got MultiDiscrete([2 2])"
    ],
    "WholeActions": [],
    "AlmostUnbounded": [],
    "ScaleWithoutBounds": ["e.normalization_scale: expected None for an environment with unbounded actions, got 1.0"],
    "NoSpaces": [
        "e.observation_space: expected a Box of numbers in one dimension, got None; set it",
        "e.action_space: expected a Box of numbers in one dimension, or Discrete, got None; set it",
    ],
    "LateModes": [],
    "TextHorizon": ["e.finite_horizon: expected True or False, got 'no'"],
    "NoModes": ["e.num_modes: expected a whole number of at least 1, got 0"],
    "TextSplits": ["e.splits: expected some of ('train', 'test', 'ood'), in a tuple, got 'train'"],
    "OtherSplits": ["e.splits: expected some of ('train', 'test', 'ood'), in a tuple, got ('train', 'validation')"],
    "OnlyTest": ["e.splits: expected \"train\" among them, got ('test',)"],
    "OnlyTrain": ['w.splits: has no "test"'],
    "WrongShape": [
        "e.reset: observation: expected shape (2,), as its space says, got shape (3,)",
        "e.step: observation: expected shape (2,), as its space says, got shape (3,)",
    ],
    "Doubles": [
        "w.reset: observation: expected a float32 array, as its space says, got float64",
        "w.step: observation: expected a float32 array, as its space says, got float64",
    ],
    "Lists": [
        "w.reset: observation: expected a float32 array, as its space says, got a list",
        "w.step: observation: expected a float32 array, as its space says, got a list",
    ],
    "Text": [
        "e.reset: observation: expected an array of numbers, got 'here'",
        "e.step: observation: expected an array of numbers, got 'here'",
    ],
    "Outside": [
        "w.reset: observation: expected entry 0 from -100 to 100, as its space says, got ",
        "w.step: observation: expected entry 0 from -100 to 100, as its space says, got ",
    ],
    "Clock": [
        "w: observation: entry 1 changes by 0.24 about 1.7e+09, which float32 cannot hold; set "
        '"normalize_observations": true, or subtract a constant'
    ],
    "CoarseClock": [
        "w: observation: entry 1 is 1.7e+09 in float32, whose numbers are 128 apart there; return float64 and set "
        '"normalize_observations": true, or subtract a constant'
    ],
    "Pixels": [
        "w: observation: is of whole numbers from 0 to 255, which saturate a network; set "
        '"normalize_observations": true, or rescale them within the class'
    ],
    "Millimetres": ["w: observation: entry 0 is as large as 200"],
    "NotANumber": ["e.step: observation: expected finite numbers, got nan"],
    "InfiniteReward": ["e.step: reward: expected finite numbers, got inf"],
    "ListedReward": [],
    "NoReward": ["e.step: reward: expected a number, got None"],
    "ListedEnd": ["e.step: terminated: expected true or false, got [False]"],
    "EndOfAll": ["e.step: terminated: expected true or false, got {'__all__': False}"],
    "NoCut": ["e.step: truncated: expected true or false, got None"],
    "NoInfo": ["e.step: info: expected a dict, got None"],
    "TermOfText": ["w.step: info['reward_type']: expected a number, a term of the reward, got 'dense'"],
    "TermOfTwo": ["w.step: info['reward_pair']: expected a number, a term of the reward, got a float64 array of shape"],
    "MissingTerm": ["w.step: info['reward_…']: expected terms that sum to the reward, got 1 for "],
    "RareTerm": ["w.step: info['reward_all']: expected at every step, got at 24 of 48 steps"],
    "SuccessOfText": ["e.step: info['success']: expected true or false, got 'no'"],
    "LateSuccess": ["e.step: info['success']: expected at every step or at none, got at 3 of 48 steps"],
    "OtherSuccess": [],
    "BlowUp": ["w.step: info['blow_up']: is read from a TaskVectorEnv alone"],
    "DropsSeed": ["w: gives other results for the same task, seed and actions: observation of the reset differs"],
    "GlobalNumpy": ["w.reset: draws from or seeds the global generator of np.random"],
    "GlobalPython": ["w.reset: draws from or seeds the global generator of random"],
    "GlobalTorch": ["w.reset: draws from or seeds the global generator of torch"],
    "KeepsFirstTask": ["e.set_task: has no effect but the first time"],
    "LeavesFriction": ["e.set_task and reset: leave something of the task before: reward of step 0 differs"],
    "SharedGoal": [
        "e: depends on other objects of its class that are stepped at the same time: reward of step 0 differs"
    ],
    "IgnoresTask": ["w.set_task: makes no difference in 16 steps"],
    "PopsTask": ["w.set_task: expected the task left as it was given, got {'goal': "],
    "MovesTask": ["w.step: expected the task left as it was given, got {'goal': array("],
    "OwnRandomness": ["e.sample_tasks: gives other tasks for an equal generator; draw from"],
    "RandomObject": ["e.sample_tasks: of another object gives other tasks for an equal generator"],
    "FixedTasks": ["w.sample_tasks: gives the same tasks for a different generator"],
    "FewTasks": ['e.sample_tasks: expected n tasks, got 2 for n = 3 and the split "train"'],
    "CountsDraws": ['e.sample_tasks: gives other tasks for an equal generator once tasks of the split "test" were dr'],
    "ReusesTasks": ["e.sample_tasks: changes tasks that it returned before"],
    "Functions": ["e.sample_tasks: returns tasks that cannot be pickled ("],
    "NamedMode": ["e.sample_tasks: expected a task's mode to be a whole number from 0, got 'left'"],
    "ManyModes": ["w.sample_tasks: expected modes from 0 to 1, as num_modes = 2 says, got 5"],
    "CannotBuild": ["e(): raises FileNotFoundError: no model"],
    "Raises": ["e.step: raises ZeroDivisionError: as asked"],
    "Exits": ["e.reset: calls sys.exit('as asked')"],
    "Prints": ["w.step: expected nothing on the terminal, got 'a step of'"],
    "ChangesDirectory": ["w.reset: changes the working directory (os.chdir): from "],
    "StrictNumpy": ["w.reset: changes NumPy's treatment of floating-point errors (np.seterr)"],
    "DoubleTorch": [
        "w(): changes torch's default dtype (torch.set_default_dtype): from torch.float32 to torch.float64"
    ],
    "NoGradients": ["w(): changes whether torch records gradients (torch.set_grad_enabled): from True to False"],
    "ManyThreads": ["w(): changes torch's number of threads (torch.set_num_threads): from "],
    "TakesSignal": ["w.set_task: changes what signals do (signal.signal)"],
    "CannotClose": ["w.close: raises RuntimeError: as asked"],
    "Everything": [
        "e.sample_tasks: expected sample_tasks(n, rng) or",
        "e.reset: expected reset(*, seed=None, options=None), got reset()",
        "e.reset: expected (observation, info), got a float32 array of shape (2,)",
        "e.step: expected five values",
        "w.sample_tasks: gives the same tasks for a different generator",
        "w.set_task: expected the task left as it was given, got {'goal': 0.0} changed to {}",
    ],
}
BLOCKS: dict[str, list[str]] = {
    "SoundBlock": [],
    "BlockOfDoubles": [],
    "BlockOfHalves": [
        f"e.reset: observations: {OBSERVED}, got a float16 array of shape (6, 2)",
        f"e.step: observations: {OBSERVED}, got a float16 array of shape (6, 2)",
    ],
    "BlockOfOneShape": [
        f"e.reset: observations: {OBSERVED}, got a float32 array of shape (6, 1)",
        f"e.step: observations: {OBSERVED}, got a float32 array of shape (6, 1)",
    ],
    "BlockOfDoubleRewards": [
        "e.step: rewards: expected a float32 array of shape (6,), got a float64 array of shape (6,"
    ],
    "BlockOfListedEnds": ["e.step: terminated: expected a bool array of shape (6,), got ["],
    "BlockOfFourValues": [
        "e.step: expected five values (observation, reward, terminated, truncated, info), each of all"
    ],
    "BlockWithoutInfos": ["e.step: infos: expected a dict, got None"],
    "BlockOfSuccessRates": ["e.step: infos['success']: expected a bool array of shape (6,), got a float64 array"],
    "BlockOfOneTerm": ["w.step: infos['reward_mean']: expected an array of numbers of shape (6,), got np.float32("],
    "BlockOfMissingTerms": ["w.step: info['reward_…']: expected terms that sum to the reward, got 1 for -"],
    "BlockOfInfiniteRewards": ["e.step: reward: expected finite numbers, got -inf"],
    "BlockOfOneArray": ["w.reset: returns an array (observation) that a later call changes"],
    "BlockThatListens": [
        "w: returns arrays that it goes on using: observation of step 1 differs once they are written ov"
    ],
    "BlockReadOnly": ["w.reset: returns an array (observation) that cannot be written to"],
    "BlockOfChangedActions": ["w.step: changes the array of actions that it was given"],
    "BlockOfFreeActions": ["w.step: does not clip actions to their bounds: observation of "],
    "BlockOfOneGenerator": ["e: depends on the other tasks of the block: observation of the reset"],
    "BlockThatResetsAll": ['e.reset: changes lanes that are not in options["reset_mask"]'],
    "BlockOfOwnRandomness": ["w: gives other results for the same task, seed and actions: observation of the reset"],
    "BlockOfChangedTasks": ["w.set_tasks: expected the task left as it was given, got Task("],
    "BlockOfResets": ["e.metadata['autoreset_mode']: expected AutoresetMode.DISABLED, got AutoresetMode.NEXT_STEP"],
    "BlockWithoutBase": ["e.num_envs: expected num_tasks × rollouts_per_task, got None for 3 × 2"],
    "BlockOfFewTasks": ["e.sample_tasks: raises ValueError: BlockOfFewTasks._draw_tasks: expected 3 tasks, got 1"],
    "BlockWithoutObserve": [
        f"e.{method}: is missing" for method in ("_draw_tasks", "_set_tasks", "_reset_lanes", "_observe", "step")
    ],
}
BASES = {"Steps", "BlockSteps"}


def lines(report: Report) -> list[str]:
    return [f"{finding.level} {finding}" for finding in report.findings]


@pytest.mark.parametrize("probe", [*LANES, *BLOCKS])
def test_each_fault_is_found_and_nothing_else(probe: str) -> None:
    expected = (LANES | BLOCKS)[probe]
    report = examine(f"{PROBES}:{probe}", **PLAYS)
    found = lines(report)
    assert len(found) == len(expected), found
    for line, (level, *rest) in zip(found, expected, strict=True):
        start = f"{'error' if level == 'e' else 'warning'} {probe}{''.join(rest)}"
        assert line.startswith(start), line
        assert "\n" not in line
    assert report.passed == (not any(line.startswith("e") for line in expected))


def test_every_probe_is_examined() -> None:
    probes = {name for name, value in vars(faulty_envs).items() if getattr(value, "__module__", "") == PROBES}
    assert probes - BASES == LANES.keys() | BLOCKS.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes(name: str) -> None:
    rare = {"DiscountingChain": 100, "GridNavi": 40, "KrazyWorld": 40, "SparsePointRobot": 100}  # rewards
    steps = 12 if name.startswith("MetaPoint") else rare.get(name, 4)
    assert lines(examine(name, steps=steps, tasks=3)) == []


@pytest.mark.parametrize("name", ["MetaPointEnvMomentumModes", f"{PROBES}:Sound", f"{PROBES}:SoundBlock"])
def test_what_was_seen_is_reported(name: str) -> None:
    facts, family = examine(name, **PLAYS).facts, make_family(name)
    assert facts["observations"] == str(family.single_observation_space)
    assert facts["actions"] == str(family.single_action_space)
    assert facts["splits"] == ", ".join(family.splits)
    assert facts["modes"] == str(family.num_modes)
    assert facts["tasks"].startswith("3 drawn, the first: ")


def test_rewards_and_episodes_are_reported() -> None:
    assert examine(f"{PROBES}:Sound", **PLAYS).facts["episodes"] == "3 ended, after 12 to 12 steps"
    facts = examine(f"{PROBES}:Sound", steps=5, tasks=3).facts
    assert facts["episodes"] == "none ended within 5 steps; max_path_length ends them"
    low, high = map(float, re.fullmatch(r"(\S+) to (\S+) a step", facts["rewards"]).groups())  # type: ignore[union-attr]
    assert low < high <= 1


def test_the_process_is_left_as_it_was() -> None:
    def state() -> list[Any]:
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        flags = [os.getcwd(), np.geterr(), torch.get_default_dtype(), torch.get_num_threads(), handlers]
        return [*flags, np.random.get_state(legacy=False), random.getstate(), torch.get_rng_state()]

    before = state()
    for probe in ("ChangesDirectory", "StrictNumpy", "DoubleTorch", "ManyThreads", "NoGradients", "TakesSignal"):
        examine(f"{PROBES}:{probe}", steps=2, tasks=1)
    for probe in ("GlobalNumpy", "GlobalPython", "GlobalTorch"):
        examine(f"{PROBES}:{probe}", steps=2, tasks=1)
        check_family(f"{PROBES}:{probe}", {}, trains=True)
    check_family(f"{PROBES}:ChangesDirectory", {}, trains=True)
    assert torch.is_grad_enabled()
    assert same(before, state())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("1 / 0", "error env: 'module_of_user:Env' cannot be loaded (ZeroDivisionError: division by zero)"),
        ("import sys; sys.exit(3)", "error module module_of_user: calls sys.exit(3)"),
        ("print('hello')", "warning module module_of_user: expected nothing on the terminal, got 'hello'"),
        ("import os; os.chdir('/')", "warning module module_of_user: changes the working directory"),
        ("import numpy; numpy.seterr(all='raise')", "warning module module_of_user: changes NumPy's treatment"),
        ("import numpy; numpy.random.seed(1)", "warning module module_of_user: draws from or seeds the global"),
    ],
)
def test_what_a_module_does_when_imported_is_found(
    body: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_of_user.py").write_text(f"from {PROBES} import Sound as Env\n{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "module_of_user", raising=False)
    (line,) = lines(examine("module_of_user:Env", **PLAYS))
    assert line.startswith(expected)
    sys.modules.pop("module_of_user", None)


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("NoSuchFamily", {}, "error env: expected a task family, 'package.module:ClassName' or an id of Gym"),
        ("no.such:Env", {}, "error env: 'no.such:Env' cannot be loaded"),
        ("gymnasium:Env", {}, "error env: expected at 'gymnasium:Env' a gymnasium.Env with sample_tasks(n, rng) and"),
        ("MetaPointEnvMomentumModes", {"nois": 1}, "error env_kwargs: 'MetaPointEnvMomentumModes' takes centers"),
        ("MetaPointEnvMomentumModes", {"noise": -1}, "error MomentumPointMass(): raises ValueError: noise: expected"),
        (f"{PROBES}:Sound", {"goal": 1}, f"error env_kwargs: '{PROBES}:Sound' takes no arguments, got 'goal'"),
    ],
)
def test_what_cannot_be_built_is_found(name: str, kwargs: dict[str, Any], expected: str) -> None:
    (line,) = lines(examine(name, kwargs, **PLAYS))
    assert line.startswith(expected)


def test_arguments_reach_the_environment() -> None:
    assert examine("MetaPointEnvMomentumModes", {"centers": [[1, 1]]}, **PLAYS).facts["modes"] == "1"


class Unequal:
    """Cannot be compared, shown, copied or asked for attributes."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("as asked")

    def __repr__(self) -> str:
        raise RuntimeError("as asked")

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("as asked")

    __hash__ = None  # type: ignore[assignment]


STRANGE = [
    None, True, 3, float("nan"), "text", b"bytes", [], [1, [2, 3]], {}, {1: 2, "reward_": None, "success": []}, object,
    Unequal(), np.zeros(0), np.zeros((2, 2)), np.array(["a"]), np.array([None, {}], object), np.array(1 + 2j),
    np.datetime64("2020-01-01"), lambda: 0, torch.zeros(2), (1, 2), (1, 2, 3, 4, 5), 10**400, np.float64(1e300),
]  # fmt: skip


class Strange(faulty_envs.Sound):
    """Has one strange value, in what `reset` or `step` returns, in a task or as an attribute."""

    def __init__(self, where: str, value: int) -> None:
        super().__init__()
        self.where, self.value = where, STRANGE[value]
        if where in ("observation_space", "action_space", *ATTRIBUTES):
            setattr(self, where, self.value)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        if self.where == "tasks":
            return self.value
        return [self.value] * n if self.where == "task" else super().sample_tasks(n, rng)

    def set_task(self, task: Any) -> None:
        if self.where not in ("task", "tasks"):
            super().set_task(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        values = list(super().reset(seed=seed))
        if self.where == "reset":
            return self.value
        if self.where in ("reset 0", "reset 1"):
            values[int(self.where[-1])] = self.value
        return tuple(values)

    def step(self, action: np.ndarray) -> Any:
        values = list(super().step(np.zeros(1)))
        if self.where == "step":
            return self.value
        if self.where[:5] == "step ":
            values[int(self.where[-1])] = self.value
        return tuple(values)


class StrangeBlock(faulty_envs.SoundBlock):
    """As `Strange`, a family."""

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1, *, where: str, value: int) -> None:
        super().__init__(num_tasks, rollouts_per_task)
        self.where, self.value = where, STRANGE[value]
        if where in (*ATTRIBUTES, "num_envs", "single_observation_space"):
            setattr(self, where, self.value)

    def reset(self, **options: Any) -> Any:
        values = list(super().reset(**options))
        if self.where == "reset":
            return self.value
        if self.where in ("reset 0", "reset 1"):
            values[int(self.where[-1])] = self.value
        return tuple(values)

    def step(self, actions: np.ndarray) -> Any:
        values = list(super().step(actions))
        if self.where == "step":
            return self.value
        if self.where[:5] == "step ":
            values[int(self.where[-1])] = self.value
        return tuple(values)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> Any:
        if self.where == "tasks":
            return self.value
        return [self.value] * n if self.where == "task" else super()._draw_tasks(n, rng, split)


RETURNED = ["reset", "reset 0", "reset 1", "step", "step 0", "step 1", "step 2", "step 3", "step 4", "task", "tasks"]
ATTRIBUTES = ["num_modes", "splits", "normalization_scale", "finite_horizon"]


@pytest.mark.parametrize("where", [*RETURNED, *ATTRIBUTES, "observation_space", "action_space"])
def test_no_value_of_an_environment_stops_the_examination(where: str) -> None:
    for value in range(len(STRANGE)):
        for line in lines(examine(f"{HERE}:Strange", {"where": where, "value": value}, steps=2, tasks=2)):
            assert re.match(r"(error|warning) (Strange|env|env_kwargs|normalization_scale)\b", line), line
            assert "\n" not in line


@pytest.mark.parametrize("where", [*RETURNED, *ATTRIBUTES, "num_envs", "single_observation_space"])
def test_no_value_of_a_family_stops_the_examination(where: str) -> None:
    for value in range(len(STRANGE)):
        for line in lines(examine(f"{HERE}:StrangeBlock", {"where": where, "value": value}, steps=2, tasks=2)):
            assert re.match(r"(error|warning) (StrangeBlock|env|env_kwargs|normalization_scale)\b", line), line
            assert "\n" not in line


# The command.


def run(*arguments: str) -> int:
    return main.main(["check-env", *arguments])


def test_the_command_prints_facts_and_says_that_it_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("MetaPointEnvMomentumModes", "--steps", "5", "--tasks", "2") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "MetaPointEnvMomentumModes" and out[-1] == "passed"
    assert "  splits        train, test" in out


def test_the_command_lists_everything_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{PROBES}:Everything", "--steps", "20") == 2
    out = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("error: Everything.") for line in out) == 4
    assert out[-1] == "failed: 4 errors, 2 warnings"


def test_warnings_do_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{PROBES}:Doubles") == 0
    assert capsys.readouterr().out.endswith("passed: 2 warnings\n")


def test_tracebacks_follow_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{PROBES}:Raises") == 2
    assert "Traceback" not in capsys.readouterr().out
    assert run(f"{PROBES}:Raises", "--verbose") == 2
    out = capsys.readouterr().out
    assert "Traceback" in out and 'raise ZeroDivisionError("as asked")' in out and "process.py" not in out


def test_arguments_of_the_class_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = json.dumps({"centers": [[1, 1], [2, 2], [3, 3]]})
    assert run("MetaPointEnvMomentumModes", "--env_kwargs", kwargs, "--steps", "2") == 0
    assert "  modes         3" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "command line: the following arguments are required: ENV"),
        (["x", "--steps", "0"], "--steps: expected a whole number ≥ 1, got 0"),
        (["x", "--env_kwargs", "{"], "--env_kwargs: is not valid JSON"),
        (["x", "--env_kwargs", "[1]"], "--env_kwargs: expected a JSON object"),
    ],
)
def test_wrong_command_lines_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_env.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1


# The start of a run.


@pytest.mark.parametrize(
    ("probe", "problem"),
    [
        (probe, (LANES | BLOCKS)[probe][0][1:])
        for probe in (
            "NoRng", "SetTaskOfTwo", "StepOfNothing", "NoSeed", "BareObservation",
            "FourValues", "WrongShape", "Text", "NoReward", "ListedEnd", "EndOfAll", "NoCut", "NoInfo",
            "SuccessOfText", "Everything",
        )
    ],
)  # fmt: skip
def test_a_run_is_refused_for_the_first_of_the_faults_that_are_cheap_to_find(probe: str, problem: str) -> None:
    name = f"{PROBES}:{probe}"
    with pytest.raises(ConfigError) as caught:
        build_config(SMALL | {"env": name})
    assert caught.value.argument == "env"
    assert str(caught.value).startswith(f"env: {probe}{problem}")
    assert str(caught.value).endswith(f"; `mmaml check-env {name}` lists all that is wrong")


@pytest.mark.parametrize("probe", ["BlockOfHalves", "BlockOfDoubleRewards", "BlockOfFourValues", "BlockWithoutInfos"])
def test_a_family_of_arrays_is_refused_too(probe: str) -> None:
    method, _, problem = BLOCKS[probe][0][1:].partition(": ")
    with pytest.raises(ConfigError) as caught:
        build_config(SMALL | {"env": f"{PROBES}:{probe}"})
    assert str(caught.value).startswith(f"env: {probe}{method}: {problem.split(', got')[0].replace('(6', '(1')}")


@pytest.mark.parametrize("probe", ["Raises", "Exits", "NotANumber", "Prints", "Doubles", "CannotClose", "DropsSeed"])
def test_what_may_pass_or_costs_only_a_task_is_left_to_the_run(probe: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_family(f"{PROBES}:{probe}", {}, trains=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("probe", ["Sound", "SoundBlock", "Doubles", "PopsTask", "MovesTask", "Raises", "Exits"])
def test_results_that_repeat_are_not_warned_of(probe: str) -> None:
    assert check_family(f"{PROBES}:{probe}", {}, trains=True).warnings == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_of_the_toolkit_is_warned_of(name: str) -> None:
    spec = check_family(name, {}, trains=True)
    assert spec.warnings == spec.unless_normalised == ()


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
    env = {"env": f"{PROBES}:{probe}", "n_itr": 1}
    for name, normalises, expected in (("plain", False, always or unless_normalised), ("normalised", True, always)):
        run_small(small_config("maml", **env, normalize_observations=normalises, dump_path=str(tmp_path / name)))
        warned = [line for line in capsys.readouterr().err.splitlines() if "observation" in line]
        begins = f"warning: env: '{PROBES}:{probe}' observation: {expected}"
        assert [line[: len(begins)] for line in warned] == ([begins] if expected else [])
        assert all('"normalize_observations": true' in line for line in warned)


@pytest.mark.parametrize(
    ("env", "warning"),
    [
        (
            f"{PROBES}:DropsSeed",
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
            f"{PROBES}:BlockOfOwnRandomness",
            "gives other results for the same task, seed and actions: observation of the reset differs; draw all that "
            "is random from the generator of _reset_lanes, or from self.task_generators",
        ),
        (
            f"{PROBES}:GlobalNumpy",
            "draws from or seeds the global generator of np.random, which all lanes share; draw from self.np_random, "
            "which is seeded",
        ),
        (
            f"{PROBES}:GlobalTorch",
            "draws from or seeds the global generator of torch, which all lanes share; draw from self.np_random, "
            "which is seeded",
        ),
    ],
)
def test_what_would_not_be_the_same_again_is_warned_of_in_a_line(env: str, warning: str) -> None:
    before = np.random.get_state(legacy=False), random.getstate(), torch.get_rng_state()
    assert check_family(env, {}, trains=True).warnings == (f"env: '{env}' {warning}",)
    assert same(before, (np.random.get_state(legacy=False), random.getstate(), torch.get_rng_state()))
    assert check_family(env, {}).warnings == ()  # only looked at


class RandomStart(faulty_envs.Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position = np.random.uniform()
        return self.observe(), {}


class RandomStep(faulty_envs.Sound):
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


class Configured(faulty_envs.Sound):
    def __init__(self, text: str, number: int) -> None:
        super().__init__()
        self.text = text

    def step(self, action: np.ndarray) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.text, *rest


def test_the_start_costs_two_resets_and_two_steps_of_one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for method in ("sample_tasks", "set_task", "reset", "step"):
        original = getattr(faulty_envs.Sound, method)

        def counted(self: Any, *arguments: Any, method: str = method, original: Any = original, **named: Any) -> Any:
            calls.append(method)
            return original(self, *arguments, **named)

        counted.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        monkeypatch.setattr(faulty_envs.Sound, method, counted)
    check_family(f"{PROBES}:Sound", {}, trains=True)
    assert calls == ["sample_tasks", *["set_task", "reset", "step"] * 2]


# Comparison.


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize(
    "value",
    [
        1.5, float("nan"), "a", None, (1, 2), {"a": [1, {2}]}, np.arange(3), np.array([np.nan, 1]), Holder(np.zeros(2)),
        np.array([{"a": 1}, None], object), torch.zeros(2), np.random.default_rng(3), range(4), b"x",
        Task(0, {"goal": np.zeros(2)}), lambda x=2: x,
    ],
)  # fmt: skip
def test_a_copy_is_the_same_and_another_value_is_not(value: Any) -> None:
    assert same(value, copied(value))
    assert not same(value, Holder(3))
    assert same([value, value], [copied(value), copied(value)])
    assert not same([value], [value, value])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1, True), (np.zeros(2), np.zeros(3)), (np.zeros(2), np.zeros(2, np.float32)), ({"a": 1}, {"b": 1}),
        (Holder([1]), Holder([2])), (Task(0, {"goal": np.zeros(2)}), Task(0, {"goal": np.ones(2)})),
        (np.random.default_rng(3), np.random.default_rng(4)), (torch.zeros(2), torch.ones(2)),
        (lambda x=2: x, lambda x=3: x),
    ],
)  # fmt: skip
def test_what_differs_is_not_the_same(one: Any, other: Any) -> None:
    assert not same(one, other)
