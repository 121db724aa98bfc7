"""The buffer of earlier trials."""

from __future__ import annotations

import numpy as np
import torch

from mmaml.updates.buffer import Buffer


def entries(*numbers: int) -> dict[str, torch.Tensor]:
    """Each with its number in all places."""
    values = torch.tensor(numbers, dtype=torch.float32)
    return {"rewards": values[:, None].expand(-1, 2), "actions": values[:, None, None].expand(-1, 2, 3)}


def numbers_in(held: dict[str, torch.Tensor]) -> list[int]:
    assert torch.equal(held["rewards"][:, 0], held["actions"][:, 1, 2])  # of one entry all tensors
    return held["rewards"][:, 0].int().tolist()


def buffer() -> Buffer:
    return Buffer({"rewards": (2,), "actions": (2, 3)}, capacity=5)


def test_it_holds_the_newest() -> None:
    held = buffer()
    assert len(held) == 0 and held.state_dict() == {}
    held.add(entries(1, 2, 3))
    assert len(held) == 3
    held.add(entries(4, 5, 6))
    assert numbers_in(held.state_dict()) == [2, 3, 4, 5, 6]
    before = held.state_dict()
    held.add(entries(*range(10, 20)))
    assert numbers_in(held.state_dict()) == [15, 16, 17, 18, 19]
    assert numbers_in(before) == [2, 3, 4, 5, 6]
    for value in held.state_dict().values():
        assert value.untyped_storage().nbytes() == value.nbytes  # none of what was dropped


def test_what_is_drawn_is_different_entries_by_the_generator_alone() -> None:
    held = buffer()
    held.add(entries(1, 2, 3, 4, 5))
    drawn = numbers_in(held.draw(np.random.default_rng(0), 3))
    assert len(set(drawn)) == 3 and drawn == numbers_in(held.draw(np.random.default_rng(0), 3))
    assert sorted(numbers_in(held.draw(np.random.default_rng(1), 99))) == [1, 2, 3, 4, 5]


def test_it_goes_on_from_its_state() -> None:
    held, again = buffer(), buffer()
    held.add(entries(1, 2, 3, 4))
    again.load_state_dict(held.state_dict())
    for one in (held, again):
        one.add(entries(7, 8))
    assert numbers_in(again.state_dict()) == numbers_in(held.state_dict()) == [2, 3, 4, 7, 8]
    again.load_state_dict({})
    assert len(again) == 0
