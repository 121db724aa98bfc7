"""What builds an environment: a class or function at "package.module:Name", or an id of Gymnasium's registry."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym

from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.layers import class_name, layer_with, layers
from mmaml.envs.ownership import own_arguments
from mmaml.envs.shown import shown
from mmaml.errors import ConfigError, described
from mmaml.extras import not_installed

METHODS = {"sample_tasks": "sample_tasks(n, rng)", "set_task": "set_task(task)"}
TASKS = "a gymnasium.Env with sample_tasks(n, rng) and set_task(task)"


class UnknownEnvironment(ConfigError):
    """A name that is neither a family's nor that of an environment that can be used."""


class Source(NamedTuple):
    """What builds environments. name: of the class, as far as it is known, else the text that named it.

    make: called with the arguments of the environment; a class of families, after M and N. is_family: whether it is
    such a class, a `TaskVectorEnv`; else what it makes is a `gymnasium.Env` with tasks. takes: what has the
    signature of the arguments, None where nothing has. env_kwargs: the arguments, a copy of the user's.
    """

    name: str
    make: Callable[..., Any]
    is_family: bool
    takes: Callable[..., Any] | None
    env_kwargs: Mapping[str, Any] = MappingProxyType({})

    def with_arguments(self, env_kwargs: Mapping[str, Any]) -> Source:
        """The same with a copy of these arguments."""
        return self._replace(env_kwargs=own_arguments(env_kwargs))

    def build(self, *counts: int) -> Any:
        """An environment, which gets a copy of the arguments to keep and to change. counts: M and N, of a family."""
        return self.make(*counts, **own_arguments(self.env_kwargs))


def load(text: str, families: Collection[str] = ()) -> Source:
    """What builds the environments that `text` names. families: further names, of which a near one is suggested.

    Raises UnknownEnvironment if there is nothing of that name, or nothing that can be used.
    """
    module_name, _, name = text.rpartition(":")
    if not module_name or not name:
        if text in gym.registry:
            return _registered(text)
        near = [known for known in families if known.rpartition("/")[2] == text] or [
            match
            for likeness in (0.85, 0.6)
            for names in (families, gym.registry)
            for match in difflib.get_close_matches(text, names, n=1, cutoff=likeness)
        ]
        hint = f"did you mean '{near[0]}'?" if near else f"known families: {', '.join(families)}"
        expected = "a task family, 'package.module:ClassName' or an id of Gymnasium's registry"
        raise UnknownEnvironment("env", expected=expected, got=f"'{text}'", remedy=hint)
    try:
        module = importlib.import_module(module_name)
        if not hasattr(module, name) and name in gym.registry:  # which importing the module has registered
            return _registered(name)
        found = getattr(module, name)
    except Exception as error:  # a user's module may fail in any way
        if isinstance(error, ImportError) and (missing := not_installed(error)):
            raise UnknownEnvironment("env", f"'{text}' cannot be loaded: {missing}") from error
        remedy = "check the name, and that its package is installed or its folder on PYTHONPATH"
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "envs":
            remedy += " (the toolkit's own families are imported as mmaml.envs)"
        raise UnknownEnvironment("env", f"'{text}' cannot be loaded ({described(error)})", remedy) from error
    if isinstance(found, type) and issubclass(found, TaskVectorEnv):
        return Source(found.__name__, found, True, found)
    if not callable(found) or (isinstance(found, type) and not issubclass(found, gym.Env)):
        raise _refused(text, _of_old_gym(found) or shown(found))
    return Source(getattr(found, "__name__", text), partial(_made, text, found), False, found)


def _registered(name: str) -> Source:
    """Of an id of Gymnasium's registry. Its checker, which looks at every step, is left out."""
    return Source(name, partial(_made, name, partial(gym.make, name, disable_env_checker=True)), False, None)


def _made(text: str, make: Callable[..., Any], /, **env_kwargs: Any) -> gym.Env:
    """An environment with tasks, which `make` builds.

    Raises UnknownEnvironment if it builds something else, which is closed.
    """
    env = make(**env_kwargs)
    if not isinstance(env, gym.Env):
        refused = _refused(text, _of_old_gym(type(env)) or shown(env))
    elif lacks := [
        form for method, form in METHODS.items() if not callable(getattr(layer_with(env, method), method, None))
    ]:
        refused = _refused(text, f"{class_name(env)} without {' and '.join(lacks)}", "write them in a subclass")
    else:
        return env
    with suppress(Exception, SystemExit):  # it may be anything
        env.close()
    raise refused


def check_new(name: str, env: Any, seen: set[int]) -> None:
    """Raise ConfigError if an environment, or one that it wraps, is that of another lane: lanes would share its state.

    name: of what has made it. seen: the ids of the environments of other lanes, which still exist, and of those that
    they wrap; the new ones are added.
    """
    for layer in layers(env):
        if id(layer) in seen:
            expected, got = f"a new environment each time {name} is called", f"the same {type(layer).__name__} again"
            raise ConfigError("env", "", "build it, and all that it wraps, in each call", expected=expected, got=got)
    seen.update(map(id, layers(env)))


def _refused(text: str, got: str, remedy: str = "") -> UnknownEnvironment:
    remedy = f"{remedy}; see docs/environments.md" if remedy else "see docs/environments.md"
    expected = f"at '{text}' {TASKS}, a function that makes one, or a TaskVectorEnv"
    return UnknownEnvironment("env", expected=expected, got=got, remedy=remedy)


def _of_old_gym(found: Any) -> str:
    """What an environment of old Gym is called; "" for anything else."""
    bases = found.__mro__ if isinstance(found, type) else ()
    is_old = any(base.__module__.partition(".")[0] == "gym" for base in bases)
    return f"{found.__name__} of old Gym's Env, from which gymnasium.Env differs" if is_old else ""


def check_arguments(name: str, source: Source, env_kwargs: Mapping[str, Any], named: Collection[str] = ()) -> None:
    """Raise ConfigError for an argument that `source` does not take, where it says which it takes.

    named: arguments that the name says.
    """
    try:
        parameters = () if source.takes is None else inspect.signature(source.takes).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return
    if source.takes is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    accepted = [parameter.name for parameter in parameters]
    if source.is_family:
        accepted = [key for key in accepted if key not in ("num_tasks", "rollouts_per_task", *named)]
    for key in env_kwargs:
        if key not in accepted:
            known = f"takes {', '.join(accepted)}" if accepted else "takes no arguments"
            raise ConfigError("env_kwargs", f"'{name}' {known}, got '{key}'")
