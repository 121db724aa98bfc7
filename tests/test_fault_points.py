"""The points at which tests have faults happen: each is one that a run reaches, and costs nothing where none do."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from mmaml import fault_points
from mmaml.fault_points import Point, reached
from tests.helpers.support import run, small_config

PACKAGE = Path(fault_points.__file__).parent


def points_in_the_code() -> list[str]:
    """The names with which `reached` is called."""
    calls = (node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    return [
        node.args[0].value  # type: ignore[attr-defined,misc]
        for node in calls
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached"
    ]


def test_every_point_is_one_place_in_the_code() -> None:
    assert sorted(points_in_the_code()) == sorted(get_args(Point))


def test_without_a_handler_nothing_happens() -> None:
    assert fault_points.handler is None
    reached("sampling", iteration=0, purpose="train")


def test_a_run_reaches_them_in_order_and_says_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, dict[str, int | str]]] = []
    monkeypatch.setattr(fault_points, "handler", lambda point, when: seen.append((point, when)))
    run(small_config("maml", n_itr=2, num_inner_grad_steps=2, max_path_length=3, dump_path=str(tmp_path / "run")))
    first = [one for one in seen if one[0] != "time step"]
    start = first.index(("sampling", {"iteration": 0, "purpose": "train"}))
    assert first[start + 1 : start + 6] == [
        ("advantages", {"collection": 0}),
        ("adaptation", {"collection": 0}),
        ("advantages", {"collection": 1}),
        ("adaptation", {"collection": 1}),
        ("advantages", {"collection": 2}),
    ]
    assert first[start + 6][0] == "evaluation"
    assert ("sampling", {"iteration": 1, "purpose": "train"}) in seen
    assert ("evaluation", {"function": "meta_gradient"}) in seen
    assert seen.count(("time step", {})) == 2 * 3 * 3  # iterations, collections, steps
    saved = seen.index(("checkpoint", {"saved": 2}))
    assert ("half written", {"file": "itr_000002.pt"}) in seen[saved:]
