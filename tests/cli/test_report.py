"""`mmaml report`: a page, or one line that says why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmaml.cli import report
from tests.helpers.reported import write_run

RETURNS = [[-800, -8], [-700, -6]]


@pytest.fixture
def here(empty_folder: Path) -> Path:
    write_run(empty_folder / "sweep" / "seed_1", RETURNS)
    write_run(empty_folder / "sweep" / "seed_2", RETURNS, seed=2)
    return empty_folder


def test_the_command_writes_a_page_and_writes_it_again(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert report.main(["sweep", "--title", "Mine", "--smooth", "2"]) == 0
        assert capfd.readouterr().out == "report.html\n"
    text = (here / "report.html").read_text()
    assert "<h1>Mine</h1>" in text and "sweep/seed_2" in text and str(here) not in text
    assert report.main(["Ours=sweep/seed_1", "sweep/seed_2", "--output", "new/page.html"]) == 0
    assert "Ours" in (here / "new" / "page.html").read_text()


def test_runs_without_an_iteration_are_mentioned(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "sweep" / "seed_2" / "progress.csv").unlink()
    assert report.main(["sweep"]) == 0
    assert capfd.readouterr().err == "notice: sweep/seed_2 has no finished iteration, and is left out.\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["missing"], "RUN: expected the directory of a run, with its params.json, got 'missing'; check the path"),
        (["empty"], "RUN: expected a run with finished iterations in 'empty', got none; check the path"),
        (["=sweep"], "RUN: expected LABEL=VALUE, got '=sweep'"),
        (["sweep", "--smooth", "0"], "--smooth: expected a whole number ≥ 1, got 0"),
        (["sweep", "--title", "a\nb"], "--title: expected "),
        (["sweep", "--output", "empty.md"], "--output: expected a file, got the directory 'empty.md'"),
        (["sweep", "--output", "notes.html"], "--output: 'notes.html' exists and is not an earlier report; choose"),
        (["sweep", "--output", "a.pdf"], "--output: expected a file that ends in .html, .htm or .md, got 'a.pdf'"),
        ([], "command line: the following arguments are required: RUN"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    here: Path, capfd: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    (here / "empty").mkdir()
    (here / "empty.md").mkdir()
    (here / "notes.html").write_text("mine")
    before = sorted(os.listdir(here))
    assert report.main(words) == 2
    errors = capfd.readouterr().err
    assert errors.startswith(f"error: {reason}") and errors.count("\n") == 1
    assert sorted(os.listdir(here)) == before and (here / "notes.html").read_text() == "mine"
