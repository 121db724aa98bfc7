"""Where things are: what is to be known of an algorithm is in its file alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmaml.config.algorithms import ALGORITHMS

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "mmaml" / "config" / "algorithms.py"
PACKAGE = "mmaml"  # and the command; also the name of an algorithm
MODULES = [path for path in (ROOT / "mmaml").rglob("*.py") if path != TABLE and path.parent.name != "algorithms"]


def algorithm_names() -> list[str]:
    """Names in configurations, and classes."""
    classes = [place.partition(":")[2] for place in ALGORITHMS.values()]
    return [name for name in (*ALGORITHMS, *classes) if name != PACKAGE]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_names_an_algorithm(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.findall(rf"\b(?:{'|'.join(algorithm_names())})\b", text)
    found += re.findall(rf"""algorithm["']?\s*(?:=|==|!=|:|in)\s*\(?["']{PACKAGE}["']""", text)
    assert not found


def test_no_code_reads_an_error_or_the_log_back() -> None:
    """What must be known later is a value of its own; errors.py alone looks at the text of an exception."""
    reads = re.compile(r"str\((\w*error|failure|finding|reason)\)\.(?!strip\(\))|\bMESSAGES\)\.read")
    found = [path.name for path in MODULES if reads.search(path.read_text(encoding="utf-8"))]
    assert found == ["errors.py"]
    users = {path.name for path in MODULES if re.search(r"\bMESSAGES\b", path.read_text(encoding="utf-8"))}
    assert users == {"layout.py", "run_logger.py"}  # which names it, and which writes it


def test_the_table_and_no_other_file_of_the_package_was_left_out() -> None:
    assert TABLE.is_file() and len(MODULES) > 50
    assert set(algorithm_names()) >= {"promp", "ProMP", "MMAML", "e_maml", "EMAML"}
