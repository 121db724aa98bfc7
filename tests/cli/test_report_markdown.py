"""The Markdown of a report: the numbers of its runs, one row for each experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmaml.cli import report
from tests.helpers.reported import write_evaluation, write_run

TRAINING = [[-800, -8], [-700, -6]]


def table(path: Path) -> list[list[str]]:
    """The cells of the lines of a table."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_returns_and_costs_are_those_of_the_runs(empty_folder: Path) -> None:
    spread = np.linspace(-5.0, 5.0, 101)
    for seed, mean in ((1, -120.0), (2, -130.0)):
        run = write_run(empty_folder / "a" / f"seed_{seed}", TRAINING, seed=seed)
        write_evaluation(run, np.stack([spread - 900, spread + mean], 1), [0] * 101)
    run = write_run(empty_folder / "b", [[*row, 0.5] for row in TRAINING], algorithm="rl2")
    write_evaluation(run, np.stack([spread, spread + 1, spread + 2], 1), [0] * 101, by_episode=True)
    assert report.main(["MMAML=a", "RL²=b", "--output", "returns.MD"]) == 0
    header, _, gradient, memory = table(empty_folder / "returns.MD")
    assert "95% intervals" in (empty_folder / "returns.MD").read_text()  # what brackets are
    assert header[:3] == ["", "seeds", "before adaptation, or episode 1"]
    assert header[3:] == ["after 1 step, or episode 2", "episode 3", "env steps", "CPU time"]
    assert gradient[:2] == ["MMAML", "2"] and gradient[4:] == ["", "2,000", "0:00:06"]
    assert memory[:2] == ["RL²", "1"] and memory[5:] == ["2,000", "0:00:06"]
    value, low, high = map(float, gradient[3].replace("[", "").replace("]", "").replace(",", "").split())
    assert value == pytest.approx(-125, abs=0.5) and low == pytest.approx(-130, abs=1)
    assert high == pytest.approx(-120, abs=1)
    assert memory[2].startswith("0.00 [") or memory[2].startswith("0.0 [")


def test_returns_of_training_are_marked_and_a_bar_in_a_label_is_escaped(empty_folder: Path) -> None:
    write_run(empty_folder / "a", TRAINING)
    assert report.main(["x|y=a", "--output", "returns.md"]) == 0
    text = (empty_folder / "returns.md").read_text()
    assert "| x\\|y (in training) | 1 | -750.00 | -7.00 |" in text


def test_success_is_that_of_the_last_stage(empty_folder: Path) -> None:
    for seed, success in ((1, 0.5), (2, 0.75)):
        run = write_run(empty_folder / "a" / f"seed_{seed}", TRAINING, seed=seed)
        write_evaluation(run, np.zeros((4, 2)), [0] * 4, success=success, split="train")
    write_run(empty_folder / "b", TRAINING, algorithm="promp")
    assert report.main(["A=a", "B=b", "--output", "returns.md"]) == 0
    header, _, evaluated, other = table(empty_folder / "returns.md")
    assert header[4:] == ["success", "env steps", "CPU time"] and len(other) == len(header)
    assert (evaluated[0], evaluated[4]) == ("A (train tasks)", "62.5%")
    assert (other[0], other[4]) == ("B (in training)", "–")


def test_an_earlier_report_is_replaced_and_another_file_is_not(empty_folder: Path) -> None:
    write_run(empty_folder / "a", TRAINING)
    for _ in range(2):
        assert report.main(["a", "--output", "returns.md"]) == 0
    (empty_folder / "mine.md").write_text("# Mine\n")
    assert report.main(["a", "--output", "mine.md"]) == 2
    assert (empty_folder / "mine.md").read_text() == "# Mine\n"
