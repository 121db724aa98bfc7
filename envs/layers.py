"""A user's environment and what it wraps: which layer has a method or attribute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym


def layers(env: Any) -> Iterator[Any]:
    """The environment, what it wraps, and so on, the outermost first."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def layer_with(env: Any, name: str) -> Any:
    """The outermost layer that has a method or attribute of that name; None where none has it."""
    return next((layer for layer in layers(env) if hasattr(layer, name)), None)


def attribute(env: Any, name: str, default: Any) -> Any:
    """Its value in the outermost layer that has it."""
    return getattr(layer_with(env, name), name, default)


def class_name(env: Any) -> str:
    """The class of the innermost layer, which is the user's."""
    *_, inner = layers(env)
    return type(inner).__name__
