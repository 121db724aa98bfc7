"""What crosses between a user's code and ours belongs to each side alone: later changes of one do not reach the other.

Tasks and arguments are copied here. What `reset` and `step` return is copied as soon as it is read: by the adapter,
which writes it into arrays, and by `mmaml.envs.block_answers`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmaml.envs.shown import shown
from mmaml.errors import described


def own_arguments(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the arguments of an environment, which shares nothing with them."""
    return copy.deepcopy(dict(env_kwargs))


def own_task(task: Any) -> Any:
    """A copy of a task, which shares nothing with it. Raises ValueError for one that cannot be copied."""
    try:
        return copy.deepcopy(task)
    except Exception as error:  # a user's object may refuse in any way
        text = f"expected tasks that can be copied, got {shown(task)} ({described(error)})"
        raise ValueError(text) from error
