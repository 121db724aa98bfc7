"""Meta-World's own evaluation of trained policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmaml.api.meta_world import evaluate
from mmaml.config.loading import build_config
from mmaml.errors import UsageError
from tests.helpers.metaworld import needs_metaworld
from tests.helpers.support import SMALL, run

REACH: dict[str, Any] = {"env": "Meta-World/ML1-reach-v3", "max_path_length": 12, "n_itr": 1}


def trained(folder: Path, **changes: Any) -> Path:
    run(build_config(SMALL | {"algorithm": "promp", "dump_path": str(folder)} | changes))
    return folder


@needs_metaworld
def test_meta_world_evaluates_a_run_on_its_test_tasks(tmp_path: Path) -> None:
    sizes = {"meta_batch_size": 2, "num_evals": 1, "evaluation_episodes": 2, "max_episode_steps": 12}
    folder = trained(tmp_path / "run", **REACH)
    score = evaluate(folder, **sizes)
    assert score == evaluate(folder, **sizes)
    assert 0 <= score.success_rate <= 1 and score.success_rates == {"reach-v3": score.success_rate}
    assert 0 < score.mean_return < 12 * 10


@needs_metaworld
def test_other_sizes_are_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", **REACH)
    with pytest.raises(UsageError, match=r"meta_batch_size: expected a multiple of 1 that divides 40 goals .* got 3"):
        evaluate(folder, meta_batch_size=3)


@pytest.mark.parametrize(
    ("name", "value"), [("meta_batch_size", 0), ("evaluation_episodes", 0), ("num_evals", 0.5), ("seed", -1)]
)
def test_numbers_are_checked_before_anything_is_loaded(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"{name}: expected a whole number .*, got {value}"):
        evaluate("nowhere", **{name: value})


@needs_metaworld
def test_a_policy_that_observes_its_environment_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", **REACH, env_kwargs={"one_hot": True})
    with pytest.raises(UsageError, match="run: it observes which environment it is in"):
        evaluate(folder, meta_batch_size=1)


def test_a_run_on_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run: expected one on an ML benchmark of Meta-World, got one on 'Meta"):
        evaluate(trained(tmp_path / "run", n_itr=1), meta_batch_size=1)


@needs_metaworld
def test_a_policy_that_adapts_by_remembering_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", **REACH, algorithm="rl2", episodes_per_trial=2)
    with pytest.raises(UsageError, match="run: rl2 does not adapt as the protocol asks; `mmaml evaluate` measures it"):
        evaluate(folder, meta_batch_size=1)
