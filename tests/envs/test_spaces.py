"""Spaces: which are taken, what their bounds mean, and how a policy's actions become theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mmaml.config.loading import build_config
from mmaml.envs.registry import check_family, make_family
from mmaml.envs.spaces import is_flat_box, rescale_actions, to_environment, within, without_huge_bounds
from mmaml.errors import ConfigError
from mmaml.sampling.policy_spaces import PolicySpaces
from tests.helpers.sharing_envs import Point
from tests.helpers.support import SMALL, assert_same_states, dump, run, small_config

HERE = __name__
BOX = gym.spaces.Box
LARGEST = float(np.finfo(np.float32).max)


# Whole numbers.


def shares(found: np.ndarray) -> dict[int, float]:
    values, counts = np.unique(found, return_counts=True)
    return dict(zip(values.tolist(), counts / counts.sum(), strict=True))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_whole_numbers_are_the_nearest_ones(dtype: type) -> None:
    """Of a uniform draw over -2 … 2 each inner number gets a quarter, and each end half of that."""
    space = BOX(-2, 2, (1,), dtype)
    drawn = np.random.default_rng(0).uniform(-1, 1, (40_000, 1)).astype(np.float32)
    found = within(to_environment(drawn, space, 1.0), space)
    assert found.dtype == dtype
    expected = {-2: 1 / 8, -1: 1 / 4, 0: 1 / 4, 1: 1 / 4, 2: 1 / 8}
    assert shares(found) == pytest.approx(expected, abs=0.01)
    np.testing.assert_array_equal(found, PolicySpaces(1, space, 1.0).to_environment(drawn))
    np.testing.assert_array_equal(found, within(2 * drawn, space))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, np.uint8), (-128, 127, np.int8), (-(2**31), 2**31 - 1, np.int32), (-(2**63), 2**63 - 1, np.int64),
        (0, 2**64 - 1, np.uint64),
    ],
)  # fmt: skip
def test_the_whole_range_of_a_dtype_is_reached_and_never_left(low: int, high: int, dtype: type) -> None:
    space = BOX(low, high, (1,), dtype)
    found = within(to_environment(np.array([[-3], [-1], [1], [3]], np.float32), space, 1.0), space)
    assert found.ravel().tolist() == [low, low, high, high]
    middle = within(to_environment(np.zeros((1, 1), np.float32), space, 1.0), space).item()
    assert abs(middle - (low + high) / 2) <= 0.5 + (high - low) * 1e-6


def test_actions_without_a_scale_are_rounded_too() -> None:
    space = BOX(-2, 2, (2,), np.int64)
    actions = np.array([[0.6, -0.6], [0.4, -0.4], [2.6, -7]], np.float32)
    expected = [[1, -1], [0, 0], [2, -2]]
    assert within(to_environment(actions, space, None), space).tolist() == expected
    assert within(actions, space).tolist() == expected


class Steps(Point):
    """Keeps its actions, which are whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = BOX(-2, 2, (1,), np.int64)
        self.actions: list[np.ndarray] = []

    def step(self, action: np.ndarray) -> Any:
        assert self.action_space.contains(action)
        self.actions.append(action)
        return super().step(action.astype(float))


def test_an_environment_receives_whole_numbers() -> None:
    family = make_family(f"{HERE}:Steps", 1, 3)
    family.reset(seed=0)
    family.step(np.array([[1.6], [-0.4], [-9]], np.float32))
    assert [env.actions[0].item() for env in family._envs] == [2, 0, -2]  # type: ignore[attr-defined]


# Bounds.


HUGE = [(-LARGEST, LARGEST, np.float32), (-1e31, 1e31, np.float32), (-np.finfo(float).max, np.finfo(float).max, float)]


@pytest.mark.parametrize(("low", "high", "dtype"), HUGE)
def test_huge_bounds_are_infinite(low: float, high: float, dtype: type) -> None:
    space = without_huge_bounds(BOX(low, high, (2,), dtype))
    assert space == BOX(-np.inf, np.inf, (2,), dtype) and space.dtype == dtype
    assert not space.is_bounded("below") and not space.is_bounded("above")  # type: ignore[attr-defined]


