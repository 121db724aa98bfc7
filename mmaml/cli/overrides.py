"""Keys of the configuration on the command line: `--overrides`, as often as one likes, and `--key=value`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmaml.config.declaration import Key
from mmaml.config.keys import ALIASES, COMMON_KEYS, built_in_keys
from mmaml.config.loading import canonical, parse_object
from mmaml.config.value_types import FLAG, clipped
from mmaml.errors import UsageError

PYTHON_WORDS = {"True": True, "False": False, "None": None}
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
            values |= layer
    return values


def _layers(words: Sequence[str]) -> list[dict[str, Any]]:
    layers, started = [], ""
    for word in words:
        name, equals, text = word.partition("=")
        if not started and equals and name.isidentifier():
            layers.append(canonical({name: value_of(name, text)}, "overrides"))
            continue
        started = f"{started} {word}" if started else word
        if _is_json(started):
            layers.append(parse_object(started, "overrides"))
            started = ""
    if started and not started.lstrip().startswith("{"):
        expected = 'a JSON object {"key": value, …} or KEY=VALUE'
        raise UsageError("overrides", expected=expected, got=f"'{clipped(started)}'", remedy=_remedy(started))
    return [*layers, parse_object(started, "overrides")] if started else layers


def _remedy(text: str) -> str:
    return "" if "=" in text else "put CONFIG before --overrides"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def value_of(name: str, text: str) -> Any:
    """What a value of a key that is given as `text` stands for: JSON, else the text itself."""
    kind = COMMON_KEYS[name].kind if name in COMMON_KEYS else None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = PYTHON_WORDS.get(text, text)
    if kind is not None and not kind.accepts(value) and kind.accepts(text):
        return text
    return value


def split_keys(words: Sequence[str], flags: Mapping[str, bool]) -> tuple[list[str], dict[str, str]]:
    """The command line without the flags that are keys, and these: key -> its value as text, the last of several.

    flags: the command's own, which keep their meaning, abbreviated too; and whether they take a value.
    """
    rest: list[str] = []
    keys: dict[str, str] = {}
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        flag, equals, text = word.partition("=")
        following = words[index] if index < len(words) else None
        if flag == "--":
            return [*rest, word, *words[index:]], keys
        if not flag.startswith("--") or _is_own(flag, bool(equals), following, flags):
            rest.append(word)
            continue
        name = flag.removeprefix("--")
        if not equals:
            text, taken = _following(name, following, flags)
            index += taken
        keys[name] = text
    return rest, keys


def _is_own(flag: str, has_value: bool, following: str | None, flags: Mapping[str, bool]) -> bool:
    """Whether a word is a flag of the command, not one that sets a key."""
    if flag in flags:
        name = flag.removeprefix("--")
        takes_value = flags[flag] or name not in COMMON_KEYS
        return takes_value or not (has_value or following in _words_after(name))
    return any(own.startswith(flag) for own in flags)


def _following(name: str, following: str | None, flags: Collection[str]) -> tuple[str, int]:
    """The value of a key whose flag is a word without "=", and how many words it takes. Raises UsageError."""
    words = _words_after(name)
    if following is not None and (following in words or not (words or following.startswith("--"))):
        return following, 1
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
    if name in known or name in ALIASES:
        return
    near = difflib.get_close_matches(f"--{name}", [*flags, *(f"--{key}" for key in [*known, *ALIASES])], n=1)
    remedy = f"did you mean '{near[0]}'?" if near else "--help lists the flags, docs/configuration.md the keys"
    raise UsageError(clipped(f"--{name}"), "is no flag, and no key of the configuration", remedy)


def _known() -> dict[str, Key]:
    return COMMON_KEYS | built_in_keys()
