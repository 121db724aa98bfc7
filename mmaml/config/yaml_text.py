"""YAML as configurations have it: what JSON can hold, and in the files of other programs numbers such as 100_000.

Of YAML 1.2 only mappings, sequences and plain values: `yes` and `2024-01-01` are texts, as in JSON; what refers to
another part of the file, and tags that make objects, are refused.
"""

from __future__ import annotations

import re
from typing import Any

from mmaml.config.value_types import clipped, shown
from mmaml.errors import ConfigError, described

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}  # those of nodes that name none
_KINDS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9][0-9_]*",
    "float": r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?",
}


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Keys and values of a YAML mapping, in which none is repeated. source: what to call the text in an error.

    Raises ConfigError.
    """
    try:
        import yaml  # only where a file is one
    except ImportError as error:
        raise ConfigError(source, "is YAML, for which PyYAML has to be installed", "pip install PyYAML") from error
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        if node is None:
            raise ConfigError(source, expected="a YAML mapping, key: value", got="a file without keys")
        value = _value(node, source, set())
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(source, f"is not valid YAML ({error.problem}{where})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as characters that no text has
        raise ConfigError(source, f"is not YAML of a reasonable kind ({described(error)})") from error
    if not isinstance(value, dict):
        raise ConfigError(source, expected="a YAML mapping, key: value", got=shown(value))
    return value


def _value(node: Any, source: str, seen: set[int]) -> Any:
    """What a node of the text stands for. seen: the nodes that came before; one that comes again is a reference."""
    if id(node) in seen or node.tag not in _TAGS:
        remedy = "write out what is meant"
        raise ConfigError(source, f"line {node.start_mark.line + 1} has a reference or a tag", remedy)
    seen.add(id(node))
    if node.id == "scalar":
        return _plain(node.value) if node.style is None else node.value
    if node.id == "sequence":
        return [_value(item, source, seen) for item in node.value]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if key_node.id != "scalar":
            problem = f"line {key_node.start_mark.line + 1} has a key that is not text"
            raise ConfigError(source, problem, "write the key as text")
        if key in values:
            raise ConfigError(source, f"key '{clipped(key)}' is given twice", "keep one")
        values[key] = _value(value_node, source, seen)
    return values


def _plain(text: str) -> Any:
    """What a text without quotes stands for."""
    kind = next((kind for kind, pattern in _KINDS.items() if re.fullmatch(pattern, text)), "text")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind in ("int", "float"):
        return (int if kind == "int" else float)(text.replace("_", ""))
    return text
