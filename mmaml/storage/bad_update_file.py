"""bad_update_*.pt: a meta-batch whose numbers ended a run, written so that it can be repeated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmaml.storage import checkpoint, files

FINDING, ROLLOUTS = "finding", "rollouts"


def write_dump(
    path: Path, state: Mapping[str, Any], finding: str, rollouts: Sequence[Mapping[str, Tensor]] | None
) -> None:
    """Write the state before an iteration, what was found in it, and what was sampled in it, if that is to be had.

    path: of the file, which appears whole or not at all. rollouts: the tensors of each collection. Raises OSError, with
    nothing left behind.
    """
    dump = {**state, FINDING: finding}
    if rollouts is not None:
        dump[ROLLOUTS] = [dict(collection) for collection in rollouts]
    folder = files.unfinished(path)
    try:
        os.replace(checkpoint.write(folder, state["iteration"], dump), path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
