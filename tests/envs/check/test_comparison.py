"""Whether two values of a user's code are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmaml.envs.base import Task
from mmaml.envs.check.comparison import copied, same


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize(
    "value",
    [
        1.5, float("nan"), "a", None, (1, 2), {"a": [1, {2}]}, np.arange(3), np.array([np.nan, 1]), Holder(np.zeros(2)),
        np.array([{"a": 1}, None], object), torch.zeros(2), np.random.default_rng(3), range(4), b"x",
        Task(0, {"goal": np.zeros(2)}), lambda x=2: x,
    ],
)  # fmt: skip
def test_a_copy_is_the_same_and_another_value_is_not(value: Any) -> None:
    assert same(value, copied(value))
    assert not same(value, Holder(3))
    assert same([value, value], [copied(value), copied(value)])
    assert not same([value], [value, value])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1, True), (np.zeros(2), np.zeros(3)), (np.zeros(2), np.zeros(2, np.float32)), ({"a": 1}, {"b": 1}),
        (Holder([1]), Holder([2])), (Task(0, {"goal": np.zeros(2)}), Task(0, {"goal": np.ones(2)})),
        (np.random.default_rng(3), np.random.default_rng(4)), (torch.zeros(2), torch.ones(2)),
        (lambda x=2: x, lambda x=3: x),
    ],
)  # fmt: skip
def test_what_differs_is_not_the_same(one: Any, other: Any) -> None:
    assert not same(one, other)
