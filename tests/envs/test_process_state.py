"""What a user's code changes of the process: put back, on its side kept, and named at the start of a run."""

from __future__ import annotations

import json
import locale
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmaml
from mmaml.algorithms import algorithm_class
from mmaml.cli import evaluate, visualize
from mmaml.config.algorithms import ALGORITHMS
from mmaml.envs.process_state import SETTINGS, CodeSettings, code_settings, read
from mmaml.envs.registry import check_family, make_family
from mmaml.errors import ConfigError
from mmaml.storage import checkpoint
from tests.helpers.support import SMALL, assert_same_states, dump, run, small_config
from tests.helpers.unsettling import module_that

ENV = "tests.helpers.unsettling:Unsettling"
DOUBLE = "import torch; torch.set_default_dtype(torch.float64)"
# What user code may do, by the setting that it changes.
STATEMENTS = {
    "directory": "import os; os.chdir('/')",
    "numpy_errors": "import numpy; numpy.seterr(all='raise')",
    "torch_dtype": DOUBLE,
    "torch_grad": "import torch; torch.set_grad_enabled(not torch.is_grad_enabled())",
    "torch_threads": "import torch; torch.set_num_threads(3)",
    "torch_deterministic": "import torch; torch.use_deterministic_algorithms(True)",
    "torch_precision": "import torch; torch.set_float32_matmul_precision('medium')",
    "flushing": "import torch; torch.set_flush_denormal(True)",
    "torch_device": "import torch; torch.set_default_device('meta')",
    "torch_cudnn": "import torch; torch.backends.cudnn.deterministic = True",
    "torch_anomalies": "import torch; torch.autograd.set_detect_anomaly(True)",
    "signals": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "locale": "import locale as a; a.setlocale(a.LC_ALL, {'C': 'C.UTF-8'}.get(a.setlocale(a.LC_ALL), 'C'))",
    "import_path": "import sys; sys.path[:] = [entry for entry in sys.path if entry != sys.path[-1]]",
    "warnings": "import warnings; warnings.simplefilter('error', ResourceWarning)",
}
PLACES = ["__init__", "sample_tasks", "set_task", "reset", "step"]


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Iterator[None]:
    """Nothing of what a test lets happen stays, even if it fails."""
    before = read(SETTINGS)
    yield
    after = read(SETTINGS)
    for name, setting in SETTINGS.items():
        if before[name] != after[name]:
            setting.write(before[name])
    changed = [name for name in SETTINGS if before[name] != after[name]]
    code_settings.cache_clear()
    assert changed == []


def test_every_setting_is_tried() -> None:
    assert STATEMENTS.keys() == SETTINGS.keys()


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_changed_is_found_put_back_and_named(setting: str) -> None:
    code = CodeSettings()
    before = read(SETTINGS)
    with code.running() as changes:
        exec(STATEMENTS[setting], {})
        assert before[setting] != SETTINGS[setting].read()
    assert [change.setting for change in changes] == [SETTINGS[setting]]
    assert before == read(SETTINGS)
    assert str(changes[0]).startswith(f"changes {SETTINGS[setting].name}")


@pytest.mark.parametrize("setting", SETTINGS)
def test_code_goes_on_with_what_it_has_changed_and_no_other_code_does(setting: str) -> None:
    code, other = CodeSettings(), CodeSettings()
    before = read(SETTINGS)
    with code.running():
        exec(STATEMENTS[setting], {})
        changed = SETTINGS[setting].read()
    for _ in range(2):
        with code.running() as changes:
            seen = SETTINGS[setting].read()
        assert changes == [] and seen == (changed if SETTINGS[setting].is_kept else before[setting])
        assert before == read(SETTINGS)
    with other.running():
        assert before == read(SETTINGS)


def test_code_that_puts_a_setting_back_runs_with_ours_again() -> None:
    code = CodeSettings()
    for dtype in (torch.float64, torch.float32, torch.float16):
        with code.running():
            torch.set_default_dtype(dtype)
        with code.running():
            assert torch.get_default_dtype() == dtype
        assert torch.get_default_dtype() == torch.float32


def test_our_own_changes_around_a_call_are_ours() -> None:
    code = CodeSettings()
    with torch.no_grad(), code.running():
        torch.set_grad_enabled(True)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        with code.running():
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()


def test_what_is_added_to_the_import_path_stays() -> None:
    before = list(sys.path)
    try:
        with CodeSettings().running() as changes:
            sys.path.insert(0, "/of/a/user")
        assert changes == [] and sys.path == ["/of/a/user", *before]
        with CodeSettings().running() as changes:
            sys.path[:] = ["/another", before[0]]
        assert len(changes) == 1 and sys.path == ["/of/a/user", *before, "/another"]
    finally:
        sys.path[:] = before


