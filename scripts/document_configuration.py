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

A run is configured by a JSON object, or a YAML file (`.yml`, `.yaml`) of the same keys: the file of `mmaml train
CONFIG`, or of a run script's `--config_file`, on which
`--overrides`, then the keys given as `--key=value` or `key=value`, then the flags `--algorithm`, `--dump_path`,
`--restore_path`, `--te_save_path`, `--log_grad_norm` and `--resume` (`resume`: `"auto"`) are laid
([how they are written](runs.md#keys-on-the-command-line)). What none of them sets has the default below. A whole number
may be written as `2.0` or `1e3`; paths may begin with `~` and hold variables ([paths](runs.md#paths)). A file may start
from another one, by its path from the file's own folder, or by its name if it comes with the package:

```json
{
    "extends": "point_env_momentum_dense.json",
    "env": "MetaPointEnvMomentum6Modes"
}
```

Unknown keys, wrong types and values out of range are refused before anything starts. A key that has no effect
under the algorithm that runs is accepted with a notice, so that one file serves several algorithms. An algorithm of
your own may have further keys, which its file declares. M tasks, N rollouts per task, T time steps and K inner steps
are the letters used throughout the code.

↻ marks the keys that may change when a run continues with `--restore_path`. Without `--dump_path` it continues in
its own directory, or in a new one from a checkpoint kept away from it, with the configuration it was started with;
other keys given then must agree with it.
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
