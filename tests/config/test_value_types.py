"""Values of other types than JSON's, as a program in Python may give them."""

from __future__ import annotations

import enum
import json
from collections import UserDict, UserList
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.config.loading import build_config, canonical
from mmaml.config.value_types import plain
from mmaml.errors import ConfigError


class Collect(enum.StrEnum):
    EPISODES = "episodes"


class Size(enum.IntEnum):
    SMALL = 8


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("inner_lr", np.float32(0.1), float(np.float32(0.1))),
        ("inner_lr", [np.float64(0.5), np.float16(0.25)], (0.5, 0.25)),
        ("inner_lr", torch.tensor(0.5), 0.5),
        ("inner_lr", np.array(0.5), 0.5),
        ("n_itr", np.int64(5), 5),
        ("n_itr", np.float64(5), 5),
        ("normalize_rewards", np.bool_(True), True),
        ("collect", np.str_("episodes"), "episodes"),
        ("collect", Collect.EPISODES, "episodes"),
        ("hidden_sizes", (Size.SMALL, np.uint8(9)), (8, 9)),
        ("hidden_sizes", range(8, 10), (8, 9)),
        ("hidden_sizes", UserList([8, 9]), (8, 9)),
        ("env_kwargs", UserDict({np.str_("goal_limit"): np.float64(0.5)}), {"goal_limit": 0.5}),
    ],
)
def test_a_value_that_equals_one_of_json_is_taken_as_that(name: str, given: Any, taken: Any) -> None:
    config = build_config(canonical({"env": "2DNavigation-v0", name: given}, "keys"))
    value = getattr(config, name)
    assert value == taken and type(value) is type(taken)
    assert repr(value) == repr(taken)  # of Python's own types inside, too


@pytest.mark.parametrize(
    "given", [{"goals": ((1, 2), (3.0, None))}, {"a": [True, "b", {"c": np.int8(3)}]}, [np.float32(0.1)] * 3, 3, "x"]
)
def test_a_plain_value_is_what_json_gives_back(given: Any) -> None:
    """So that one rank and several, a new run and its continuation, give an environment the same arguments."""
    assert json.loads(json.dumps(plain(given))) == plain(given)


@pytest.mark.parametrize("given", [b"ab", {1}, object(), 1j, np.zeros(2), torch.zeros(1, 1)])
def test_anything_else_stays_what_it_is(given: Any) -> None:
    assert plain(given) is given


def test_a_list_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigError, match=r"^env_kwargs: expected a JSON object"):
        build_config(canonical({"env_kwargs": {"a": endless}}, "keys"))


@pytest.mark.parametrize(
    ("name", "given"),
    [("inner_lr", np.array([0.1, 0.2])), ("hidden_sizes", torch.tensor([8])), ("env_kwargs", {"a": np.zeros(2)})],
)
def test_an_array_is_refused_with_the_remedy(name: str, given: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: .*; give lists of numbers, as an array's tolist\(\) returns$"):
        build_config(canonical({name: given}, "keys"))


def test_a_class_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match=rf'^env: .*; give its name: "{__name__}:Size"$'):
        build_config(canonical({"env": Size}, "keys"))
