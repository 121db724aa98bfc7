"""`mmaml.load`: from runs, files of earlier versions and saved policies; what it needs, and what it refuses."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmaml
from mmaml.storage import checkpoint
from tests.helpers.policies import (
    episode,
    saved_state,
    trained,
)
from tests.helpers.support import STEPPING

ROOT = Path(__file__).parents[2]
OLD_RUNS = ROOT / "tests" / "data" / "runs_of_0.1.0"


# What is needed, and what is not.

ALONE = """
import sys
sys.modules["mpi4py"] = None  # importing it fails
import numpy as np, mmaml
policy = mmaml.load(sys.argv[1], seed=0)
for _ in range(3):
    over = False
    while not over:
        policy.act(np.zeros(2))
        over = policy.record(1.0)
policy.adapt()
action = policy.act(np.zeros(2), deterministic=True)
assert policy.action_space.contains(action), action
loaded = [name for name in sys.modules if name.startswith(("mmaml.parallel", "mmaml.cli", "users_family", "mujoco"))]
assert not loaded, loaded
"""


def test_neither_mpi_nor_the_family_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ROOT / "tests" / "helpers" / "user_environments.py"
    (tmp_path / "there").mkdir()
    shutil.copy(source, tmp_path / "there" / "users_family.py")
    monkeypatch.syspath_prepend(tmp_path / "there")
    path = trained(tmp_path, "mmaml", env="users_family:Walk")
    monkeypatch.delitem(sys.modules, "users_family")
    done = subprocess.run([sys.executable, "-c", ALONE, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def rewritten(path: Path, **changes: Any) -> Path:
    """A checkpoint as version 0.1 wrote it, without spaces, and with other keys of its configuration."""
    state = checkpoint.load(path)
    state.pop("environment", None)
    state["config"] |= changes
    return checkpoint.write(path.parent / "old", 0, state)


@pytest.mark.parametrize("algorithm", ["maml", "mmaml", "tesp"])
def test_runs_of_version_0_1_are_loaded(algorithm: str) -> None:
    policy = mmaml.load(OLD_RUNS / algorithm)
    episode(policy, policy.horizon, lanes=2)
    policy.adapt()
    assert policy.action_space.contains(policy.act(np.zeros(policy.spaces.observation_size)))


def test_what_an_old_checkpoint_lacks_is_asked_for(tmp_path: Path) -> None:
    known = mmaml.load(path := trained(tmp_path))
    observation = np.ones(known.spaces.observation_size)
    expected = known.act(observation, deterministic=True)
    gone = rewritten(path, env="gone:Family")
    with pytest.raises(mmaml.UsageError, match=r"action_space: .*gone:Family.* give action_space"):
        mmaml.load(gone)
    given = mmaml.load(gone, action_space=known.action_space, normalization_scale=known.spaces.scale)
    assert (given.act(observation, deterministic=True) == expected).all()
    plain = mmaml.load(rewritten(path, env="gone:Family", normalization_scale=None))
    assert not plain.action_space.is_bounded()


def test_an_old_checkpoint_of_discrete_actions_lacks_nothing(tmp_path: Path) -> None:
    path = trained(tmp_path, env="CartPoleMassEnv")
    policy = mmaml.load(rewritten(path, env="gone:Family"))
    assert policy.action_space == mmaml.load(path).action_space


def test_a_step_size_is_refused_where_it_has_no_effect(tmp_path: Path) -> None:
    with pytest.raises(mmaml.UsageError, match="inner_lr: has no effect on a policy of rl2; leave it out"):
        mmaml.load(trained(tmp_path, "rl2"), inner_lr=0.1)


def test_step_sizes_may_be_changed(tmp_path: Path) -> None:
    path = trained(tmp_path)
    states = []
    for rate in (0.25, [np.float32(0.25), 0.3], 0.2):
        policy = mmaml.load(path, inner_lr=rate, seed=0)
        episode(policy, 5)
        policy.adapt()
        states.append(saved_state(policy, tmp_path / "adapted.pt"))
    assert all(map(torch.equal, states[0], states[1]))
    assert not all(map(torch.equal, states[0], states[2]))


# Saved policies.


@pytest.mark.parametrize("algorithm", STEPPING)
def test_an_adapted_policy_is_saved_and_goes_on(tmp_path: Path, algorithm: str) -> None:
    """What is loaded, or unpickled, acts as what was saved, and adapts further as it."""
    policy = mmaml.load(trained(tmp_path, algorithm), seed=0)
    for step in range(2):
        episode(policy, 7, seed=step, lanes=3)
        policy.adapt()
    policy.save(tmp_path / "new" / "adapted.pt")
    again = mmaml.load(tmp_path / "new" / "adapted.pt", seed=0)
    assert again.adaptations == 2
    observations = np.random.default_rng(1).normal(size=(4, policy.spaces.observation_size))
    others = [again, pickle.loads(pickle.dumps(policy))]
    for other in others:
        assert (policy.act(observations, deterministic=True) == other.act(observations, deterministic=True)).all()
    states = []
    for one in (policy, *others):
        one.start_episode()
        one.rng = np.random.default_rng(5)
        episode(one, 7, seed=9, lanes=3)
        one.adapt()
        states.append(saved_state(one, tmp_path / "adapted.pt"))
    assert all(all(map(torch.equal, states[0], state)) for state in states[1:])


def test_a_saved_policy_keeps_its_horizon(tmp_path: Path) -> None:
    """With which it has adapted; before that, another may be given."""
    policy = mmaml.load(trained(tmp_path), horizon=5)
    policy.save(tmp_path / "saved.pt")
    assert mmaml.load(tmp_path / "saved.pt").horizon == 5
    assert mmaml.load(tmp_path / "saved.pt", horizon=9).horizon == 9
    episode(policy, 5)
    policy.adapt()
    policy.save(tmp_path / "saved.pt")
    with pytest.raises(mmaml.UsageError, match=r"^horizon: expected 5, got 9; leave it out"):
        mmaml.load(tmp_path / "saved.pt", horizon=9)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"state": state}
            for state in (None, 3, [], {"list": [1]}, {"dict": []}, {"named": "os:system"}, torch.ones(3))
        ),
        *({"collections": collections} for collections in (None, 3, [3], [{}], [None], [{"actions": torch.ones(3)}])),
        *({"lanes": lanes} for lanes in (None, 3, [3], [{}])),
        {"lanes": [{"lane": 0, "action": None, "reward": 0.0, "memory": None}]},
        {"lanes": [{"lane": 0, "action": torch.ones(7), "reward": 0.0, "memory": None}]},
        {"lanes": [{"lane": 0, "action": torch.ones(2), "reward": None, "memory": None}]},
        None,
    ],
    ids=str,
)
def test_a_saved_policy_that_no_policy_wrote_is_refused(tmp_path: Path, changes: dict[str, Any] | None) -> None:
    policy = mmaml.load(trained(tmp_path))
    policy.save(tmp_path / "saved.pt")
    state = checkpoint.load(tmp_path / "saved.pt")
    state["adapted"] = 3 if changes is None else state["adapted"] | changes
    with pytest.raises(mmaml.UsageError, match=r"restore_path: what '.*' has adapted to cannot be read"):
        mmaml.load(checkpoint.write(tmp_path / "other", 0, state))


# Errors.


def test_no_policy_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = trained(tmp_path)
    (tmp_path / "other.pt").write_bytes(b"nothing")
    state = checkpoint.load(path)
    del state["parameters"]["policy.0.bias"]
    lacking = checkpoint.write(tmp_path / "lacking", 0, state)
    state = checkpoint.load(path) | {"environment": {"actions": "box"}}
    spaceless = checkpoint.write(tmp_path / "spaceless", 0, state)
    state = checkpoint.load(path) | {"adapted": {"horizon": 7, "state": {"named": "os:system"}, "collections": []}}
    unsafe = checkpoint.write(tmp_path / "unsafe", 0, state)
    bad: Any
    for bad in (tmp_path / "nowhere", tmp_path / "other.pt", lacking, spaceless, unsafe, None):
        with pytest.raises(mmaml.UsageError, match="restore_path") as raised:
            mmaml.load(bad)
        assert "\n" not in str(raised.value)
    for keys in ({"inner_lr": 0.0}, {"horizon": 0}, {"normalization_scale": -1.0}, {"seed": -1}, {"seed": "one"}):
        with pytest.raises(mmaml.UsageError, match=next(iter(keys))):
            mmaml.load(path, **keys)  # type: ignore[arg-type]
