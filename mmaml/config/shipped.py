"""The configurations that come with the package, by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmaml.errors import UsageError
from mmaml.paths import located
from mmaml.wording import did_you_mean

FOLDER = Path(__file__).parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Name, without ".json" -> file, in the order of the names."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.json"))}


def find_config(argument: str, text: str) -> Path:
    """The file that `text` names: a path, or the name of a configuration that comes with the package.

    argument: what the error calls it. Raises UsageError if there is neither, or for a variable that is not set.
    """
    configs = shipped_configs()
    path = Path(located(text, argument))
    if os.path.exists(path):
        return path
    if (name := text.removesuffix(".json")) in configs:
        return configs[name]
    if re.fullmatch(r"[\w-]+", text):
        raise UsageError(
            argument,
            expected="a file, or the name of a configuration that comes with the package",
            got=f"'{text}'",
            remedy=f"{did_you_mean(text, configs, '')} `mmaml configs` lists the names".lstrip(),
        )
    return path  # its reader says what is wrong with it
