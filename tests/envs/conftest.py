"""Of every test of task families."""

from __future__ import annotations

import pytest

from tests.helpers.user_environments import Walk


@pytest.fixture(autouse=True)
def forget() -> None:
    """No test sees the environments that another has built."""
    Walk.built.clear()
