"""`mmaml envs`: the task families."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import TYPE_CHECKING, Any

from mmaml.cli.script import Parser, one_line_errors
from mmaml.cli.table import table
from mmaml.config.loading import read_config_file
from mmaml.config.shipped import shipped_configs
from mmaml.errors import UsageError

if TYPE_CHECKING:
    from gymnasium import Space

    from mmaml.envs.spec import EnvSpec
DESCRIPTION = """\
List the task families: the name that a configuration's key "env" takes, how many modes its tasks have, the splits that
it draws tasks for, the usual length of an episode in steps, and the sizes of observations and actions. With a NAME, or
"package.module:ClassName" of your own environment: all about that one.
"""
BLOCK = ("num_tasks", "rollouts_per_task")  # arguments of a family's constructor that the sampler sets


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Print the list, or one family. The exit code."""
    parser = Parser(prog, description=DESCRIPTION)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a family, or package.module:ClassName")
    name = parser.parse_args(argv).name
    print(listing() if name is None else details(name))
    return 0


def listing() -> str:
    """A row for each registered family."""
    from mmaml.envs.registry import FAMILIES

    rows = [("name", "modes", "splits", "horizon", "observation", "action")]
    problem = ""
    for name, registered in FAMILIES.items():
        try:
            spec = _spec(name)
        except UsageError as error:  # MuJoCo is not installed
            problem = problem or f"{error}\n"
            rows.append((name, "?", "?", str(registered.horizon), "?", "?"))
            continue
        sizes = _size(spec.observation_space), _size(spec.action_space)
        rows.append((name, str(spec.num_modes), " ".join(spec.splits), str(registered.horizon), *sizes))
    hint = '`mmaml envs NAME` tells more. "package.module:ClassName" names one of your own.'
    hint += "\nMeta-World's benchmarks are called Meta-World/ML10, Meta-World/ML1-reach-v3, …: docs/environments.md."
    return f"{table(rows)}\n\n{problem}{hint}"


def details(name: str) -> str:
    """All about one family. Raises UsageError if there is none of that name, or it cannot be built."""
    from mmaml.envs.registry import registered as registered_family

    spec = _spec(name)
    registered = registered_family(name)
    defaults = dict(registered.env_kwargs) if registered else {}
    scale = spec.normalization_scale
    facts = [
        ("modes", f"{spec.num_modes}" + (f": {', '.join(spec.mode_names)}" if spec.mode_names else "")),
        ("splits", ", ".join(spec.splits)),
        ("observations", str(spec.observation_space)),
        ("actions", str(spec.action_space)),
        ("rescaled", "no" if scale is None else f"[-{scale:g}, {scale:g}] to the bounds (normalization_scale)"),
    ]
    if registered:
        configs = [c for c, path in shipped_configs().items() if read_config_file(path).get("env") == name]
        facts += [
            ("horizon", f"{registered.horizon} steps, as usual"),
            ("class", registered.location),
            ("configs", ", ".join(configs) or "none"),
        ]
    own = _arguments(registered.location if registered else name, defaults)
    own = {argument: value for argument, value in own.items() if not registered or argument not in registered.named}
    facts.append(("env_kwargs", "may hold, with these defaults:" if own else "takes none"))
    width = max(len(fact) for fact, _ in facts)
    lines = [f"{fact:{width}}  {text}" for fact, text in facts]
    return "\n".join([name, *lines, *(f"{'':{width}}  {argument} = {value}" for argument, value in own.items())])


def _spec(name: str) -> EnvSpec:
    """What there is to know of a family with its default arguments. Raises UsageError."""
    from mmaml.envs.registry import check_family

    return check_family(name, {}, None)


def _size(space: Space) -> str:
    return f"{space.n} discrete" if hasattr(space, "n") else f"{space.shape[0]}" if space.shape else str(space)


def _arguments(place: str, given: dict[str, Any]) -> dict[str, str]:
    """The arguments of the class at "package.module:ClassName", with their defaults, over which `given` wins."""
    module, _, name = place.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in BLOCK]
    values = {p.name: given.get(p.name, p.default) for p in named}
    return {name: "(required)" if v is inspect.Parameter.empty else _json(v) for name, v in values.items()}


def _json(value: Any) -> str:
    return json.dumps(value, default=repr)
