"""Write docs/configuration.md from the fields of `mmaml.config.keys.Config`.

python scripts/document_configuration.py
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.config.keys import Config
from mmaml.config.value_types import Kind

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by scripts/document_configuration.py from mmaml/config/keys.py: edit that, then run the script. -->

A run is configured by a JSON object: a file given with `--config_file`, on which `--overrides '{"key": value}'`
and the flags `--dump_path`, `--restore_path`, `--te_save_path`, `--log_grad_norm` and `--resume` (`resume`: `"auto"`)
are laid, in this order. What none of them sets has the default below. A file may start from another one, named by its
path from the file's own folder:

```json
{
    "extends": "point_env_momentum_dense.json",
    "env": "MetaPointEnvMomentum6Modes"
}
```

Unknown keys, wrong types and values out of range are refused before anything starts. A key that has no effect
under the algorithm that runs is accepted with a notice, so that one file serves several algorithms. M tasks,
N rollouts per task, T time steps and K inner steps are the letters used throughout the code.

↻ marks the keys that may change when a run continues with `--restore_path`. Without `--dump_path` it continues in
its own directory, or in a new one from a checkpoint kept away from it, with the configuration it was started with;
other keys given then must agree with it.
"""


def page() -> str:
    """The whole page."""
    fields = dataclasses.fields(Config)
    groups = itertools.groupby(fields, key=lambda field: field.metadata["group"])
    return HEAD + "".join(table(group, list(members)) for group, members in groups)


def table(group: str, fields: list[dataclasses.Field]) -> str:
    """One group of keys."""
    rows = [
        f"\n## {group.capitalize()}\n",
        "| key | value | default | meaning |",
        "|---|---|---|---|",
        *(row(field) for field in fields),
    ]
    return "\n".join(rows) + "\n"


def row(field: dataclasses.Field) -> str:
    """One key."""
    kind: Kind = field.metadata["kind"]
    default = field.default if field.default is not dataclasses.MISSING else {}
    text = field.metadata["text"]
    if field.metadata["only"]:
        text += f" ({', '.join(field.metadata['only'])} only)"
    if field.metadata["without"]:
        text += f" (not {', '.join(field.metadata['without'])})"
    name = f"`{field.name}`" + (" ↻" if field.metadata["resumable"] else "")
    return f"| {name} | {kind.expected} | `{json.dumps(default)}` | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