def test_only_filters_that_raise_are_put_back() -> None:
    with warnings.catch_warnings():
        with CodeSettings().running() as changes:
            warnings.filterwarnings("ignore", "of a user")
            warnings.filterwarnings("error", "of a user, too")
        assert len(changes) == 1
        assert warnings.filters[0][0] == "ignore"  # type: ignore[index]
        warnings.simplefilter("always")
        with pytest.warns(UserWarning, match="of a user, too"):
            warnings.warn("of a user, too", stacklevel=1)


# In a run.


@pytest.mark.parametrize("place", PLACES)
def test_a_run_computes_as_without_the_changes(place: str, tmp_path: Path) -> None:
    """All of them at once, in one method of the environment."""
    expected = run(small_config("promp", env=ENV, dump_path=str(tmp_path / "plain")))
    what = "\n".join(STATEMENTS.values())
    before = read(SETTINGS)
    config = small_config("promp", env=ENV, env_kwargs={"where": place, "what": what}, dump_path=str(tmp_path / "run"))
    found = run(config)
    assert before == read(SETTINGS)
    assert_same_states(found, expected)
    assert found["counts"]["FailedTasks"] == 0


# The default device is looked at before and after a collection alone, within which another one fails with an error.
@pytest.mark.parametrize("setting", sorted(SETTINGS.keys() - {"torch_device"}))
def test_each_change_late_in_a_run_is_put_back_too(setting: str, tmp_path: Path) -> None:
    expected = run(small_config("promp", env=ENV, dump_path=str(tmp_path / "plain"), n_itr=1))
    before = read(SETTINGS)
    kwargs = {"where": "step", "what": STATEMENTS[setting], "when": 9}
    found = run(small_config("promp", env=ENV, env_kwargs=kwargs, dump_path=str(tmp_path / "run"), n_itr=1))
    assert before == read(SETTINGS)
    assert_same_states(found, expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_algorithm_computes_with_the_dtype_of_an_environment(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: dict[str, dict[str, Any]] = {
        "without": {"env": ENV},
        "on import": {"env": module_that(DOUBLE, tmp_path, monkeypatch)},
        "in the constructor": {"env": ENV, "env_kwargs": {"where": "__init__", "what": DOUBLE}},
        "in the first step": {"env": ENV, "env_kwargs": {"where": "step", "what": DOUBLE, "when": 0}},
        "in every step": {"env": ENV, "env_kwargs": {"where": "step", "what": DOUBLE}},
    }
    states = {name: run(small_config(algorithm, **way, dump_path=str(tmp_path / name))) for name, way in ways.items()}
    for name in ways:
        assert_same_states(states[name], states["without"], name)
        assert states[name]["counts"] == {"FailedTasks": 0, "BadUpdates": 0}


@pytest.mark.parametrize(
    ("what", "holds"),
    [
        (DOUBLE, "torch.tensor(0.1).dtype == torch.float64"),
        ("import os; os.chdir('/usr')", "os.getcwd() == '/usr'"),
        ("import numpy; numpy.seterr(divide='ignore')", "np.geterr()['divide'] == 'ignore'"),
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_an_environment_goes_on_with_what_it_has_set(place: str, what: str, holds: str, tmp_path: Path) -> None:
    kwargs = {"where": place, "what": what, "holds": holds}
    config = small_config("promp", env="tests.helpers.unsettling:UnsettlingUser", env_kwargs=kwargs)
    state = run(config.replace(dump_path=str(tmp_path / "run")))
    assert state["counts"]["FailedTasks"] == 0


@pytest.mark.parametrize("place", ["import", "__init__", "reset", "step"])
def test_the_run_names_what_is_changed_at_its_start(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "import":
        config = small_config("promp", env=module_that(DOUBLE, tmp_path, monkeypatch))
    else:
        config = small_config("promp", env=ENV, env_kwargs={"where": place, "what": DOUBLE})
    run(config.replace(dump_path=str(tmp_path / "run")))
    lines = [line for line in (tmp_path / "run/messages.log").read_text().splitlines() if "set_default_dtype" in line]
    assert len(lines) == 1
    assert lines[0].endswith(
        f"warning: env: '{config.env}' changes torch's default dtype (torch.set_default_dtype): from torch.float32 to "
        "torch.float64, for the whole process; it is put back: name the dtype of each tensor instead"
    )


def test_a_quiet_environment_is_not_named(tmp_path: Path) -> None:
    run(small_config("promp", env=ENV, dump_path=str(tmp_path / "run")))
    assert not (tmp_path / "run/messages.log").exists()


@pytest.mark.parametrize("place", ["import", "__init__", "reset", "close"])
def test_evaluation_and_pictures_compute_as_without_the_changes(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = small_config("promp", env=ENV, dump_path=str(tmp_path / "plain"), n_itr=1)
    what = f"{DOUBLE}; torch.set_grad_enabled(False); import os; os.chdir('/')"
    if place == "import":
        changed = small_config("promp", env=module_that(what, tmp_path, monkeypatch), n_itr=1)
    else:
        changed = small_config("promp", env=ENV, env_kwargs={"where": place, "what": what}, n_itr=1)
    before = read(SETTINGS)
    for config in (plain, changed.replace(dump_path=str(tmp_path / "changed"))):
        run(config)
        assert evaluate.main([str(config.dump_path), "--num_tasks", "3"]) == 0
        assert visualize.main([str(config.dump_path), "--width", "100"]) == 0
    assert before == read(SETTINGS)
    found, expected = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("changed", "plain"))
    assert found | {"env": "", "restore_path": ""} == expected | {"env": "", "restore_path": ""}
    if place != "import":  # whose pictures have another name
        assert (tmp_path / "changed/policy.png").read_bytes() == (tmp_path / "plain/policy.png").read_bytes()


def test_a_module_that_fails_on_import_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(SETTINGS)
    with pytest.raises(ConfigError, match="division by zero"):
        check_family(module_that(f"{DOUBLE}; 1 / 0", tmp_path, monkeypatch), {})
    assert before == read(SETTINGS)


def test_an_algorithms_module_is_no_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module_that(f"{DOUBLE}\nfrom mmaml.algorithms.promp import ProMP, DECLARATION", tmp_path, monkeypatch)
    before = read(SETTINGS)
    algorithm_class(name.replace(":Env", ":ProMP"))
    assert before == read(SETTINGS)


def test_the_toolkits_own_families_are_not_looked_at() -> None:
    assert make_family("MetaPointEnvMomentumModes").code_settings is None
    assert make_family("MetaPointEnvMomentumModes-v0").code_settings is None
    assert make_family(ENV).code_settings is code_settings("tests.helpers.unsettling")


def test_what_is_read_can_be_written() -> None:
    for setting in SETTINGS.values():
        setting.write(setting.read())
    assert signal.getsignal(signal.SIGINT) is not None and os.getcwd() and locale.setlocale(locale.LC_ALL)
    assert np.geterr() == read(SETTINGS)["numpy_errors"]


# On several ranks.

MODULE = """
import os
import gymnasium as gym
import numpy as np
import torch

from mmaml.envs.base import Task, TaskVectorEnv

torch.set_default_dtype(torch.float64)
os.chdir("/usr")
BOX = gym.spaces.Box(-1, 1, (1,), np.float32)


def reward(x):
    assert os.getcwd() == "/usr"
    return np.float32(torch.tensor(0.1).mul(float(x)).exp().mul(1e7).item() % 1)  # of single precision, others


class Own:
    def __init__(self, goal):
        self.goal, self.mode = goal, 0


class Env(gym.Env):
    observation_space = action_space = BOX

    def sample_tasks(self, n, rng):
        return [Own(goal) for goal in rng.normal(size=n)]

    def set_task(self, task):
        self.goal = task.goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), reward(action[0] + self.goal), False, False, {}


class Family(TaskVectorEnv):
    def __init__(self, num_tasks=1, rollouts_per_task=1):
        super().__init__(num_tasks, rollouts_per_task, BOX, BOX)

    def step(self, actions):
        rewards = np.array([reward(x) for x in np.clip(actions[:, 0], -1, 1) + self.goals], np.float32)
        no = np.zeros(self.num_envs, bool)
        return self._observe(), rewards, no, no.copy(), {}

    def _draw_tasks(self, n, rng, split):
        return [Task(0, {"goal": goal}) for goal in rng.normal(size=n)]

    def _set_tasks(self, tasks):
        self.goals = self._per_lane(tasks, "goal", ())

    def _reset_lanes(self, task, lanes, rng):
        pass

    def _observe(self):
        return np.zeros((self.num_envs, 1), np.float32)
"""


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["Env", "Family"])
def test_every_rank_computes_alike_and_so_does_its_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks import the module at different times: for the configuration, for a task, for an environment."""
    module = f"unsettling_ranks_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = SMALL | {"parallel": True, "algorithm": "mmaml", "env": f"{module}:{name}"}
    runs = [mmaml.train(keys, ranks=ranks, dump_path=dump(tmp_path, f"{ranks}"), show=False) for ranks in (1, 2)]
    one, two = (checkpoint.load(run.folder) for run in runs)
    assert_same_states(two, one)
    assert two["counts"] == {"FailedTasks": 0, "BadUpdates": 0}
    text = (Path(runs[1].folder) / "messages.log").read_text()
    assert text.count("torch.set_default_dtype") == text.count("os.chdir") == 1
    sys.modules.pop(module)


def test_the_same_module_without_double_precision_gives_other_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above would notice an environment that does not get what it has set."""
    states = []
    for number, text in enumerate((MODULE, MODULE.replace("torch.set_default_dtype(torch.float64)", ""))):
        (tmp_path / f"unsettling_precision_{number}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        states.append(
            run(small_config("promp", env=f"unsettling_precision_{number}:Env", dump_path=dump(tmp_path, str(number))))
        )
    with pytest.raises(AssertionError):
        assert_same_states(*states)
