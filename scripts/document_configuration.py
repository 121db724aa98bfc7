"""Write docs/configuration.md from the keys that are common to all algorithms and those that each declares.

python scripts/document_configuration.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.declaration import Key
from mmaml.config.declaration_file import declaration_of
from mmaml.config.keys import COMMON_KEYS, LEGACY, built_in_keys

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by scripts/document_configuration.py from mmaml/config/keys.py and the DECLARATION of each
     algorithm in mmaml/algorithms: edit these, then run the script. -->

The configuration of a run is a JSON object, or a YAML file (`.yml`, `.yaml`) of the same keys. Its keys come from five
places, of which a later one overrides an earlier one:

1. the defaults in the tables below;
2. the file, JSON or YAML (`.yml`, `.yaml`): the argument of `mmaml train CONFIG`, or `--config_file` of a run script;
3. `--overrides '{"key": value}'`;
4. keys written as `--key=value` or `key=value` ([how](runs.md#keys-on-the-command-line));
5. the flags `--algorithm`, `--dump_path`, `--restore_path`, `--te_save_path`, `--log_grad_norm` and `--resume`, which
   stands for `"resume": "auto"`.

A whole number may be written as `2.0` or `1e3`; paths may begin with `~` and hold variables ([paths](runs.md#paths)). A
file may build on another one, which it names by `"extends"`: by a path from the file's own folder, or by the name of a
configuration that comes with the package. Its own keys override those of the other.

```json
{
    "extends": "point_env_momentum_dense.json",
    "env": "MetaPointEnvMomentum6Modes"
}
```

- An unknown key, a wrong type or a value out of range stops the program before anything is done.
- A key that has no effect under the chosen algorithm is reported and ignored, so that one file serves several
  algorithms.
- An algorithm of your own may have more keys, which its file declares.
- A whole number may be written as `2.0` or `1e3`. A path may begin with `~` and hold variables
  ([paths](runs.md#paths)).
- Letters: M tasks, N rollouts of each task, T time steps, K inner steps. The code uses the same.
- ↻ marks the keys that may change when a run is continued with `--restore_path`. All other keys must have the values
  with which the run was started; those that are not given keep them. Without `--dump_path` the run continues in its own
  directory, or in a new one if the checkpoint is kept outside of it.
"""


def page() -> str:
    """The whole page."""
    keys = COMMON_KEYS | built_in_keys()
    groups = dict.fromkeys(key.group for key in keys.values() if key.group != LEGACY)
    return HEAD + "".join(
        table(group, {name: key for name, key in keys.items() if key.group == group}) for group in [*groups, LEGACY]
    )


def table(group: str, keys: dict[str, Key]) -> str:
    """One group of keys."""
    rows = [
        f"\n## {group.capitalize()}\n",
        "| key | value | default | meaning |",
        "|---|---|---|---|",
        *(row(name, key) for name, key in keys.items()),
    ]
    return "\n".join(rows) + "\n"


def row(name: str, key: Key) -> str:
    """One key."""
    title = f"`{name}`" + (" ↻" if key.resumable else "")
    return f"| {title} | {key.kind.expected} | `{json.dumps(key.default)}` | {key.text}{scope(name)} |"


def scope(name: str) -> str:
    """Under which algorithms a key has an effect, "" for all."""
    with_it = [
        algorithm
        for algorithm in ALGORITHMS
        if name in (*COMMON_KEYS, *declaration_of(algorithm).keys) and not declaration_of(algorithm).is_idle(name)
    ]
    without = [algorithm for algorithm in ALGORITHMS if algorithm not in with_it]
    if not without:
        return ""
    return f" (not {', '.join(without)})" if len(without) < len(with_it) else f" ({', '.join(with_it)} only)"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
