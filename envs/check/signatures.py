"""Whether the methods of a user's environment take what the toolkit gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.check.findings import WARNING, Finding, error

# What parameters of `sample_tasks` that are no number of tasks are called, here and in other toolkits.
RNG_NAMES = ("rng", "np_random", "random", "random_state", "generator", "random_generator")
SPLIT = "split"
EXPECTED = {
    "sample_tasks": "sample_tasks(n, rng) or sample_tasks(n, rng, split)",
    "set_task": "set_task(task)",
    "reset": "reset(*, seed=None, options=None)",
    "step": "step(action)",
}
# What a family has to write, and the method of the base class that needs it.
REQUIRED_BY = {
    "_draw_tasks": "sample_tasks",
    "_set_tasks": "set_tasks",
    "_reset_lanes": "reset",
    "_observe": "reset",
    "step": "step",
}
# Of a family: what its methods take, in words and as the sampler gives it.
FAMILY_METHODS = {
    "sample_tasks": ("sample_tasks(n, rng, split='train')", "n", "rng", "split"),
    "set_tasks": ("set_tasks(tasks)", "tasks"),
    "step": ("step(actions)", "actions"),
}


def of_environment(env: Any) -> list[Finding]:
    """Of an object, or a class, that is a `gymnasium.Env` with tasks."""
    name = _class_of(env).__name__
    findings = []
    for method, arguments in (("set_task", ["task"]), ("step", ["action"])):
        parameters = _parameters(env, method)
        if parameters is not None and not _takes(parameters, arguments, {}):
            findings.append(_unexpected(name, method, parameters))
    return [*_of_sample_tasks(env, name), *_of_reset(env, name), *findings]


def of_family(family: type[TaskVectorEnv]) -> list[Finding]:
    """Of a class that is a `TaskVectorEnv`: its constructor, and the methods that it has to write."""
    name, findings = family.__name__, []
    for method, caller in REQUIRED_BY.items():
        if all(getattr(family, one) is getattr(TaskVectorEnv, one) for one in (method, caller)):
            findings.append(error(f"{name}.{method}", "is missing", "write it as mmaml.envs.base.TaskVectorEnv says"))
    for method, (expected, *arguments) in FAMILY_METHODS.items():
        parameters = _parameters(family, method)
        if parameters is not None and not _takes(parameters, arguments, {}):
            findings.append(_unexpected(name, method, parameters)._replace(expected=expected))
    return findings


def takes_split(env: Any) -> bool:
    """Whether its `sample_tasks` has an argument for the split."""
    return SPLIT in {parameter.name for parameter in _parameters(env, "sample_tasks") or []}


def call_sample_tasks(env: Any, n: int, rng: np.random.Generator, split: str) -> Any:
    """What it returns, called by the names of its parameters, so that an unusual order of them does not matter."""
    parameters = _parameters(env, "sample_tasks")
    if parameters is None:
        return env.sample_tasks(n, rng)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    counted = False
    for parameter in parameters:
        if parameter.name in RNG_NAMES:
            value: Any = rng
        elif parameter.name == SPLIT:
            value = split
        elif not counted:
            value, counted = n, True
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            value = rng  # a generator by another name
        else:
            break
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        elif parameter.kind is parameter.VAR_POSITIONAL:
            positional.extend([n, rng][len(positional) :])
        else:
            positional.append(value)
    return env.sample_tasks(*positional, **named)


def takes_seed(env: Any) -> bool:
    """Whether its `reset` takes `seed` by name."""
    parameters = _parameters(env, "reset")
    return parameters is None or _takes(parameters, [], {"seed": 0})


def _of_sample_tasks(env: Any, name: str) -> list[Finding]:
    parameters = _parameters(env, "sample_tasks")
    if parameters is None:
        return []
    named = {SPLIT: "train"} if takes_split(env) else {}
    first = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]
    in_order = not first[:1] or first[0] not in (*RNG_NAMES, SPLIT)
    if _takes(parameters, ["n", "rng"], named) and in_order:
        return []
    return [_unexpected(name, "sample_tasks", parameters)]


def _of_reset(env: Any, name: str) -> list[Finding]:
    parameters = _parameters(env, "reset")
    if parameters is None or _takes(parameters, [], {"seed": 0, "options": None}):
        return []
    if not _takes(parameters, [], {"seed": 0}):
        return [_unexpected(name, "reset", parameters)]
    return [_unexpected(name, "reset", parameters)._replace(level=WARNING)]


def _unexpected(name: str, method: str, parameters: list[inspect.Parameter]) -> Finding:
    got = f"{method}({', '.join(map(str, _without_types(parameters)))})"
    remedy = "change its parameters"
    if method == "reset":
        remedy = "Gymnasium's reset, unlike old Gym's, takes them by name"
    return error(f"{name}.{method}", expected=EXPECTED[method], got=got, remedy=remedy)


def _without_types(parameters: list[inspect.Parameter]) -> list[str]:
    """As in a signature, a `*` before parameters that are taken by name alone."""
    texts: list[str] = []
    starred = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            texts.append("*")
        starred = starred or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        texts.append(str(parameter.replace(annotation=parameter.empty)))
    return texts


def _takes(parameters: list[inspect.Parameter], positional: list[Any], named: dict[str, Any]) -> bool:
    try:
        inspect.Signature(parameters).bind(*positional, **named)
    except TypeError:
        return False
    return True


def _parameters(env: Any, method: str) -> list[inspect.Parameter] | None:
    """Of a method, without `self`; None where it is not written in Python, or not there."""
    function: Callable[..., Any] | None = getattr(env, method, None)
    try:
        parameters = list(inspect.signature(function).parameters.values())  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    bound = not isinstance(env, type) or inspect.ismethod(function)
    static = isinstance(inspect.getattr_static(_class_of(env), method, None), staticmethod)
    return parameters if bound or static else parameters[1:]


def _class_of(env: Any) -> type:
    return env if isinstance(env, type) else type(env)
