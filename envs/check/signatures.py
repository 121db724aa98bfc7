"""Whether the methods of a user's environment take what the toolkit gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from mmaml.envs.base import WRITE_IT, TaskVectorEnv
from mmaml.envs.check.findings import WARNING, Finding, error, warning
from mmaml.envs.layers import class_name, layer_with, layers

# What parameters of `sample_tasks` that are no number of tasks are called, here and in other toolkits.
RNG_NAMES = ("rng", "np_random", "random_state", "generator", "random_generator")
RANDOM = "random"  # the generator where it has no default; with one it may be a flag
SPLIT, SEED = "split", "seed"
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
    """Of an object that is a `gymnasium.Env` with tasks; of what it wraps, too."""
    name, (*_, inner) = class_name(env), layers(env)
    findings = [
        *of_sample_tasks(env, name),
        *_of_reset(inner, name),
        *_of_arguments(layer_with(env, "set_task"), name, "set_task", "task"),
        *_of_arguments(inner, name, "step", "action"),
    ]
    if inner is not env:
        findings += [*_of_reset(env, type(env).__name__), *_of_arguments(env, type(env).__name__, "step", "action")]
    return findings


def of_family(family: type[TaskVectorEnv]) -> list[Finding]:
    """Of a class that is a `TaskVectorEnv`: its constructor, and the methods that it has to write."""
    name, findings = family.__name__, []
    for method, caller in REQUIRED_BY.items():
        if all(getattr(family, one) is getattr(TaskVectorEnv, one) for one in (method, caller)):
            findings.append(error(f"{name}.{method}", "is missing", WRITE_IT))
    for method, (expected, *arguments) in FAMILY_METHODS.items():
        parameters = _parameters(family, method)
        if parameters is not None and not _takes(parameters, arguments, {}):
            findings.append(_unexpected(name, method, parameters)._replace(expected=expected))
    return findings


def takes_split(env: Any) -> bool:
    """Whether its `sample_tasks` has an argument for the split."""
    return SPLIT in {parameter.name for parameter in _parameters(layer_with(env, "sample_tasks"), "sample_tasks") or []}


def call_sample_tasks(env: Any, n: int, rng: np.random.Generator, split: str, *, examined: bool = False) -> Any:
    """What it returns. What it is given goes by the names of its parameters, whatever their order.

    Raises TypeError for one that does not take a number of tasks and a generator. examined: call it without the
    generator then, to see what else is wrong.
    """
    owner = layer_with(env, "sample_tasks")
    parameters = _parameters(owner, "sample_tasks")
    arguments = ([n, rng], {}) if parameters is None else _arguments(parameters, n, rng, split)
    if arguments is None and examined:
        arguments = ([n], {})
    if arguments is None:
        raise TypeError(f"expected {EXPECTED['sample_tasks']}")
    return owner.sample_tasks(*arguments[0], **arguments[1])


def _arguments(
    parameters: list[inspect.Parameter], n: int, rng: np.random.Generator, split: str
) -> tuple[list[Any], dict[str, Any]] | None:
    """What a `sample_tasks` with these parameters is given, by position and by name; None if it cannot be called.

    n goes to the first parameter that is no generator, split or seed. The generator goes to the one of its name; where
    there is none, to the second such parameter that has no default and can be given by position.
    """
    own = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    values: dict[str, Any] = {p.name: rng for p in own if _is_rng(p)}
    missing = [n] if values else [n, rng]
    values |= {p.name: split for p in own if p.name == SPLIT}
    for parameter in own:
        may_be_rng = parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
        is_free = parameter.name not in values and parameter.name != SEED
        if missing and is_free and (missing[0] is n or may_be_rng):
            values[parameter.name] = missing.pop(0)
    if missing and inspect.Parameter.VAR_POSITIONAL not in {parameter.kind for parameter in parameters}:
        if missing[0] is n:
            return None
        values["rng"] = missing.pop()  # for **kwargs, if any
    positional, named = list(missing), dict(values)
    if missing:  # for *args: what comes before it is given by position too
        before = [p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        positional = [named.pop(name) for name in before if name in named] + missing
    first = [p.name for p in own if p.kind is p.POSITIONAL_ONLY]
    positional = [named.pop(name) for name in first if name in named] + positional
    return (positional, named) if _takes(parameters, positional, named) else None


def _is_rng(parameter: inspect.Parameter) -> bool:
    """Whether its name says that it takes the generator."""
    return parameter.name in RNG_NAMES or (parameter.name == RANDOM and parameter.default is parameter.empty)


def takes_seed(env: Any) -> bool:
    """Whether its `reset` takes `seed` by name."""
    parameters = _parameters(env, "reset")
    return parameters is None or _takes(parameters, [], {"seed": 0})


def of_sample_tasks(env: Any, name: str) -> list[Finding]:
    """Whether it takes a number of tasks and a generator, and says by a name which one is the generator."""
    parameters = _parameters(layer_with(env, "sample_tasks"), "sample_tasks")
    if parameters is None:
        return []
    rng = np.random.default_rng(0)
    arguments = _arguments(parameters, 1, rng, "train")
    if arguments is None:
        return [_unexpected(name, "sample_tasks", parameters)]
    given = inspect.Signature(parameters).bind(*arguments[0], **arguments[1]).arguments
    unnamed = [p.name for p in parameters if given.get(p.name) is rng and not _is_rng(p)]
    problem = "gets the generator as its parameter {}, the second one without a default"
    remedy = 'call that one "rng", or give it a default'
    return [warning(f"{name}.sample_tasks", problem.format(f"'{parameter}'"), remedy) for parameter in unnamed]


def _of_arguments(env: Any, name: str, method: str, argument: str) -> list[Finding]:
    parameters = _parameters(env, method)
    return [] if parameters is None or _takes(parameters, [argument], {}) else [_unexpected(name, method, parameters)]


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
