"""The tests themselves: what they share lies in tests/helpers, not in one another; none goes by a clock."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
TEST_FILES = [path for path in FILES if path.name.startswith("test_")]
# A test file as a module, or as the place of an environment: "tests.folder.test_file:Class".
TEST_MODULE = re.compile(r"tests\.(\w+\.)*test_\w+")


def relative(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, with the names that it takes from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def texts(path: Path) -> Iterator[str]:
    """Every text in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_takes_anything_from_a_test_file(path: Path) -> None:
    assert not [text for text in (*imported(path), *texts(path)) if TEST_MODULE.match(text)]


@pytest.mark.parametrize("path", TEST_FILES, ids=relative)
def test_no_test_measures_time_or_lets_it_pass(path: Path) -> None:
    """It waits for an event, by `helpers.waiting`."""
    assert not [name for name in imported(path) if name.partition(".")[0] == "time"]
