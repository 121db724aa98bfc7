"""What a process is set to when a run starts."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
from mmaml.process_settings import prepare_process
prepare_process()
import resource
import numpy as np
MEBIBYTES = 64
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(MEBIBYTES << 17)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose allocator is set")
def test_large_blocks_are_not_returned_to_the_kernel_and_faulted_in_again() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, *others = map(int, ended.stdout.split())
    assert first > 10 * max(others)  # each page once, and then none


PROGRAM_WITH_A_CYCLE = """
import gc
import sys
from mmaml.cli.main import main
gc.disable()  # but for the search at the end
class Cycle:
    def __del__(self):
        print("collected")
cycle = Cycle()
cycle.itself = cycle
del cycle
if "command" in sys.argv:
    main(["--version"])
"""


@pytest.mark.parametrize("words, is_collected", [(["command"], False), ([], True)])
def test_a_command_ends_without_a_search_for_unreachable_objects(words: list[str], is_collected: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM_WITH_A_CYCLE, *words], capture_output=True, text=True, check=True
    )
    assert ("collected" in ended.stdout) == is_collected
