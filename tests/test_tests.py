"""The tests themselves: what they share lies in tests/helpers, not in one another."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
# A test file as a module, or as the place of an environment: "tests.folder.test_file:Class".
TEST_MODULE = re.compile(r"tests\.(\w+\.)*test_\w+")


def modules_and_texts(path: Path) -> Iterator[str]:
    """The modules that a file imports, with the names it takes from them, and every text in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_file_takes_anything_from_a_test_file(path: Path) -> None:
    assert not [text for text in modules_and_texts(path) if TEST_MODULE.match(text)]
