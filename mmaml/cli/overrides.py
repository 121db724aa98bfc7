"""Keys of the configuration on the command line: `--overrides`, as often as one likes, `--key=value` and `key=value`.

As people type them, and as the launchers of sweeps write them: W&B `--key=value`, with Python's words and quotes, Hydra
`key=value`, and `key.part=value` for a part of an object.
"""

from __future__ import annotations

import ast
import json
import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmaml.cli.script import MANY
from mmaml.config import other_names
from mmaml.config.declaration import Key
from mmaml.config.keys import ALIASES, COMMON_KEYS, built_in_keys
from mmaml.config.loading import canonical, check_value, parse_object
from mmaml.config.value_types import FLAG, OBJECT, clipped
from mmaml.errors import UsageError
from mmaml.wording import did_you_mean

# KEY=VALUE or KEY.PART=VALUE, after which Hydra's + says that the key is a new one.
_ASSIGNMENT = re.compile(r"\+{0,2}([^\W\d]\w*(?:\.\w+)*)=(.*)", re.DOTALL)
BOOLEAN_WORDS = ("true", "false", "True", "False")
# What a key means whose flag is given without a value, and the values that may follow it as a word of their own: any
# other word is the next argument.
BARE = {"resume": ("auto", ("auto", "never"))}


def merged(groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Keys and values of all `--overrides`, the later over the earlier. groups: the words of each.

    A word is KEY=VALUE, or a JSON object, or part of one that the shell has split at its spaces.
    Raises UsageError.
    """
    values: dict[str, Any] = {}
    for words in groups:
        for layer in _layers(words):
            values = laid_over(values, layer)
    return values


def laid_over(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values with later ones, which win: a whole object over the parts of it that were given before."""
    return {name: value for name, value in values.items() if name.partition(".")[0] not in later} | dict(later)


def _layers(words: Sequence[str]) -> list[dict[str, Any]]:
    layers, started = [], ""
    for word in words:
        if not started and (assigned := _ASSIGNMENT.fullmatch(word)):
            layers.append(canonical({assigned[1]: value_of(assigned[1], assigned[2])}, "overrides"))
            continue
        started = f"{started} {word}" if started else word
        if _is_json(started):
            layers.append(parse_object(started, "overrides"))
            started = ""
    if started and not started.lstrip().startswith("{"):
        expected = 'a JSON object {"key": value, …} or KEY=VALUE'
        remedy = "" if "=" in started else "put CONFIG before --overrides"
        raise UsageError("overrides", expected=expected, got=f"'{clipped(started)}'", remedy=remedy)
    return [*layers, parse_object(started, "overrides")] if started else layers


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def value_of(name: str, text: str) -> Any:
    """What a value of a key that is given as `text` stands for: JSON, or as Python writes it, else the text itself."""
    key = _known().get(name)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _python_value(text)
    return text if key is not None and not key.kind.accepts(value) and key.kind.accepts(text) else value


def _python_value(text: str) -> Any:
    """True, None, {'a': 1}, (1, 2), .5: what a program that prints its values writes; else the text."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes and the like: the text is not our code
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    is_sweep = isinstance(value, tuple) and not text.lstrip().startswith("(")  # 1,2,3, not yet split
    return text if is_sweep or isinstance(value, complex | bytes | set) or value is ... else value


def split_keys(words: Sequence[str], flags: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
    """The command line without the keys that it sets, and these: key -> its value as text, the last of several.

    flags: the command's own, which keep their meaning, abbreviated too; and how many words follow each. Arguments
    without a flag come first in what is returned, so that they follow no flag that takes many words.
    """
    arguments: list[str] = []
    flagged: list[str] = []
    keys: dict[str, str] = {}
    index = 0
    while index < len(words):
        word, following = words[index], words[index + 1 : index + 2]
        index += 1
        flag, equals, text = word.partition("=")
        if flag == "--":
            return [*arguments, *flagged, word, *words[index:]], keys
        if not word.startswith("-"):
            assigned = None if os.path.lexists(word) else _ASSIGNMENT.fullmatch(word)
            if assigned is None:
                arguments.append(word)
            else:
                keys = laid_over(keys, {assigned[1]: assigned[2]})
        elif not word.startswith("--") and flag not in flags:
            flagged.append(word)
        elif (own := _own(flag, bool(equals), following, flags)) is not None:
            end = index + (0 if equals else _count(words[index:], flags[own], flags))
            flagged += [word, *words[index:end]]
            index = end
        else:
            name = flag.removeprefix("--")
            if not equals:
                text, taken = _following(name, following, flags)
                index += taken
            keys = laid_over(keys, {name: text})
    return [*arguments, *flagged], keys


def _count(words: Sequence[str], wanted: int, flags: Collection[str]) -> int:
    """How many of the words after a flag are its values."""
    if wanted != MANY:
        return wanted
    return next((n for n, word in enumerate(words) if word.startswith("--") or word in flags), len(words))


def _own(flag: str, has_value: bool, following: Sequence[str], flags: Mapping[str, int]) -> str | None:
    """The flag of the command that a word is, abbreviated or not; None for one that sets a key."""
    name = flag.removeprefix("--")
    if flag in flags:
        sets_key = not flags[flag] and name in COMMON_KEYS and (has_value or {*following} & {*_words_after(name)})
        return None if sets_key else flag
    return None if name in _known() else next((own for own in flags if own.startswith(flag)), None)


def _following(name: str, following: Sequence[str], flags: Collection[str]) -> tuple[str, int]:
    """The value of a key whose flag is a word without "=", and how many words it takes. Raises UsageError."""
    words = _words_after(name)
    if following and (following[0] in words or not (words or following[0].startswith("--"))):
        return following[0], 1
    if words:
        return (BARE[name][0] if name in BARE else "true"), 0
    check_key(name, _known(), flags)
    raise UsageError(f"--{name}", expected="a value", got="nothing", remedy=f"give it as --{name}=VALUE")


def _words_after(name: str) -> Collection[str]:
    """The values that may follow the flag of a key that needs none; nothing for other keys."""
    if name in BARE:
        return BARE[name][1]
    key = _known().get(name)
    return BOOLEAN_WORDS if key is not None and key.kind is FLAG else ()


def check_key(name: str, known: Collection[str], flags: Collection[str]) -> None:
    """Raise UsageError for a flag that is neither one of the command's nor a key. known: the keys."""
    whole = name.partition(".")[0]
    if whole in known or whole in ALIASES:
        return
    own = [f"--{key}" for key in [*known, *ALIASES] if key not in other_names.IGNORED]
    hint = did_you_mean(f"--{whole}", [*flags, *own], "--help lists the flags, docs/configuration.md the keys")
    remedy = other_names.remedy(name, known) or hint
    raise UsageError(clipped(f"--{name}"), "is neither a flag nor a key of the configuration", remedy)


def with_parts(values: Mapping[str, Any], before: Mapping[str, Any], known: Mapping[str, Key]) -> dict[str, Any]:
    """`values` with those of "key.part" put into the object that is the value of `key`.

    before: where `values` has none, the keys and values that they are laid over. known: the keys. Raises ConfigError.
    """
    whole = {name: value for name, value in values.items() if "." not in name}
    for name in (name for name in values if "." in name):
        key, *path, last = name.split(".")
        if key not in known or known[key].kind is not OBJECT:
            check_value(name, None, keys=known)
        whole.setdefault(key, before.get(key, known[key].default))
        check_value(key, whole[key], keys=known)
        whole[key] = inner = {**whole[key]}
        for part in path:
            inner[part] = inner = {**inner[part]} if isinstance(inner.get(part), dict) else {}
        inner[last] = values[name]
    return whole


def _known() -> dict[str, Key]:
    return COMMON_KEYS | built_in_keys()
