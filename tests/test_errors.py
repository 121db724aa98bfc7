"""Errors that a user can correct: one line, made of its parts."""

from __future__ import annotations

import pickle

import pytest

from mmaml.errors import MAX_LINE_LENGTH, ConfigError, UsageError, described
from mmaml.storage.checkpoint_format import CheckpointError


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (
            {"expected": "a number", "got": "'x'", "remedy": "leave it out"},
            "seed: expected a number, got 'x'; leave it out",
        ),
        ({"expected": "a number"}, "seed: expected a number"),
        ({"problem": "unknown key"}, "seed: unknown key"),
        ({"problem": "unknown key", "remedy": "drop it"}, "seed: unknown key; drop it"),
        ({"problem": "a\nb\x1b"}, r"seed: a\nb\x1b"),
    ],
)
@pytest.mark.parametrize("kind", [UsageError, ConfigError, CheckpointError])
def test_an_error_is_a_line_of_its_parts(kind: type[UsageError], parts: dict[str, str], line: str) -> None:
    error = kind("seed", **parts)
    copy = pickle.loads(pickle.dumps(error))
    assert str(error) == str(copy) == line and type(copy) is kind
    assert str(error.renamed("--seed")) == f"--{line}" and type(error.renamed("--seed")) is kind


def test_a_text_without_parts_is_no_error_of_a_user() -> None:
    for parts in ({}, {"remedy": "try again"}, {"got": "'x'"}):
        with pytest.raises(TypeError, match="needs a problem, or what is expected"):
            UsageError("seed: something is wrong", **parts)


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError("a\n b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
    ],
)
def test_any_exception_can_be_described(error: Exception, text: str) -> None:
    assert described(error) == text


def test_a_long_error_keeps_its_ends() -> None:
    line = str(UsageError("seed", "x" * 10 * MAX_LINE_LENGTH, "drop it"))
    assert len(line) <= MAX_LINE_LENGTH + 3 and line.startswith("seed: x") and line.endswith("x; drop it")
