"""bad_update_*.pt: a meta-batch whose numbers ended a run, written so that it can be repeated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmaml.storage import checkpoint, files

if TYPE_CHECKING:
    from mmaml.parallel.ranks import Ranks

from mmaml.meta_batch import by_collection

FINDING, ROLLOUTS = "finding", "rollouts"


def write_dump(path: Path, state: Mapping[str, Any], finding: str, ranks: Ranks | None) -> None:
    """Write the state before an iteration, what was wrong in it, and the rollouts of it that `ranks`, if given, hold.

    path: of the file, which is written whole or not at all; without rollouts if the ranks cannot send them. Raises
    OSError, with nothing left behind.
    """
    dump = {**state, FINDING: finding}
    if ranks is not None and ranks.places:
        with suppress(Exception):  # ranks may be lost here, and their tasks may fail when others sample them again
            fields = ranks.call("rollouts", (), subset=ranks.places)
            dump[ROLLOUTS] = [
                {name: torch.from_numpy(value) for name, value in collection.items()}
                for collection in by_collection(fields)
            ]
    folder = files.unfinished(path)
    try:
        os.replace(checkpoint.write(folder, state["iteration"], dump), path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
