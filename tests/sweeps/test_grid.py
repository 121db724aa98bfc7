"""Which runs a sweep consists of."""

from __future__ import annotations

import pytest

from mmaml.errors import UsageError
from mmaml.sweeps.grid import MAX_RUNS, read_grid, read_seeds, split_at_commas, sweep_runs


def test_every_choice_of_values_is_run_with_every_seed() -> None:
    runs = sweep_runs([1, 2], {"learning_rate": ["1e-3", "2e-3"], "algorithm": ["promp", "mmaml"]})
    assert len(runs) == len({run.name for run in runs}) == 8
    assert runs[0].name == "learning_rate-1e-3_algorithm-promp/seed_1"
    assert {run.words for run in runs} == {
        (f"learning_rate={rate}", f"algorithm={algorithm}", f"seed={seed}")
        for rate in ("1e-3", "2e-3")
        for algorithm in ("promp", "mmaml")
        for seed in (1, 2)
    }
    assert [run.name for run in sweep_runs([3], {})] == ["seed_3"]


def test_values_are_separated_by_commas_outside_of_brackets_and_quotes() -> None:
    assert split_at_commas('{"a": [1, 2]},[3,4],"x,y",z') == ['{"a": [1, 2]}', "[3,4]", '"x,y"', "z"]
    assert read_grid(["hidden_sizes=[64,64],[32]", "env_kwargs.size=5,7"]) == {
        "hidden_sizes": ["[64,64]", "[32]"],
        "env_kwargs.size": ["5", "7"],
    }
    names = [run.name for run in sweep_runs([1], read_grid(["env=./a/b:C,b:C"]))]
    assert names == ["env-._a_b_C/seed_1", "env-b_C/seed_1"]


@pytest.mark.parametrize("text, seeds", [("4", [4]), ("1-3", [1, 2, 3]), ("7, 1-2", [7, 1, 2])])
def test_seeds_are_ranges_and_numbers(text: str, seeds: list[int]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-", "-1", "1.5", "1,,2", f"0-{MAX_RUNS}", "1-3,2"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--seeds: "):
        read_seeds(text)


@pytest.mark.parametrize(
    "words, reason",
    [
        (["n_itr"], r"expected KEY=VALUE,VALUE …, got 'n_itr'"),
        (["n_itr=1,,2"], r"expected KEY=VALUE,VALUE …, got 'n_itr=1,,2'"),
        (["=1"], r"expected KEY=VALUE,VALUE …, got '=1'"),
        (["seed=1,2"], r"'seed' has a flag of its own; give the seeds by --seeds"),
        (["n_itr=1", "n_itr=2"], r"'n_itr' is given twice; give all of its values together"),
        (["a.b=1,2", "a={},{'b': 3}"], r"'a' is given as a whole and in part; keep one of them"),
        (["a={},{'b': 3}", "a.b=1,2"], r"'a' is given as a whole and in part; keep one of them"),
    ],
)
def test_what_is_no_grid_is_refused(words: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=f"^--grid: {reason}"):
        read_grid(words)


def test_runs_that_would_share_a_directory_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^--grid: gives the run 'n-1/seed_1' twice; give each value once"):
        sweep_runs([1], {"n": ["1", "1"]})
    reason = r"^--grid: 'n=\[1\] seed=1' and 'n=\(1\) seed=1' would have the same directory, 'n-1/seed_1'; sweep these"
    with pytest.raises(UsageError, match=reason):
        sweep_runs([1], {"n": ["[1]", "(1)"]})
    with pytest.raises(UsageError, match=r"^--grid: expected at most 10,000 runs, got 10,001"):
        sweep_runs(range(MAX_RUNS + 1), {})


def test_long_values_give_directories_whose_names_are_short_enough() -> None:
    values = [str([[5, index % 7] for index in range(90)] + [[end]]) for end in (1, 2)]
    names = {run.name.partition("/")[0] for run in sweep_runs([1], {"centers": values, "ö": ["é" * 99]})}
    assert len(names) == 2 and all(200 < len(name.encode()) <= 255 for name in names)
    assert len({name[:200] for name in names}) == 1