def test_each_bound_is_seen_by_itself() -> None:
    one = without_huge_bounds(BOX(np.float32([0, -LARGEST]), np.float32([LARGEST, 3])))
    assert one == BOX(np.float32([0, -np.inf]), np.float32([np.inf, 3]))


@pytest.mark.parametrize("space", [BOX(-1e30, 1e30, (1,), float), BOX(-1, np.inf, (1,)), gym.spaces.Discrete(3)])
def test_other_spaces_are_left_as_they_are(space: gym.Space) -> None:
    assert without_huge_bounds(space) is space


class HugeBounds(Point):
    def __init__(self, infinite: bool = False) -> None:
        super().__init__()
        bound = np.inf if infinite else LARGEST
        self.observation_space = BOX(-bound, bound, (2,), np.float32)
        self.action_space = BOX(-bound, bound, (1,), np.float32)


def test_an_environment_with_huge_bounds_trains_as_one_without(tmp_path: Path) -> None:
    states = []
    for infinite in (False, True):
        keys: dict[str, Any] = {"env": f"{HERE}:HugeBounds", "env_kwargs": {"infinite": infinite}}
        states.append(run(small_config("promp", dump_path=dump(tmp_path, str(infinite)), **keys)))
        assert check_family(keys["env"], keys["env_kwargs"]).normalization_scale is None
    assert_same_states(*states)


def test_huge_bounds_cannot_be_scaled_to() -> None:
    with pytest.raises(ConfigError, match="normalization_scale: expected null for an environment with unbounded acti"):
        build_config(SMALL | {"env": f"{HERE}:HugeBounds", "normalization_scale": 1})


def test_a_difference_of_bounds_that_their_dtype_does_not_hold() -> None:
    low, high = np.array([-100], np.int8), np.array([100], np.int8)
    actions = np.array([[-1], [0], [0.5], [1]], np.float32)
    np.testing.assert_array_equal(rescale_actions(actions, low, high, 1.0), [[-100], [0], [50], [100]])


# Kinds of spaces.


class Spaces(Point):
    """Has one other space. observations: whether it is that of observations."""

    def __init__(self, kind: str, observations: bool) -> None:
        super().__init__()
        space = OTHERS[kind]
        if observations:
            self.observation_space = space  # type: ignore[assignment]
        else:
            self.action_space = space  # type: ignore[assignment]


OTHERS: dict[str, Any] = {
    "bool": BOX(0, 1, (2,), bool),
    "image": BOX(0, 255, (4, 4, 3), np.uint8),
    "number": BOX(-1, 1, ()),
    "empty": BOX(-1, 1, (0,)),
    "bits": gym.spaces.MultiBinary(3),
    "several": gym.spaces.MultiDiscrete([2, 3]),
    "dict": gym.spaces.Dict({"a": BOX(-1, 1, (1,))}),
    "tuple": gym.spaces.Tuple([BOX(-1, 1, (1,))]),
    "none": None,
    "a class": BOX,
}


@pytest.mark.parametrize("observations", [True, False])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_spaces_are_refused_by_name_with_what_to_do(kind: str, observations: bool) -> None:
    with pytest.raises(ConfigError) as refused:
        check_family(f"{HERE}:Spaces", {"kind": kind, "observations": observations})
    expected = "a Box of numbers in one dimension" + ("" if observations else ", or Discrete")
    where = f"Spaces.{'observation' if observations else 'action'}_space"
    assert str(refused.value).startswith(f"env: {where}: expected {expected}, got ")
    assert "; " in str(refused.value) and "\n" not in str(refused.value)


def test_a_box_of_bool_is_refused_with_what_to_use() -> None:
    for observations, remedy in (
        (True, "use a Box of np.float32"),
        (False, "use Discrete, or a Box"),
    ):
        with pytest.raises(ConfigError, match=rf"got Box\(False, True, \(2,\), bool\); {remedy}"):
            check_family(f"{HERE}:Spaces", {"kind": "bool", "observations": observations})
        assert not is_flat_box(OTHERS["bool"])
